// With y = W norm(x) + b and norm(x) = gamma (x - mean) / rms + beta: W' = W gamma, b' = b + W beta. A matrix that writes to the stream
// loses the mean over its rows, so that the stream's mean is zero and x - mean is x.
#include "miq/compress/slice_fuse.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>

#include "miq/base/error.h"
#include "miq/compress/dense.h"
#include "miq/model/forward.h"

namespace miq {
namespace {

constexpr double kEpsilon = 1e-5;      // slicegpt/modules.py, RMSN
constexpr std::int64_t kBlock = 2048;  // rows of a table that are changed at once

bool centres(const Config& config) { return config.norm == NormKind::Layer; }

at::Tensor read(const Model& model, const std::string& name) { return to_torch(model.tensors.at(name), name, at::kDouble); }

// The tensor of a layer with this role; undefined where the model has none.
at::Tensor find(const Model& model, std::int64_t layer, Role role, bool bias) {
  const Architecture& table = architecture(model.config.architecture);
  const std::string_view rule = rule_name(table, role, bias);
  const std::string name = rule.empty() ? "" : layer_tensor_name(table, layer, rule);
  return model.tensors.contains(name) ? read(model, name) : at::Tensor();
}

at::Tensor global(const Model& model, Role role, bool bias = false) {
  const std::string name(global_name(architecture(model.config.architecture), role, bias));
  return model.tensors.contains(name) ? read(model, name) : at::Tensor();
}

const Tensor& head_of(const Model& model) {
  const Architecture& table = architecture(model.config.architecture);
  return model.tensors.at(std::string(global_name(table, model.config.tied_head ? Role::Embedding : Role::Head)));
}

// The norm in front of a linear; none for those that read the inside of a block.
std::optional<Role> norm_of(Role role) {
  switch (role) {
    case Role::Query:
    case Role::Key:
    case Role::Value: return Role::InputNorm;
    case Role::Gate:
    case Role::Up: return Role::MlpNorm;
    default: return std::nullopt;
  }
}

bool writes_to_stream(Role role) { return role == Role::AttentionOutput || role == Role::Down; }

}  // namespace

void check_sliceable(const Config& config) {
  const Architecture& table = architecture(config.architecture);
  const auto refuse = [](const std::string& why) { throw UsageError("method slicegpt: " + why + "; take another method"); };
  if (rule_name(table, Role::AttentionRotation).empty() || rule_name(table, Role::MlpRotation).empty()) {
    refuse("models of architecture '" + config.architecture + "' cannot be sliced: only Llama, its kin and OPT can");
  }
  if (!config.norm_first || !config.final_norm) refuse("the model normalises behind the residual sum, which cannot be rotated");
  if (config.embedding != 0 && config.embedding != config.hidden) {
    refuse("the embedding is projected from another width, which SliceGPT does not slice");
  }
  for (const LayerConfig& layer : config.layers) {
    if (layer.experts > 0) refuse("mixtures of experts cannot be sliced");
    if (layer.identity) refuse("layers of the model were deleted, and sliced models with deleted layers are not supported");
  }
}

Config fused_config(const Config& config) {
  Config fused = config;
  fused.norm = NormKind::FusedRms;
  fused.norm_epsilon = kEpsilon;
  fused.tied_head = false;
  if (centres(config)) fused.query_bias = fused.mlp_bias = fused.head_bias = true;
  return fused;
}

LayerMatrices fuse_layer(const Model& model, std::int64_t layer) {
  const at::NoGradGuard no_grad;
  LayerMatrices fused;
  const Config config = fused_config(model.config);
  for (const LayerTensor& tensor : layer_tensors(config, layer)) {
    const Role role = tensor.rule->role;
    const bool bias = tensor.rule->bias;
    at::Tensor value = find(model, layer, role, bias);
    if (bias && !value.defined()) value = at::zeros(tensor.shape, at::kDouble);
    if (const std::optional<Role> norm = norm_of(role)) {
      if (!bias) {
        value = value * find(model, layer, *norm, false);
      } else if (centres(model.config)) {
        value = value + find(model, layer, role, false).mv(find(model, layer, *norm, true));
      }
    } else if (writes_to_stream(role) && centres(model.config)) {
      value = bias ? value - value.mean() : value - value.mean(0, true);
    }
    fused.emplace(tensor.name, value);
  }
  return fused;
}

std::map<std::string, Tensor> fuse_globals(const Model& model, ThreadPool& pool, const RowChange& change) {
  const at::NoGradGuard no_grad;
  const Architecture& table = architecture(model.config.architecture);
  const at::Tensor gamma = global(model, Role::FinalNorm), beta = global(model, Role::FinalNorm, true);
  std::map<std::string, Tensor> fused;
  for (const Role role : {Role::Embedding, Role::Positions, Role::Head}) {
    const std::string name(global_name(table, role));
    const bool head = role == Role::Head;
    if (name.empty() || (!head && !model.tensors.contains(name))) continue;
    const Tensor& source = head ? head_of(model) : model.tensors.at(name);
    // As stored, so that a block of rows alone is wide.
    const at::Tensor rows = to_torch(source, name,
                                     replacement_dtype(source) == DType::F32   ? at::kFloat
                                     : replacement_dtype(source) == DType::F16 ? at::kHalf
                                                                               : at::kBFloat16);
    const std::int64_t count = rows.size(0), blocks = (count + kBlock - 1) / kBlock;
    std::vector<at::Tensor> changed(static_cast<std::size_t>(blocks)), biases(static_cast<std::size_t>(blocks));
    pool.for_each(blocks, [&](std::int64_t unit) {
      use_single_threaded_torch();
      const at::NoGradGuard inner;
      at::Tensor block = rows.narrow(0, unit * kBlock, std::min(kBlock, count - unit * kBlock)).to(at::kDouble);
      if (head) {
        if (centres(model.config)) biases[static_cast<std::size_t>(unit)] = block.mv(beta).to(at::kFloat);
        block = block * gamma;
      } else if (centres(model.config)) {
        block = block - block.mean(1, true);
      }
      if (change) block = change(role, block);
      changed[static_cast<std::size_t>(unit)] = block.to(rows.scalar_type());
    });
    fused.emplace(name, dense_from_torch(at::cat(changed), replacement_dtype(source)));
    if (!head || !centres(model.config)) continue;
    const at::Tensor old = global(model, Role::Head, true);
    const at::Tensor bias = at::cat(biases);
    fused.emplace(std::string(global_name(table, Role::Head, true)),
                  dense_from_torch(old.defined() ? bias.to(at::kDouble) + old : bias, replacement_dtype(source)));
  }
  return fused;
}

Model fuse_norms(const Model& model, ThreadPool& pool) {
  check_sliceable(model.config);
  const Architecture& table = architecture(model.config.architecture);
  Model fused = model;
  fused.config = fused_config(model.config);
  fused.tensors = fuse_globals(model, pool, {});
  for (std::int64_t l = 0; l < static_cast<std::int64_t>(model.config.layers.size()); ++l) {
    for (const auto& [rule, value] : fuse_layer(model, l)) {
      const std::string name = layer_tensor_name(table, l, rule);
      const auto source = model.tensors.find(name);
      fused.tensors.emplace(name, dense_from_torch(value, source == model.tensors.end() ? DType::F32 : replacement_dtype(source->second)));
    }
  }
  return fused;
}

}  // namespace miq
