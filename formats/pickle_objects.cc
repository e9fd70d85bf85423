// Each function looks at one node and its direct parts. to_json is the only walk: it descends at most max_depth levels,
// and counts every visit (not every node), so that shared nodes cost what they would print.
#include "miq/formats/pickle_objects.h"

#include <algorithm>
#include <array>

namespace miq {
namespace {

NodeId argument(const PickleTree& tree, NodeId call, std::size_t index) {
  const auto arguments = tree.items(tree.args(call));
  return index < arguments.size() ? arguments[index] : kNoNode;
}

bool is_global(const PickleTree& tree, NodeId node, std::string_view module, std::string_view name) {
  const PickleGlobal* global = tree.global(node);
  return global && global->module == module && global->name == name;
}

// Text in UTF-8 whose characters are below 256, as the bytes that they stand for.
std::optional<std::string> latin1(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<std::uint8_t>(text[i]);
    if (c < 0x80) {
      bytes.push_back(static_cast<char>(c));
    } else {
      if ((c & 0xfe) != 0xc2 || i + 1 == text.size()) return std::nullopt;
      const auto low = static_cast<std::uint8_t>(text[++i]);
      if ((low & 0xc0) != 0x80) return std::nullopt;
      bytes.push_back(static_cast<char>((c & 3) << 6 | (low & 0x3f)));
    }
  }
  return bytes;
}

bool names_latin1(std::string_view codec) { return codec == "latin1" || codec == "latin-1" || codec == "iso-8859-1"; }

bool is_dill(std::string_view module) { return module == "dill._dill" || module == "dill"; }

// The class by value that a Call makes: where its name, bases and dict stand among the arguments.
bool makes_class(const PickleTree& tree, NodeId node) {
  const PickleGlobal* callee = tree.global(tree.callee(node));
  if (!callee || tree.kind(node) != NodeKind::Call) return false;
  return (is_dill(callee->module) && callee->name == "_create_type") || (callee->module == "types" && callee->name == "new_class") ||
         (callee->module == "builtins" && callee->name == "type") ||
         (callee->module.starts_with("cloudpickle") && (callee->name == "_make_skeleton_class" || callee->name == "_make_skeleton_enum"));
}

// The two dicts that an object's state can be: its attributes and its slots.
std::array<NodeId, 2> state_dicts(const PickleTree& tree, NodeId state) {
  if (is_dict(tree, state)) return {state, kNoNode};
  const auto parts = tree.kind(state) == NodeKind::Tuple ? tree.items(state) : std::span<const NodeId>();
  const auto fits = [&tree](NodeId part) { return is_none(tree, part) || is_dict(tree, part); };
  if (parts.size() == 2 && fits(parts[0]) && fits(parts[1])) return {parts[0], parts[1]};
  return {kNoNode, kNoNode};
}

constexpr std::size_t kLongestName = 512;  // of a class: as the interpreter has it for globals
constexpr std::string_view kSequences[] = {"set", "frozenset", "tuple", "list"};

}  // namespace

bool is_call_of(const PickleTree& tree, NodeId node, std::string_view module, std::string_view name) {
  return is_global(tree, tree.callee(node), module, name);
}

std::optional<std::string_view> as_string(const PickleTree& tree, NodeId node) {
  if (tree.kind(node) != NodeKind::String) return std::nullopt;
  return tree.text(node);
}

std::optional<std::int64_t> as_int(const PickleTree& tree, NodeId node) {
  if (tree.kind(node) != NodeKind::Int) return std::nullopt;
  return tree.integer(node);
}

std::optional<double> as_double(const PickleTree& tree, NodeId node) {
  switch (tree.kind(node)) {
    case NodeKind::Float:
    case NodeKind::BigInt: return tree.real(node);
    case NodeKind::Int: return static_cast<double>(tree.integer(node));
    default: return std::nullopt;
  }
}

std::optional<bool> as_bool(const PickleTree& tree, NodeId node) {
  if (tree.kind(node) != NodeKind::Bool) return std::nullopt;
  return tree.boolean(node);
}

std::optional<std::string> as_bytes(const PickleTree& tree, NodeId node) {
  if (tree.kind(node) == NodeKind::Binary) return std::string(tree.text(node));
  const PickleGlobal* callee = tree.kind(node) == NodeKind::Call ? tree.global(tree.callee(node)) : nullptr;
  if (!callee) return std::nullopt;
  const bool encode = callee->module == "_codecs" && callee->name == "encode";
  const bool maker = callee->module == "builtins" && (callee->name == "bytes" || callee->name == "bytearray");
  if (!encode && !maker) return std::nullopt;
  const auto arguments = tree.items(tree.args(node));
  if (maker && arguments.empty()) return std::string();
  if (arguments.size() == 2 && tree.kind(arguments[0]) == NodeKind::String && names_latin1(tree.text(arguments[1])))
    return latin1(tree.text(arguments[0]));
  if (maker && arguments.size() == 1 && tree.kind(arguments[0]) == NodeKind::Binary) return std::string(tree.text(arguments[0]));
  // bytearray(_codecs.encode(text, "latin1")): one level, not a chain of calls.
  if (maker && arguments.size() == 1 && is_call_of(tree, arguments[0], "_codecs", "encode")) {
    const auto inner = tree.items(tree.args(arguments[0]));
    if (inner.size() == 2 && tree.kind(inner[0]) == NodeKind::String && names_latin1(tree.text(inner[1])))
      return latin1(tree.text(inner[0]));
  }
  return std::nullopt;
}

bool is_none(const PickleTree& tree, NodeId node) { return tree.kind(node) == NodeKind::None; }

bool is_dict(const PickleTree& tree, NodeId node) {
  if (tree.kind(node) == NodeKind::Dict) return true;
  const PickleGlobal* callee = tree.global(tree.callee(node));
  if (!callee) return false;
  if (callee->module == "collections") return callee->name == "OrderedDict" || callee->name == "defaultdict" || callee->name == "Counter";
  return callee->module == "builtins" && callee->name == "dict";
}

std::vector<std::pair<NodeId, NodeId>> dict_items(const PickleTree& tree, NodeId node) {
  const auto pairs = tree.pairs(node);
  std::vector<std::pair<NodeId, NodeId>> result(pairs.begin(), pairs.end());
  if (!result.empty() || tree.kind(node) == NodeKind::Dict || !is_dict(tree, node)) return result;
  // OrderedDict([[key, value], …]), Counter({…}).
  const NodeId source = argument(tree, node, 0);
  const auto inner = tree.pairs(source);
  result.assign(inner.begin(), inner.end());
  for (const NodeId item : tree.items(source)) {
    const auto pair = tree.items(item);
    if (pair.size() == 2) result.emplace_back(pair[0], pair[1]);
  }
  return result;
}

NodeId find(const PickleTree& tree, NodeId dict, std::string_view key) {
  NodeId found = kNoNode;
  const auto consider = [&](const std::pair<NodeId, NodeId>& pair) {
    if (tree.kind(pair.first) == NodeKind::String && tree.text(pair.first) == key) found = pair.second;  // the last one, as in Python
  };
  const auto pairs = tree.pairs(dict);
  if (!pairs.empty()) {
    std::for_each(pairs.begin(), pairs.end(), consider);
  } else {
    const auto items = dict_items(tree, dict);
    std::for_each(items.begin(), items.end(), consider);
  }
  return found;
}

std::span<const NodeId> elements(const PickleTree& tree, NodeId node) {
  const auto items = tree.items(node);
  if (!items.empty() || tree.kind(node) != NodeKind::Call) return items;
  const PickleGlobal* callee = tree.global(tree.callee(node));
  const bool sequence =
      callee &&
      ((callee->module == "builtins" && std::find(std::begin(kSequences), std::end(kSequences), callee->name) != std::end(kSequences)) ||
       (callee->module == "torch" && callee->name == "Size"));
  return sequence ? tree.items(argument(tree, node, 0)) : items;
}

NodeId type_of(const PickleTree& tree, NodeId node) {
  const NodeId callee = tree.callee(node);
  const PickleGlobal* global = tree.kind(node) == NodeKind::Call ? tree.global(callee) : nullptr;
  if (global && global->module == "copyreg" &&
      (global->name == "_reconstructor" || global->name == "__newobj__" || global->name == "__newobj_ex__" ||
       global->name == "__reduce_ex__")) {
    return argument(tree, node, 0);
  }
  return callee;
}

std::optional<PickledType> describe_type(const PickleTree& tree, NodeId type) {
  if (tree.kind(type) == NodeKind::Persistent) {
    // ("module", class, source file, source text): how legacy files of torch refer to the classes of modules.
    const auto id = tree.items(tree.persistent_id(type));
    if (id.size() < 2 || as_string(tree, id[0]) != "module") return std::nullopt;
    type = id[1];
  }
  PickledType result;
  if (const PickleGlobal* global = tree.global(type)) {
    result.module = global->module;
    result.name = global->name;
    return result;
  }
  if (!makes_class(tree, type)) return std::nullopt;
  const PickleGlobal* maker = tree.global(tree.callee(type));
  // types.new_class and builtins.type have no metaclass in front.
  const std::size_t shift = maker->module == "types" || maker->module == "builtins" ? 0 : 1;
  const auto name = as_string(tree, argument(tree, type, shift));
  if (!name || name->size() > kLongestName) return std::nullopt;
  result.name = *name;
  result.by_value = true;
  const auto bases = tree.items(argument(tree, type, shift + 1));
  result.bases.assign(bases.begin(), bases.end());
  result.body = argument(tree, type, shift + 2);
  const std::string_view module = as_string(tree, find(tree, result.body, "__module__")).value_or("");
  if (module.size() <= kLongestName) result.module = module;
  return result;
}

std::string class_of(const PickleTree& tree, NodeId node) {
  const auto type = describe_type(tree, type_of(tree, node));
  return type ? type->full_name() : std::string();
}

bool is_instance_of(const PickleTree& tree, NodeId node, std::string_view full_name) {
  constexpr std::size_t kMostClasses = 64;
  std::vector<NodeId> todo{type_of(tree, node)};
  for (std::size_t i = 0; i < todo.size() && i < kMostClasses; ++i) {
    const auto type = describe_type(tree, todo[i]);
    if (!type) continue;
    if (type->full_name() == full_name) return true;
    for (const NodeId base : type->bases) {
      if (todo.size() < kMostClasses && std::find(todo.begin(), todo.end(), base) == todo.end()) todo.push_back(base);
    }
  }
  return false;
}

std::vector<std::pair<std::string_view, NodeId>> attributes(const PickleTree& tree, NodeId node) {
  std::vector<std::pair<std::string_view, NodeId>> result;
  for (const NodeId dict : state_dicts(tree, tree.state(node))) {
    for (const auto& [key, value] : dict_items(tree, dict)) {
      if (tree.kind(key) == NodeKind::String) result.emplace_back(tree.text(key), value);
    }
  }
  return result;
}

NodeId attribute(const PickleTree& tree, NodeId node, std::string_view name) {
  NodeId result = kNoNode;
  for (const NodeId dict : state_dicts(tree, tree.state(node))) {
    const NodeId found = find(tree, dict, name);
    if (found != kNoNode) result = found;
  }
  return result;
}

}  // namespace miq
