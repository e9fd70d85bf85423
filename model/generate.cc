// Products of a step, and attention, are cut into tiles of rows and heads that the threads share. With few tokens they are
// row_product.h's, bound by memory; a prompt's go through LibTorch, tile by tile.
#include "miq/model/generate.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <array>
#include <set>

#include "miq/base/error.h"
#include "miq/model/decoder.h"
#include "miq/model/device.h"
#include "miq/model/row_product.h"

namespace miq {
namespace {

constexpr std::int64_t kFewRows = 8;         // up to here a prompt's products are bound by memory too
constexpr std::int64_t kTileBytes = 1 << 16; // of weights, for few rows
constexpr std::int64_t kTileOutputs = 192;   // for many
constexpr std::int64_t kPromptBlock = 512;   // tokens of a prompt that go through the layers at once

// Tiles of several matrices, numbered through.
struct Tile {
  std::size_t matrix;
  std::int64_t begin, end;
};

std::vector<Tile> tiles_of(std::span<const at::Tensor> matrices, bool few) {
  std::vector<Tile> tiles;
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    const std::int64_t out = matrices[m].size(0), row_bytes = matrices[m].size(1) * matrices[m].element_size();
    const std::int64_t height = few ? std::max<std::int64_t>(16, kTileBytes / std::max<std::int64_t>(1, row_bytes)) : kTileOutputs;
    for (std::int64_t begin = 0; begin < out; begin += height) tiles.push_back({m, begin, std::min(out, begin + height)});
  }
  return tiles;
}

void few_rows(const at::Tensor& x, const at::Tensor& matrix, const Tile& tile, at::Tensor& to) {
  const std::int64_t in = matrix.size(1), out = matrix.size(0);
  float* y = to.data_ptr<float>() + tile.begin;
  const auto product = [&](const auto* w) {
    row_products(x.const_data_ptr<float>(), in, x.size(0), w + tile.begin * in, in, tile.end - tile.begin, y, out);
  };
  if (matrix.scalar_type() == at::kFloat) {
    product(matrix.const_data_ptr<float>());
  } else {
    product(reinterpret_cast<const Bf16*>(matrix.const_data_ptr<at::BFloat16>()));
  }
}

// x [rows, in] times transposed matrices, float32 or bfloat16, contiguous: float32 results for few rows, the matrices' type else.
std::vector<at::Tensor> multiply(const at::Tensor& x, std::span<const at::Tensor> matrices, bool few, ThreadPool& pool) {
  std::vector<at::Tensor> outputs;
  for (const at::Tensor& matrix : matrices) outputs.push_back(at::empty({x.size(0), matrix.size(0)}, few ? at::kFloat : matrix.scalar_type()));
  const std::vector<Tile> tiles = tiles_of(matrices, few);
  const at::Tensor input = few ? x.to(at::kFloat).contiguous() : x;
  pool.for_each(static_cast<std::int64_t>(tiles.size()), [&](std::int64_t unit) {
    const Tile& tile = tiles[static_cast<std::size_t>(unit)];
    const at::Tensor& matrix = matrices[tile.matrix];
    if (few) {
      few_rows(input, matrix, tile, outputs[tile.matrix]);
      return;
    }
    use_single_threaded_torch();
    const at::NoGradGuard no_grad;
    const std::int64_t count = tile.end - tile.begin;
    outputs[tile.matrix].narrow(1, tile.begin, count).copy_(at::linear(input, matrix.narrow(0, tile.begin, count)));
  });
  return outputs;
}

}  // namespace

// What decode_layer() asks for, in one layer.
class Generator::Steps : public LayerSteps {
 public:
  // `together`: the rows belong to different sequences. Else they follow each other in one.
  Steps(const Config& config, std::span<const Row> rows, bool together, bool by_torch, std::span<const PackedProducts> packed, ThreadPool& pool)
      : config_(config), rows_(rows), together_(together), by_torch_(by_torch), packed_(packed), pool_(pool) {}

  void enter(std::size_t layer) { layer_ = layer; }

  std::vector<at::Tensor> products(const at::Tensor& x, std::span<const at::Tensor> matrices) override {
    if (by_torch_) return packed_[layer_].products(x, matrices);
    // Rows of different sequences meet one kernel, however many they are.
    std::vector<at::Tensor> outputs = multiply(x, matrices, together_ || x.size(0) <= kFewRows, pool_);
    for (std::size_t i = 0; i < outputs.size(); ++i) outputs[i] = outputs[i].to(matrices[i].scalar_type());
    return outputs;
  }

  at::Tensor attend(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values) override {
    const std::int64_t tokens = queries.size(1);
    if (by_torch_) return attend_by_torch(queries, keys, values);
    if (together_ || tokens <= kFewRows) return attend_each(queries, keys, values);
    const LayerConfig& sizes = config_.layers[layer_];
    Row first = rows_.front();
    first.sequence->cache.store_all(layer_, first.position, keys, values);
    at::Tensor mixed = at::empty({tokens, sizes.heads, sizes.head_dim}, queries.scalar_type());
    const std::int64_t shared = sizes.heads / sizes.kv_heads;
    pool_.for_each(sizes.kv_heads, [&](std::int64_t head) {
      use_single_threaded_torch();
      const at::NoGradGuard no_grad;
      const at::Tensor part = first.sequence->cache.attend_all(layer_, sizes, first.position, head, queries.narrow(0, head * shared, shared));
      mixed.narrow(1, head * shared, shared).copy_(part.transpose(0, 1));
    });
    return mixed.view({tokens, sizes.heads * sizes.head_dim});
  }

 private:
  at::Tensor attend_by_torch(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values) {
    const LayerConfig& sizes = config_.layers[layer_];
    const std::int64_t tokens = queries.size(1), at_once = together_ ? 1 : tokens;
    std::vector<at::Tensor> mixed;  // [heads, tokens, head_dim]
    for (std::int64_t row = 0; row < tokens; row += at_once) {
      const Row& token = rows_[static_cast<std::size_t>(row)];
      token.sequence->cache.store_all(layer_, token.position, keys.narrow(1, row, at_once), values.narrow(1, row, at_once));
      mixed.push_back(token.sequence->cache.attend_heads(layer_, sizes, token.position, queries.narrow(1, row, at_once)));
    }
    return at::cat(mixed, 1).transpose(0, 1).reshape({tokens, sizes.heads * sizes.head_dim});
  }

  at::Tensor attend_each(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values) {
    const LayerConfig& sizes = config_.layers[layer_];
    const auto tokens = static_cast<std::int64_t>(rows_.size());
    for (std::int64_t row = 0; row < tokens; ++row) {
      const Row& token = rows_[static_cast<std::size_t>(row)];
      token.sequence->cache.store(layer_, token.position, keys.select(1, row), values.select(1, row));
    }
    const at::Tensor q = queries.transpose(0, 1).to(at::kFloat).contiguous();  // [tokens, heads, head_dim]
    const at::Tensor mixed = at::empty_like(q);
    const std::int64_t part = sizes.heads / sizes.kv_heads * sizes.head_dim;
    pool_.for_each(tokens * sizes.kv_heads, [&](std::int64_t unit) {
      const Row& token = rows_[static_cast<std::size_t>(unit / sizes.kv_heads)];
      token.sequence->cache.attend(layer_, sizes, token.position, unit % sizes.kv_heads, q.const_data_ptr<float>() + unit * part,
                                   mixed.data_ptr<float>() + unit * part);
    });
    return mixed.view({tokens, sizes.heads * sizes.head_dim}).to(queries.scalar_type());
  }

  const Config& config_;
  std::span<const Row> rows_;
  bool together_, by_torch_;
  std::span<const PackedProducts> packed_;
  ThreadPool& pool_;
  std::size_t layer_ = 0;
};

Generator::Generator(const Model& model, ComputeType type, ThreadPool& pool, at::Device device, Kernels kernels, const MiqCudaTable* packed)
    : model_(model), pool_(pool), type_(type), device_(device) {
  pass_ = std::make_unique<ForwardPass>(model, type, kernels == Kernels::Device ? kernels : Kernels::Portable, device, packed);
  rope_ = std::make_unique<RopeTables>(model.config, device);
  layers_.resize(model.config.layers.size());
  step_layers_.resize(layers_.size());
  const Architecture& rules = architecture(model.config.architecture);
  packed_.assign(layers_.size(), PackedProducts(pass_->device_form() ? packed : nullptr, device));
  pool.for_each(static_cast<std::int64_t>(layers_.size()), [&](std::int64_t unit) {
    use_single_threaded_torch();
    const at::NoGradGuard no_grad;
    LayerWeights& layer = layers_[static_cast<std::size_t>(unit)] = pass_->load_layer(unit);
    for (auto& [name, tensor] : layer.tensors) tensor = tensor.contiguous();
    if (model.config.sliced) {
      for (const Role role : {Role::AttentionRotation, Role::MlpRotation}) {  // kept the way round that products read them
        const auto found = layer.tensors.find(rule_name(rules, role));
        if (found != layer.tensors.end()) found->second = found->second.t().contiguous().t();
      }
    }
    if (!pass_->device_form() && StepLayer::supports(model.config, model.config.layers[static_cast<std::size_t>(unit)]))
      step_layers_[static_cast<std::size_t>(unit)] = std::make_unique<const StepLayer>(model.config, layer);
  });
  if (packed && pass_->device_form()) add_packed();
}

// All decoded weights lie there first. What room is left takes packed ones, but for an eighth of the memory, where keys and values go.
void Generator::add_packed() {
  const Architecture& rules = architecture(model_.config.architecture);
  pool_.for_each(static_cast<std::int64_t>(layers_.size()), [&](std::int64_t unit) {
    const auto layer = static_cast<std::size_t>(unit);
    if (const DeviceMemory memory = device_memory(device_); memory.total > 0 && memory.free < memory.total / 8) return;
    for (const LayerTensor& tensor : layer_tensors(model_.config, unit)) {
      if (!tensor.linear()) continue;
      const std::string name = layer_tensor_name(rules, unit, tensor.name);
      packed_[layer].add(model_.tensors.at(name), name, layers_[layer].tensor(tensor.name));
    }
  });
}

Generator::~Generator() = default;

std::int64_t Generator::packed_matrices() const {
  std::size_t count = 0;
  for (const PackedProducts& layer : packed_) count += layer.count();
  return static_cast<std::int64_t>(count);
}

std::uint64_t Generator::weight_bytes() const {
  std::uint64_t bytes = 0;
  for (const LayerWeights& layer : layers_) {
    for (const auto& [name, tensor] : layer.tensors) bytes += static_cast<std::uint64_t>(tensor.nbytes());
  }
  for (const PackedProducts& layer : packed_) bytes += layer.bytes();
  return bytes + pass_->global_bytes();
}

Generator::Sequence Generator::start(std::int64_t capacity) const { return {{}, KvCache(model_.config, type_, capacity, device_)}; }

bool Generator::turns(std::int64_t before, std::int64_t after) const {
  if (model_.config.positions != Positions::Rotary || before == 0) return false;
  return std::any_of(model_.config.layers.begin(), model_.config.layers.end(), [&](const LayerConfig& sizes) {
    const auto base = [&](std::int64_t tokens) { return rope_base(sizes.head_dim, model_.config.rope_theta, model_.config.rope_scaling, tokens); };
    return !sizes.identity && base(before) != base(after);
  });
}

RopeTable Generator::rope_rows(std::span<const Row> rows, std::int64_t head_dim, std::int64_t length) const {
  if (model_.config.positions != Positions::Rotary) return {};
  // Where the length does not matter, one table for all: as long as any sequence may grow.
  const bool dynamic = model_.config.rope_scaling.kind == RopeScaling::Kind::Dynamic || model_.config.rope_scaling.kind == RopeScaling::Kind::QwenDynamic;
  std::vector<at::Tensor> cosines, sines, factors;
  const auto add = [&](std::int64_t tokens, std::int64_t first, std::int64_t count) {
    const RopeTable table = rope_->table(head_dim, tokens);
    cosines.push_back(table.cosines.narrow(0, first, count));
    sines.push_back(table.sines.narrow(0, first, count));
    factors.push_back(table.query_factors.defined() ? table.query_factors.narrow(0, first, count) : at::Tensor());
  };
  if (length > 0) {
    add(dynamic ? length : std::max(length, rows.front().sequence->cache.capacity()), rows.front().position, static_cast<std::int64_t>(rows.size()));
  } else {
    for (const Row& row : rows) add(dynamic ? row.position + 1 : row.sequence->cache.capacity(), row.position, 1);
  }
  const bool scaled = std::any_of(factors.begin(), factors.end(), [](const at::Tensor& t) { return t.defined(); });
  if (cosines.size() == 1) return {cosines[0], sines[0], factors[0]};
  for (at::Tensor& factor : factors) {
    if (scaled && !factor.defined()) factor = at::ones({1, 1}, at::TensorOptions(device_));
  }
  return {at::cat(cosines), at::cat(sines), scaled ? at::cat(factors) : at::Tensor()};
}

// Hidden states behind the last layer. `length`: of the text that all rows are part of, 0 where they are not of one.
at::Tensor Generator::run(std::span<const Row> rows, std::int64_t length, bool together) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> embedded;
  const std::size_t at_once = together && model_.config.embedding > 0 ? 1 : rows.size();  // a projection of several rows sums otherwise than of one
  for (std::size_t begin = 0; begin < rows.size(); begin += at_once) {
    std::vector<std::int32_t> ids;
    std::vector<std::int64_t> positions;
    for (const Row& row : rows.subspan(begin, std::min(at_once, rows.size() - begin))) ids.push_back(row.id), positions.push_back(row.position);
    embedded.push_back(pass_->embed(ids, positions));
  }
  at::Tensor hidden = (embedded.size() == 1 ? embedded[0] : at::cat(embedded)).to(at::kFloat).contiguous();
  Steps steps(model_.config, rows, together, pass_->device_form(), packed_, pool_);
  std::map<std::int64_t, RopeTable> ropes;
  std::vector<StepRow> step_rows;
  for (const Row& row : rows) step_rows.push_back({&row.sequence->cache, row.position});
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    const LayerConfig& sizes = model_.config.layers[layer];
    if (sizes.identity) continue;
    if (!ropes.contains(sizes.head_dim)) ropes[sizes.head_dim] = rope_rows(rows, sizes.head_dim, length);
    if (step_layers_[layer] && (together || static_cast<std::int64_t>(rows.size()) <= kFewRows)) {
      const std::int64_t width = output_width(model_.config, sizes);
      const at::Tensor output = width == hidden.size(1) ? hidden : at::empty({hidden.size(0), width}, at::kFloat);
      step_layers_[layer]->run(step_rows, ropes[sizes.head_dim], hidden.const_data_ptr<float>(), output.data_ptr<float>(), pool_);
      hidden = output;
      continue;
    }
    steps.enter(layer);
    const LayerContext context{model_.config, sizes, type_, ropes[sizes.head_dim], nullptr, &steps, pass_->device_form()};
    hidden = decode_layer(context, layers_[layer], hidden, {}, {});
  }
  return hidden;
}

at::Tensor Generator::logits(const at::Tensor& hidden) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  if (pass_->device_form()) return pass_->logits(hidden).to(at::kCPU);
  std::vector<at::Tensor> rows;
  for (std::int64_t row = 0; row < hidden.size(0); ++row) rows.push_back(pass_->head_input(hidden.narrow(0, row, 1)));
  const at::Tensor z = multiply(at::cat(rows), std::array{pass_->head().contiguous()}, true, pool_).front();
  return pass_->head_bias().defined() ? z + pass_->head_bias() : z;
}

// Tokens `ids` of a sequence at positions first …: hidden state of the last, [1, width].
at::Tensor Generator::run_sequence(Sequence& sequence, std::span<const std::int32_t> ids, std::int64_t first) const {
  const auto length = first + static_cast<std::int64_t>(ids.size());
  at::Tensor last;
  for (std::size_t begin = 0; begin < ids.size(); begin += kPromptBlock) {
    std::vector<Row> rows;
    for (const std::int32_t id : ids.subspan(begin, std::min<std::size_t>(kPromptBlock, ids.size() - begin))) {
      rows.push_back({&sequence, first + static_cast<std::int64_t>(begin + rows.size()), id});
    }
    const at::Tensor hidden = run(rows, length, false);
    last = hidden.narrow(0, hidden.size(0) - 1, 1);
  }
  return last;
}

at::Tensor Generator::extend(Sequence& sequence, std::span<const std::int32_t> ids) const {
  const auto before = static_cast<std::int64_t>(sequence.ids.size()), after = before + static_cast<std::int64_t>(ids.size());
  if (ids.empty()) throw Error("extend: no tokens");
  if (after > sequence.cache.capacity()) {
    throw Error("a sequence with room for " + std::to_string(sequence.cache.capacity()) + " tokens cannot take " + std::to_string(after));
  }
  std::vector<std::int32_t> all = sequence.ids;
  all.insert(all.end(), ids.begin(), ids.end());
  const bool anew = turns(before, after);
  const at::Tensor hidden = anew ? run_sequence(sequence, all, 0) : run_sequence(sequence, ids, before);
  sequence.ids = std::move(all);
  return logits(hidden).squeeze(0);
}

at::Tensor Generator::step(std::span<Sequence* const> sequences, std::span<const std::int32_t> ids) const {
  if (sequences.size() != ids.size() || ids.empty()) throw Error("step: sequences and tokens differ in number");
  std::vector<at::Tensor> results(sequences.size());
  std::vector<Row> rows;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const auto before = static_cast<std::int64_t>(sequences[i]->ids.size());
    if (before >= sequences[i]->cache.capacity()) {
      throw Error("a sequence with room for " + std::to_string(sequences[i]->cache.capacity()) + " tokens is full");
    }
    if (turns(before, before + 1)) {
      results[i] = extend(*sequences[i], ids.subspan(i, 1));
    } else {
      rows.push_back({sequences[i], before, ids[i]});
      places.push_back(i);
    }
  }
  if (!rows.empty()) {
    const at::Tensor made = logits(run(rows, 0, true));
    for (std::size_t i = 0; i < places.size(); ++i) {
      sequences[places[i]]->ids.push_back(rows[i].id);
      results[places[i]] = made.select(0, static_cast<std::int64_t>(i));
    }
    if (rows.size() == sequences.size()) return made;
  }
  return at::stack(results);
}

std::vector<std::int32_t> end_ids(const Model& model) {
  std::set<std::int32_t> ids;
  if (model.config.eos_id) ids.insert(static_cast<std::int32_t>(*model.config.eos_id));
  const auto file = model.files.find("generation_config.json");
  if (file == model.files.end()) return {ids.begin(), ids.end()};
  const Json settings = parse_json(file->second.text(), "generation_config.json");
  if (!settings.is_object() || !settings.contains("eos_token_id")) return {ids.begin(), ids.end()};
  const Json& stated = settings.at("eos_token_id");
  for (const Json& id : stated.is_array() ? stated : Json::array({stated})) {
    if (id.is_number_integer() && id >= 0 && id < model.config.vocabulary) ids.insert(id.get<std::int32_t>());
  }
  return {ids.begin(), ids.end()};
}

std::vector<std::vector<std::int32_t>> generate(const Generator& generator, std::span<const std::vector<std::int32_t>> prompts,
                                                const GenerateOptions& options, const std::function<void(std::size_t, std::int32_t)>& on_token) {
  const std::int64_t most = generator.model().config.max_positions;
  for (const std::vector<std::int32_t>& prompt : prompts) {
    if (prompt.empty()) throw Error("the prompt has no tokens; write at least one word");
    if (static_cast<std::int64_t>(prompt.size()) >= most) {
      throw Error("the prompt has " + std::to_string(prompt.size()) + " tokens, but the model ends at " + std::to_string(most) +
                  " with what it generates; shorten the prompt");
    }
  }
  std::vector<std::vector<std::int32_t>> made(prompts.size());
  if (options.max_new_tokens < 1) return made;
  std::vector<Generator::Sequence> sequences;
  std::vector<Sampler> samplers;
  std::vector<std::size_t> running;
  std::vector<std::int32_t> chosen(prompts.size());
  // Whether the sequence goes on.
  const auto take = [&](std::size_t i, const at::Tensor& logits) {
    const std::int32_t id = samplers[i].choose({logits.const_data_ptr<float>(), static_cast<std::size_t>(logits.numel())});
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) return false;
    made[i].push_back(chosen[i] = id);
    if (on_token) on_token(i, id);
    return static_cast<std::int64_t>(made[i].size()) < options.max_new_tokens && static_cast<std::int64_t>(prompts[i].size() + made[i].size()) < most;
  };
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto length = static_cast<std::int64_t>(prompts[i].size());
    sequences.push_back(generator.start(length + std::min(options.max_new_tokens, most - length)));
    samplers.emplace_back(options.sampling, i);
    if (take(i, generator.extend(sequences[i], prompts[i]))) running.push_back(i);
  }
  while (!running.empty()) {
    std::vector<Generator::Sequence*> live;
    std::vector<std::int32_t> ids;
    for (const std::size_t i : running) live.push_back(&sequences[i]), ids.push_back(chosen[i]);
    const at::Tensor logits = generator.step(live, ids);
    std::vector<std::size_t> left;
    for (std::size_t row = 0; row < running.size(); ++row) {
      if (take(running[row], logits.select(0, static_cast<std::int64_t>(row)).contiguous())) left.push_back(running[row]);
    }
    running = std::move(left);
  }
  return made;
}

}  // namespace miq
