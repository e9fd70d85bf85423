// Counts follow the code that does the work: solve.cc, plan.cc, walk.cc and the sections of a packed matrix
// (formats/spec/miq.md). Only the rates are measured, on pieces of the size that the model has (at most 512).
#include "miq/compress/forecast.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <random>
#include <utility>

#include "miq/compress/hessian.h"
#include "miq/compress/plan.h"
#include "miq/compress/predicted_loss.h"
#include "miq/compress/reshape_forecast.h"
#include "miq/compress/solve.h"
#include "miq/compress/sweep.h"
#include "miq/compress/tune.h"
#include "miq/compress/walk.h"
#include "miq/compress/working_memory.h"
#include "miq/formats/packed_matrix.h"

namespace miq {
namespace {

// Of its own that a process takes with LibTorch loaded and a model open.
constexpr double kLibraryBytes = 64e6;

double rows_of(const LayerTensor& tensor) { return static_cast<double>(tensor.shape[0]); }
double cols_of(const LayerTensor& tensor) { return static_cast<double>(tensor.shape[1]); }
std::uint64_t bytes(double count) { return static_cast<std::uint64_t>(std::llround(std::max(0.0, count))); }

// Sums over one layer that both time and memory are made of.
struct LayerCounts {
  double weights = 0;        // linears
  double active = 0;         // weights that a token meets
  double attention = 0;      // operations of a token's scores and mixing
  double hessian = 0;        // sum of n^2 over distinct inputs, by the share of tokens
  double hessian_bytes = 0, largest_input = 0, factor = 0;  // factor: sum of n^3
  double input_widths = 0;   // sum of n over distinct inputs
  double sweep = 0;          // sum of rows n^2
  double largest_site = 0;   // weights that share an input
};

LayerCounts count_layer(const Config& config, std::int64_t layer, std::int64_t seqlen) {
  LayerCounts counts;
  std::map<InputPlace, std::pair<const LayerTensor*, double>> inputs;
  const std::vector<LayerTensor> tensors = layer_tensors(config, layer);
  for (const LayerTensor& tensor : tensors) {
    if (!tensor.linear()) continue;
    const double weights = rows_of(tensor) * cols_of(tensor);
    counts.weights += weights;
    counts.active += weights * token_share(config, layer, tensor);
    counts.sweep += weights * cols_of(tensor);
    auto& [first, sum] = inputs[tensor.place()];
    first = &tensor;
    sum += weights;
  }
  for (const auto& [place, site] : inputs) {
    const auto& [tensor, weights] = site;
    const double n = cols_of(*tensor), share = token_share(config, layer, *tensor);
    counts.hessian += n * n * share;
    counts.hessian_bytes += static_cast<double>(MomentSum::bytes(tensor->shape[1]));
    counts.largest_input = std::max(counts.largest_input, n);
    counts.factor += n * n * n;
    counts.input_widths += n * share;
    counts.largest_site = std::max(counts.largest_site, weights);
  }
  const LayerConfig& sizes = config.layers[static_cast<std::size_t>(layer)];
  counts.attention = 2.0 * static_cast<double>(seqlen * sizes.heads * sizes.head_dim);  // two products, half of them masked
  return counts;
}

double forward_operations(const LayerCounts& counts, double tokens) { return tokens * (2 * counts.active + counts.attention); }

template <typename Work>
double rate_of(double operations, const Work& work) {
  using Clock = std::chrono::steady_clock;
  double best = 0, spent = 0;
  for (int i = 0; i < 3 && spent < 0.1; ++i) {
    const auto start = Clock::now();
    work();
    const double seconds = std::max(1e-9, std::chrono::duration<double>(Clock::now() - start).count());
    best = std::max(best, operations / seconds);
    spent += seconds;
  }
  return best;
}

// Not LibTorch's generator: measuring must leave no trace in a run.
at::Tensor noise(std::int64_t rows, std::int64_t cols) {
  at::Tensor values = at::empty({rows, cols}, at::kFloat);
  std::minstd_rand random(1);
  float* to = values.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < rows * cols; ++i) to[i] = static_cast<float>(random() % 65536) / 32768.0f - 1;
  return values;
}

std::int64_t first_layer(const Config& config) {
  for (std::size_t l = 0; l < config.layers.size(); ++l) {
    if (!config.layers[l].identity) return static_cast<std::int64_t>(l);
  }
  return -1;
}

// Bits of one matrix in the order codes, scales, zeros, mask, groups; bytes of values where it is not quantized.
void add_matrix(const Recipe& recipe, const LayerTensor& tensor, const Tensor& stored, Forecast& forecast) {
  auto& output = forecast.output;
  const double rows = rows_of(tensor), cols = cols_of(tensor), weights = rows * cols;
  const double kept = weights * (1 - recipe.sparsity);
  const double mask = recipe.sparsity > 0 ? std::ceil(weights / 8) : 0;
  if (!recipe.quantize) {
    const double element = static_cast<double>(std::max<std::size_t>(2, std::min<std::size_t>(4, dtype_bytes(stored.dtype))));
    const double sparse = mask + kept * element;
    // encode_best() keeps what saves under 5 % dense.
    const bool dense = recipe.sparsity == 0 || sparse > 0.95 * weights * element;
    output.values += bytes(dense ? weights * element : kept * element);
    output.masks += bytes(dense ? 0 : mask);
    return;
  }
  double groups, width;
  if (recipe.method->layout == Layout::Uniform) {
    groups = static_cast<double>(recipe.groups(tensor.shape[1]));
    if (recipe.group_size == 0 && groups > 1) groups = std::ceil(cols / std::ceil(cols / groups));
    width = recipe.width;
  } else {
    groups = recipe.method->layout == Layout::Levels ? static_cast<double>(recipe.levels.size()) : static_cast<double>(recipe.groups(tensor.shape[1]));
    double mean = 0;
    for (int level : recipe.levels) mean += static_cast<double>(level) / static_cast<double>(recipe.levels.size());
    width = recipe.target.value_or(mean);
    if (recipe.target_bpw) {
      const double fixed = groups * rows * recipe.scale_bits + (recipe.codes_scales() ? rows * 8 : 0) + (mask + std::ceil(cols * group_index_bits(static_cast<std::int64_t>(groups)) / 8) + groups) * 8;
      width = std::max(0.0, (*recipe.target_bpw * weights - fixed) / (kept + groups * rows));
    }
  }
  const double scale = recipe.codes_scales() ? recipe.scale_bits / 8.0 : recipe.method->layout == Layout::Uniform && groups == 1 ? 4 : 2;
  output.codes += bytes(kept * width / 8);
  output.scales += bytes(std::ceil(groups * rows * scale) + (recipe.codes_scales() ? rows + 1 : 0));
  output.zeros += bytes(groups * std::ceil(rows * width / 8));
  output.masks += bytes(mask);
  output.groups += bytes(groups + (groups > 1 ? std::ceil(cols * group_index_bits(static_cast<std::int64_t>(groups)) / 8) : 0));
}

void count_memory(const Model& model, const Calibration& calibration, const Recipe& recipe, const Rates& rates, Forecast& forecast) {
  const Config& config = model.config;
  auto& memory = forecast.memory;
  const double element = recipe.compute == ComputeType::BFloat16 ? 2 : 4;
  const double windows = static_cast<double>(calibration.windows.size());
  const double seqlen = calibration.windows.empty() ? 0 : static_cast<double>(calibration.windows.front().size());
  const bool calibrated = needs_calibration(recipe), planned = recipe.method->layout == Layout::Groups;
  const double table = static_cast<double>(config.vocabulary) * static_cast<double>(embedding_width(config));
  memory.embedding = bytes(table * element * (config.tied_head ? 1 : 2));
  double layer = 0, hessians = 0, largest = 0, inputs = 0, buffers = 0;
  for (std::int64_t l = 0; l < forecast.layers; ++l) {
    const LayerCounts counts = count_layer(config, l, static_cast<std::int64_t>(seqlen));
    // Decoded and packed for the kernels, for the walk back transposed too; or of one input's matrices float32 weights, the solver's
    // copy, and codes.
    layer = std::max({layer, calibrated ? (planned ? 3 : 2) * counts.weights * element : 0, counts.largest_site * 14});
    const double n = counts.largest_input, tokens = static_cast<double>(std::max<std::int64_t>(1, observed_windows(
        config, l, static_cast<std::int64_t>(windows), static_cast<std::int64_t>(seqlen), static_cast<std::int64_t>(element), rates.threads))) * seqlen;
    hessians = std::max(hessians, counts.hessian_bytes);
    largest = std::max(largest, n);
    // One input's windows are packed for the products beside all that were seen.
    inputs = std::max(inputs, tokens * (counts.input_widths + n) * element);
    // A thread's window: the stream and what the linears make of it, float32; back through the layer about three times that.
    const double window = seqlen * (3 * static_cast<double>(config.hidden) + counts.input_widths) * 4;
    buffers = std::max(buffers, window * (planned ? 3 : 1));
  }
  // The gradient of the loss holds blocks of 128 positions' logits three times.
  const double logits = planned ? 128.0 * static_cast<double>(config.vocabulary) * 12 : 0;
  memory.process = bytes(kLibraryBytes + (calibrated ? rates.threads * std::max(buffers, logits) : 0));
  memory.layer = bytes(layer);
  memory.result = forecast.output.total() - forecast.output.other;
  const double state = seqlen * static_cast<double>(config.hidden);
  if (recipe.channel_scaling) memory.scaled = bytes(static_cast<double>(forecast.compressed_weights) * element);
  if (recipe.tune != Tune::None) {
    double widest = 0;  // what autograd keeps of a token, about
    for (const LayerConfig& sizes : config.layers) widest = std::max(widest, static_cast<double>(10 * config.hidden + 6 * sizes.mlp_width));
    const double moved = recipe.tune == Tune::Scales ? static_cast<double>(forecast.output.scales) / 2 : 0;
    memory.tuning = bytes(windows * state * element + kTuneBatch * (state * element * static_cast<double>(forecast.layers) + 4 * seqlen * widest) +
                          kTuneBatch * 4.0 * kTunePositions * static_cast<double>(config.vocabulary) * 4 + moved * 24);
  }
  if (!calibrated && !recipe.channel_scaling) return;
  if (needs_hessian(recipe)) {
    memory.hessians = bytes(hessians);
    memory.largest_hessian = MomentSum::bytes(static_cast<std::int64_t>(largest));
    memory.factor = bytes((4 + 3 * 8) * largest * largest);
  }
  // Between the stages of a layer also what its linears read.
  memory.activations = bytes(windows * (state * 4 + (recipe.true_sequential ? seqlen * largest * element : 0)));
  memory.inputs = bytes(inputs);
  if (planned) memory.plan = bytes(std::min<double>(windows, kSensitivityWindows) * state * (element * static_cast<double>(forecast.layers) + 4));
}

void count_time(const Model& model, const Calibration& calibration, const Recipe& recipe, const Rates& rates, Forecast& forecast) {
  const std::int64_t windows = static_cast<std::int64_t>(calibration.windows.size());
  const std::int64_t seqlen = windows ? static_cast<std::int64_t>(calibration.windows.front().size()) : 0;
  const double tokens = static_cast<double>(windows * seqlen);
  const auto share_of = [&](std::int64_t some) { return static_cast<double>(some) / static_cast<double>(std::max<std::int64_t>(1, windows)); };
  const double back = share_of(std::min(windows, kSensitivityWindows)), planned = share_of(plan_windows(model.config, windows, seqlen));
  double forward = 0, hessian = 0, factor = 0, sweep = 0, rounding = 0;
  for (std::int64_t l = 0; l < forecast.layers; ++l) {
    const LayerCounts counts = count_layer(model.config, l, seqlen);
    forward += forward_operations(counts, tokens);
    hessian += tokens * counts.hessian;
    factor += counts.factor * 4 / 3;
    sweep += counts.sweep;
    rounding += counts.weights * static_cast<double>(recipe.levels.size() * prediction_clips().size());
  }
  auto add = [&](const char* name, double operations, double seconds) {
    if (operations > 0) forecast.parts.push_back({name, operations, seconds});
  };
  auto seconds = [](double operations, double rate) { return rate > 0 ? operations / rate : 0; };
  const bool hessians = needs_hessian(recipe), calibrated = needs_calibration(recipe);
  if (recipe.channel_scaling) add("channel scales", forward, seconds(forward, rates.forward));
  if (recipe.method->layout == Layout::Groups) {
    const bool information = recipe.needs_information(), products = information || recipe.sparsity > 0;
    // Backwards: the layer again, and two products for each of its own.
    const double walks = forward * (planned + 3 * back), sums = products ? hessian * planned : 0;
    const double factors = (recipe.sparsity > 0 ? factor : 0) + (information ? 6 * factor : 0);  // eigenvectors cost about as much
    add("plan", walks + sums + factors + rounding,
        seconds(walks, rates.forward) + seconds(sums, rates.hessian) + seconds(factors, rates.factor) + seconds(rounding, rates.rounding));
  }
  if (calibrated) {
    const double sums = hessians ? hessian : 0;
    add("statistics", forward + sums, seconds(forward, rates.forward) + seconds(sums, rates.hessian));
  }
  if (hessians) {
    const double sweeps = sweep * (recipe.method->layout == Layout::Levels && recipe.sparsity > 0 ? 2 : 1);
    // A pass meets every pair of columns, the sweep half of them; what a pass does besides is about a third of the pairs.
    const double refining = sweep * recipe.refine * 1.3;
    add("solving", factor + sweeps + refining, seconds(factor, rates.factor) + seconds(sweeps + refining, rates.sweep));
  } else {
    // Decoding, packing and counting cost about ten times the rounding itself.
    const double operations = 10 * static_cast<double>(forecast.compressed_weights);
    add("rounding", operations, seconds(operations, rates.rounding));
  }
  if (calibrated && !recipe.true_sequential) add("inputs of the next layers", forward, seconds(forward, rates.forward));
  if (recipe.tune != Tune::None) {
    // Forward, and backward as the plan's; the gradients of weights are one product more. The head: both models' logits, and back.
    const double head = 6 * tokens * static_cast<double>(model.config.vocabulary) * static_cast<double>(model.config.hidden);
    const double operations = forward + recipe.tune_epochs * (forward * (recipe.tune == Tune::Norms ? 4 : 5) + head);
    add("tuning", operations, seconds(operations, rates.forward));
  }
}

}  // namespace

Rates measure_rates(const Model& model, std::int64_t seqlen, const Recipe& recipe, ThreadPool& pool) {
  Rates rates;
  rates.threads = pool.threads();
  const Config& config = model.config;
  const std::int64_t layer = first_layer(config);
  if (layer < 0) return rates;
  const std::int64_t n = std::min<std::int64_t>(config.hidden, 512), rows = 256;
  const auto flat = [&](std::int64_t cols) {
    std::vector<std::int64_t> order = natural_order(cols);
    ChannelGroups groups{order, std::vector<std::int32_t>(static_cast<std::size_t>(cols)), {0}};
    const std::int64_t size = std::max<std::int64_t>(1, std::min<std::int64_t>(64, cols));
    for (std::int64_t k = 0; k < cols; ++k) groups.group_of[static_cast<std::size_t>(k)] = static_cast<std::int32_t>(k / size);
    for (std::int64_t start = size; start < cols; start += size) groups.starts.push_back(start);
    groups.starts.push_back(cols);
    return groups;
  };
  const at::Tensor weights = noise(rows, n);
  const bool planned = recipe.method->layout == Layout::Groups;
  if (planned || !needs_hessian(recipe)) {
    const std::vector<int> levels = recipe.levels.empty() ? std::vector<int>{4} : recipe.levels;
    rates.rounding = rate_of(static_cast<double>(rows * n) * static_cast<double>(levels.size() * prediction_clips().size()),
                             [&] { column_errors(weights, flat(n), {}, pool, levels); });
  }
  if (!needs_calibration(recipe) && recipe.tune == Tune::None && !recipe.channel_scaling) return rates;

  const std::int64_t tokens = std::min<std::int64_t>(seqlen, 256), threads = pool.threads();
  const LayerCounts counts = count_layer(config, layer, tokens);
  const ForwardPass forward(model, recipe.compute);
  const LayerWeights first = forward.load_layer(layer);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(static_cast<std::int64_t>(i * 7919) % config.vocabulary);
  const at::Tensor hidden = forward.embed(ids);
  rates.forward = rate_of(forward_operations(counts, static_cast<double>(tokens * threads)),
                          [&] { pool.for_each(threads, [&](std::int64_t) { forward.run_layer(first, hidden); }); });
  if (!needs_hessian(recipe) && !reshapes(*recipe.method)) return rates;

  std::vector<at::Tensor> inputs;
  for (std::int64_t t = 0; t < 2 * threads; ++t) inputs.push_back(noise(256, n).to(forward.type() == ComputeType::BFloat16 ? at::kBFloat16 : at::kFloat));
  HessianSum sum(n);
  rates.hessian = rate_of(static_cast<double>(256 * 2 * threads * n) * static_cast<double>(n), [&] { sum.add(inputs, pool); });
  const double cube = std::pow(static_cast<double>(n), 3);
  const at::Tensor mean = sum.mean();
  std::optional<InverseFactor> factor;
  rates.factor = rate_of(cube * 4 / 3, [&] { factor = factor_inverse(mean, natural_order(n), {}, pool); });
  if (!factor || reshapes(*recipe.method)) return rates;
  SweepMatrix matrix;
  matrix.weights = weights;
  SweepOptions options;
  if (recipe.sparsity > 0) options.pruning = {Pruning::Kind::Block, recipe.sparsity, 0, 0};
  if (recipe.quantize) matrix.groups = contiguous_groups(n, recipe.method->layout == Layout::Uniform ? recipe.group_size : 64, 4);
  if (planned) {
    options.clips = solving_clips();
    options.timing = GridTiming::Dynamic;
  }
  rates.sweep = rate_of(static_cast<double>(rows * n) * static_cast<double>(n), [&] { sweep({&matrix, 1}, *factor, options, pool); });
  return rates;
}

double Forecast::seconds() const {
  double sum = 0;
  for (const Part& part : parts) sum += part.seconds;
  return sum;
}

Forecast forecast(const Model& model, const Calibration& calibration, const Recipe& recipe, const Rates& rates) {
  if (reshapes(*recipe.method)) return forecast_reshaping(model, calibration, recipe, rates);
  Forecast result;
  result.layers = static_cast<std::int64_t>(model.config.layers.size());
  const Architecture& table = architecture(model.config.architecture);
  std::uint64_t replaced = 0, all = 0;
  for (std::int64_t l = 0; l < result.layers; ++l) {
    for (const LayerTensor& tensor : layer_tensors(model.config, l)) {
      if (!tensor.linear()) continue;
      const Tensor& stored = model.tensors.at(layer_tensor_name(table, l, tensor.name));
      replaced += stored.stored_bytes();
      result.compressed_weights += static_cast<std::uint64_t>(stored.elements());
      add_matrix(recipe, tensor, stored, result);
    }
  }
  for (const auto& [name, tensor] : model.tensors) {
    result.weights += static_cast<std::uint64_t>(tensor.elements());
    all += tensor.stored_bytes();
  }
  result.output.other = all - replaced;
  result.output.exact = recipe.sparsity == 0 && recipe.method->layout == Layout::Uniform;
  count_memory(model, calibration, recipe, rates, result);
  // Two slots of hidden states, and for a plan two of gradients.
  const double back = calibration.windows.empty() ? 0 : static_cast<double>(std::min<std::size_t>(calibration.windows.size(), kSensitivityWindows)) / static_cast<double>(calibration.windows.size());
  const double slots = 2 + (recipe.method->layout == Layout::Groups ? 2 * back : 0);
  const std::size_t tokens = calibration.windows.empty() ? 0 : calibration.windows.size() * calibration.windows.front().size();
  const double states = 4 * static_cast<double>(tokens) * static_cast<double>(model.config.hidden);
  result.journal_bytes = result.memory.result + (result.layers > 1 ? bytes(slots * states) : 0);
  count_time(model, calibration, recipe, rates, result);
  return result;
}

}  // namespace miq
