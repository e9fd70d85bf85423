// Counts follow slice.cc, principal_axes.cc, structure.cc and structure_scores.cc.
#include "miq/compress/reshape_forecast.h"

#include <algorithm>
#include <cmath>

#include "miq/compress/dense.h"
#include "miq/compress/plan.h"
#include "miq/compress/slice.h"

namespace miq {
namespace {

std::uint64_t bytes(double count) { return static_cast<std::uint64_t>(std::llround(std::max(0.0, count))); }

struct Sizes {
  double weights = 0, largest = 0;       // of the decoder's linears: all, of the largest layer
  double attention = 0;                  // operations of a token's scores and mixing, all layers
  double output_inputs = 0, factor = 0;  // sums of n^2 and n^3 over the inputs of output matrices
  double widest = 0;                     // of them
  std::uint64_t element = 4;             // bytes of a stored weight
};

Sizes measure(const Model& model, std::int64_t seqlen) {
  Sizes sizes;
  const Architecture& table = architecture(model.config.architecture);
  for (std::int64_t l = 0; l < static_cast<std::int64_t>(model.config.layers.size()); ++l) {
    double layer = 0;
    for (const LayerTensor& tensor : layer_tensors(model.config, l)) {
      if (!tensor.linear()) continue;
      const double n = static_cast<double>(tensor.shape[1]);
      layer += static_cast<double>(tensor.shape[0]) * n;
      sizes.element = dtype_bytes(replacement_dtype(model.tensors.at(layer_tensor_name(table, l, tensor.name))));
      if (tensor.site() != InputSite::AttentionOutput && tensor.site() != InputSite::MlpOutput) continue;
      sizes.output_inputs += n * n;
      sizes.factor += n * n * n;
      sizes.widest = std::max(sizes.widest, n);
    }
    sizes.weights += layer;
    sizes.largest = std::max(sizes.largest, layer);
    const LayerConfig& config = model.config.layers[static_cast<std::size_t>(l)];
    sizes.attention += 2.0 * static_cast<double>(seqlen * config.heads * config.head_dim);
  }
  return sizes;
}

double seconds(double operations, double rate) { return rate > 0 ? operations / rate : 0; }

void add_slicing(const Model& model, const Recipe& recipe, const Rates& rates, double tokens, const Sizes& sizes, double forward,
                 Forecast& result) {
  const double n = static_cast<double>(model.config.hidden), places = 2 * static_cast<double>(result.layers) + 1;
  const Config sliced = sliced_config(model.config, recipe);
  double globals = 0;
  for (const ExpectedTensor& tensor : expected_tensors(sliced)) {
    double elements = 1;
    for (const std::int64_t size : tensor.shape) elements *= static_cast<double>(size);
    if (tensor.layer < 0) globals += elements;
  }
  result.output.values = bytes((static_cast<double>(count_elements(sliced, true)) - globals) * static_cast<double>(sizes.element));
  result.output.other = bytes(globals * static_cast<double>(sizes.element));
  result.output.exact = true;
  result.memory.hessians = bytes(6 * 8 * n * n);
  result.memory.layer = bytes(sizes.largest * 16);
  const double moments = places * tokens * n * n, eigen = places * 9 * n * n * n;
  result.parts.push_back({"axes", moments + eigen, seconds(moments + eigen, rates.factor)});
  result.parts.push_back({"layers", forward, seconds(forward, rates.forward)});
}

void add_removal(const Model& model, const Calibration& calibration, const Recipe& recipe, const Rates& rates, double tokens,
                 const Sizes& sizes, double forward, Forecast& result) {
  std::uint64_t all = 0;
  for (const auto& [name, tensor] : model.tensors) all += tensor.stored_bytes();
  const double kept = sizes.weights * (1 - recipe.sparsity), element = static_cast<double>(sizes.element);
  result.output.values = bytes(kept * element);
  for (std::int64_t l = 0; l < result.layers; ++l) {
    const Architecture& table = architecture(model.config.architecture);
    for (const LayerTensor& tensor : layer_tensors(model.config, l)) {
      if (tensor.linear()) all -= model.tensors.at(layer_tensor_name(table, l, tensor.name)).stored_bytes();
    }
  }
  result.output.other = all;
  if (recipe.removed_parts == RemovedParts::Layers) {
    result.parts.push_back({"layers", forward, seconds(forward, rates.forward)});
    return;
  }
  const double windows = static_cast<double>(calibration.windows.size());
  const double few = std::min<double>(windows, kSensitivityWindows) / std::max(1.0, windows);
  const double scores = forward * few * (recipe.removal_score == RemovalScore::Taylor ? 5 : 4);
  result.memory.plan = bytes(few * tokens * static_cast<double>(model.config.hidden) * (2 * static_cast<double>(result.layers) + 4));
  result.memory.layer = bytes(sizes.largest * 10);
  result.parts.push_back({"scores", scores, seconds(scores, rates.forward)});
  if (!recipe.compensate) return;
  const double sums = tokens * sizes.output_inputs, factors = 2 * sizes.factor;
  result.memory.hessians = bytes(sizes.widest * sizes.widest * (4 * 2 + 8 * 4));
  result.parts.push_back({"statistics", forward + sums, seconds(forward, rates.forward) + seconds(sums, rates.hessian)});
  result.parts.push_back({"fitting", factors, seconds(factors, rates.factor)});
  result.parts.push_back({"inputs of the next layers", forward, seconds(forward, rates.forward)});
}

}  // namespace

Forecast forecast_reshaping(const Model& model, const Calibration& calibration, const Recipe& recipe, const Rates& rates) {
  Forecast result;
  const Config& config = model.config;
  result.layers = static_cast<std::int64_t>(config.layers.size());
  for (const auto& [name, tensor] : model.tensors) result.weights += static_cast<std::uint64_t>(tensor.elements());
  const std::int64_t seqlen = calibration.windows.empty() ? 0 : static_cast<std::int64_t>(calibration.windows.front().size());
  const double tokens = static_cast<double>(calibration.windows.size()) * static_cast<double>(seqlen);
  const Sizes sizes = measure(model, seqlen);
  result.compressed_weights = bytes(sizes.weights);
  const double table = static_cast<double>(config.vocabulary) * static_cast<double>(embedding_width(config));
  result.memory.embedding = bytes(table * (recipe.method->solver == Solver::Slice ? 12 : 8));
  result.memory.activations = bytes(tokens * static_cast<double>(config.hidden) * 4);
  result.memory.inputs = bytes(std::min(tokens, 16384.0) * (2 * sizes.widest + 4 * static_cast<double>(config.hidden)) * 4);
  const double forward = tokens * (2 * sizes.weights + sizes.attention);
  recipe.method->solver == Solver::Slice ? add_slicing(model, recipe, rates, tokens, sizes, forward, result)
                                         : add_removal(model, calibration, recipe, rates, tokens, sizes, forward, result);
  result.memory.result = result.output.values;
  return result;
}

}  // namespace miq
