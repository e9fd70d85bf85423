// Modules are walked with a stack of their own and a bound on the visits: a pickle can name one module in
// many places, and in itself.
#include "miq/converters/torch_module.h"

#include <algorithm>
#include <set>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/pickle_objects.h"
#include "miq/model/architecture.h"

namespace miq {
namespace {

constexpr int kMostDepth = 64;
constexpr std::uint64_t kMostNames = 300'000;  // of modules and tensors; a mixture of 60 layers and 256 experts has about 110,000
constexpr std::uint64_t kMostNameBytes = 256u << 20;

// What a walk has named so far.
class Names {
 public:
  explicit Names(const TorchFile& file) : file_(file) {}
  void add(const std::string& name, NodeId node) {
    bytes_ += name.size();
    if (++count_ <= kMostNames && bytes_ <= kMostNameBytes) return;
    throw FormatError(file_.name(), file_.tree().offset(node),
                      "its modules name more than " + std::to_string(kMostNames) +
                          " tensors and modules: they contain themselves or each other many times over");
  }

 private:
  const TorchFile& file_;
  std::uint64_t count_ = 0, bytes_ = 0;
};

// The members of a set, also of one whose class came through dill._dill._load_type("set").
std::set<std::string_view> names_in(const PickleTree& tree, NodeId node) {
  std::span<const NodeId> items = elements(tree, node);
  if (items.empty() && tree.kind(node) == NodeKind::Call) {
    const std::span<const NodeId> args = elements(tree, tree.args(node));
    if (args.size() == 1) items = elements(tree, args[0]);
  }
  std::set<std::string_view> names;
  for (const NodeId item : items) {
    if (const auto name = as_string(tree, item)) names.insert(*name);
  }
  return names;
}

std::string joined(const std::string& prefix, std::string_view name) {
  return prefix.empty() ? std::string(name) : prefix + "." + std::string(name);
}

void add_tensor(const TorchFile& file, const std::string& name, NodeId node, TorchWeights& weights) {
  const auto tensor = file.tensor(node);
  if (!tensor) {
    throw FormatError(file.name(), file.tree().offset(node), "parameter '" + name + "' is no tensor but a " + class_of(file.tree(), node));
  }
  if (!weights.tensors.emplace(name, *tensor).second) {
    throw FormatError(file.name(), file.tree().offset(node), "two tensors are named '" + name + "'");
  }
}

void add_own_tensors(const TorchFile& file, const std::string& prefix, NodeId module, Names& names, TorchWeights& weights) {
  const PickleTree& tree = file.tree();
  const std::set<std::string_view> transient = names_in(tree, attribute(tree, module, "_non_persistent_buffers_set"));
  for (const char* kind : {"_parameters", "_buffers"}) {
    for (const auto& [key, value] : dict_items(tree, attribute(tree, module, kind))) {
      const auto name = as_string(tree, key);
      if (!name || is_none(tree, value) || (kind[1] == 'b' && transient.contains(*name))) continue;
      const std::string full = joined(prefix, *name);
      names.add(full, value);
      add_tensor(file, full, value, weights);
    }
  }
}

// "model.layers.12" -> "model.layers.", 12
bool is_layer_name(const std::string& name, std::string& prefix, std::int64_t& number) {
  const auto dot = name.rfind('.');
  if (dot == std::string::npos) return false;
  const std::string_view head(name.data(), dot);
  const std::string digits = name.substr(dot + 1);
  if (!(head == "layers" || head.ends_with(".layers")) || digits.empty() || digits.size() > 6 ||
      digits.find_first_not_of("0123456789") != std::string::npos) {
    return false;
  }
  prefix = name.substr(0, dot + 1);
  number = std::stoll(digits);
  return true;
}

// Rows of a layer's matrix with this role; 0 where it has none.
std::int64_t rows_of(const TorchWeights& weights, const Architecture& row, const std::string& layer, Role role) {
  const auto found = weights.tensors.find(layer + "." + std::string(rule_name(row, role)));
  return found == weights.tensors.end() || found->second.shape.empty() ? 0 : found->second.shape[0];
}

class LayerSizes {
 public:
  LayerSizes(const TorchFile& file, const TorchWeights& weights, const Architecture& row, const std::string& layer)
      : file_(file), tree_(file.tree()), weights_(weights), row_(row), layer_(layer) {}

  void read(LayerConfig& sizes) const {
    const NodeId attention = attention_module();
    if (const auto stated = positive(attention, "head_dim")) sizes.head_dim = *stated;
    if (const std::int64_t rows = rows_of(weights_, row_, layer_, Role::Query)) sizes.heads = heads(rows, sizes.head_dim, "query");
    if (const std::int64_t rows = rows_of(weights_, row_, layer_, Role::Key)) sizes.kv_heads = heads(rows, sizes.head_dim, "key");
    if (const std::int64_t rows = rows_of(weights_, row_, layer_, Role::Up)) sizes.mlp_width = rows;
    agree(attention, "num_heads", sizes.heads, "query");
    agree(attention, "num_key_value_heads", sizes.kv_heads, "key");
    if (sizes.kv_heads > 0) agree(attention, "num_key_value_groups", sizes.heads / sizes.kv_heads, "query and key");
  }

 private:
  NodeId attention_module() const {
    const auto found = weights_.modules.find(layer_ + ".self_attn");
    return found == weights_.modules.end() ? kNoNode : found->second;
  }

  std::optional<std::int64_t> positive(NodeId module, std::string_view name) const {
    const auto value = as_int(tree_, attribute(tree_, module, name));
    return value && *value > 0 ? value : std::nullopt;
  }

  std::int64_t heads(std::int64_t rows, std::int64_t head_dim, const char* what) const {
    if (rows % head_dim == 0) return rows / head_dim;
    throw FormatError(file_.name(), "'" + layer_ + "': the " + what + " matrix has " + std::to_string(rows) +
                                        " rows, no multiple of the head dimension " + std::to_string(head_dim));
  }

  void agree(NodeId module, std::string_view name, std::int64_t real, const char* what) const {
    const auto stated = positive(module, name);
    if (!stated || *stated == real) return;
    throw FormatError(file_.name(),
                      "'" + layer_ + ".self_attn' states " + std::string(name) + " " + std::to_string(*stated) + ", but the rows of its " +
                          what + " matrix make " + std::to_string(real),
                      "The model was changed after it was pruned; it would not run as it is");
  }

  const TorchFile& file_;
  const PickleTree& tree_;
  const TorchWeights& weights_;
  const Architecture& row_;
  const std::string& layer_;
};

}  // namespace

bool is_module(const PickleTree& tree, NodeId node) {
  const NodeKind kind = tree.kind(node);
  if (kind != NodeKind::Call && kind != NodeKind::New) return false;
  return attribute(tree, node, "_modules") != kNoNode && attribute(tree, node, "_parameters") != kNoNode;
}

bool is_state_dict(const TorchFile& file, NodeId node) {
  if (!is_dict(file.tree(), node)) return false;
  return std::ranges::any_of(dict_items(file.tree(), node), [&](const auto& item) {
    return file.is_tensor(item.second) && as_string(file.tree(), item.first).has_value();
  });
}

TorchWeights module_weights(const TorchFile& file, NodeId module) {
  struct Visit {
    std::string name;
    NodeId node;
    int depth;
  };
  const PickleTree& tree = file.tree();
  TorchWeights weights;
  std::vector<Visit> stack{{"", module, 0}};
  Names names(file);
  while (!stack.empty()) {
    const Visit visit = std::move(stack.back());
    stack.pop_back();
    if (visit.depth > kMostDepth) {
      throw FormatError(
          file.name(), tree.offset(visit.node),
          "modules nest deeper than " + std::to_string(kMostDepth) + " or contain themselves (at '" + visit.name.substr(0, 100) + "')");
    }
    if (!weights.modules.emplace(visit.name, visit.node).second) {
      throw FormatError(file.name(), tree.offset(visit.node), "two modules are named '" + visit.name + "'");
    }
    add_own_tensors(file, visit.name, visit.node, names, weights);
    for (const auto& [key, child] : dict_items(tree, attribute(tree, visit.node, "_modules"))) {
      const auto name = as_string(tree, key);
      if (!name || is_none(tree, child)) continue;
      if (!is_module(tree, child)) {
        throw FormatError(file.name(), tree.offset(child),
                          "module '" + joined(visit.name, *name) + "' is no torch.nn.Module but a " + class_of(tree, child));
      }
      std::string full = joined(visit.name, *name);
      names.add(full, child);
      stack.push_back({std::move(full), child, visit.depth + 1});
    }
  }
  return weights;
}

TorchWeights state_dict_weights(const TorchFile& file, NodeId dict) {
  const PickleTree& tree = file.tree();
  TorchWeights weights;
  for (const auto& [key, value] : dict_items(tree, dict)) {
    const auto name = as_string(tree, key);
    if (name && file.is_tensor(value)) {
      add_tensor(file, std::string(*name), value, weights);
    } else if (is_module(tree, value) || is_state_dict(file, value)) {
      throw FormatError(file.name(), tree.offset(value),
                        "entry '" + std::string(name.value_or("?")) + "' of the state dict holds tensors of its own",
                        "Which of them are the model's cannot be known; save the state dict alone");
    }
  }
  return weights;
}

std::map<std::string, Tensor> read_tensors(const TorchFile& file, const TorchWeights& weights) {
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, tensor] : weights.tensors) tensors.emplace(name, file.read(tensor, name));
  return tensors;
}

ModuleLayers find_layers(const TorchFile& file, const TorchWeights& weights) {
  std::map<std::string, std::set<std::int64_t>> lists;
  for (const auto& [name, node] : weights.modules) {
    std::string prefix;
    std::int64_t number = 0;
    if (is_layer_name(name, prefix, number)) lists[prefix].insert(number);
  }
  ModuleLayers layers;
  for (const auto& [prefix, numbers] : lists) {
    if (static_cast<std::int64_t>(numbers.size()) > layers.count) layers = {prefix, static_cast<std::int64_t>(numbers.size())};
  }
  if (layers.count > 0 && *lists[layers.prefix].rbegin() != layers.count - 1) {
    throw FormatError(file.name(), "the decoder layers '" + layers.prefix + "N' are " + std::to_string(layers.count) +
                                       ", but numbered up to " + std::to_string(*lists[layers.prefix].rbegin()));
  }
  return layers;
}

std::map<std::int64_t, LayerConfig> module_layer_sizes(const TorchFile& file, const TorchWeights& weights, const ModuleLayers& layers,
                                                       const Config& config) {
  const Architecture& row = architecture(config.architecture);
  std::map<std::int64_t, LayerConfig> result;
  for (std::int64_t number = 0; number < layers.count; ++number) {
    const std::string layer = layers.prefix + std::to_string(number);
    LayerConfig sizes = config.layers.at(static_cast<std::size_t>(number));
    const auto first = weights.tensors.lower_bound(layer + ".");
    const bool empty = first == weights.tensors.end() || !first->first.starts_with(layer + ".");
    if (empty) {
      const std::string name = class_of(file.tree(), weights.modules.at(layer));
      if (name.find("Identity") == std::string::npos) {
        throw FormatError(file.name(), "layer '" + layer + "' of class '" + name + "' has no tensors and is not named as an identity",
                          "What it computes cannot be known");
      }
      sizes = {};
      sizes.identity = true;
    } else if (sizes.experts == 0) {
      LayerSizes(file, weights, row, layer).read(sizes);
      check_layer(config, sizes, file.name() + " ('" + layer + "')");
    }
    result[number] = sizes;
  }
  return result;
}

}  // namespace miq
