// Python's meaning of the nodes of a PickleTree: dicts, texts, objects with attributes, classes. No function here
// recurses or follows a cycle; all but to_json take time in proportion to the one node (and its items) asked about.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "miq/formats/json.h"
#include "miq/formats/pickle.h"

namespace miq {

// True for a Call or New whose callee is this global, in its present form ("collections", "OrderedDict").
bool is_call_of(const PickleTree& tree, NodeId node, std::string_view module, std::string_view name);

// A String; nothing for other kinds. Bytes as stored: check UTF-8 where it matters.
std::optional<std::string_view> as_string(const PickleTree& tree, NodeId node);
std::optional<std::int64_t> as_int(const PickleTree& tree, NodeId node);    // Int (no Bool, no BigInt)
std::optional<double> as_double(const PickleTree& tree, NodeId node);       // Float, Int, BigInt
std::optional<bool> as_bool(const PickleTree& tree, NodeId node);
// Binary; also the forms of protocol 2 (_codecs.encode(text, "latin1"), bytes()) and bytearrays.
std::optional<std::string> as_bytes(const PickleTree& tree, NodeId node);
bool is_none(const PickleTree& tree, NodeId node);  // also true for kNoNode

// The pairs of a dict: Dict, or any Call or New with dict items (OrderedDict, defaultdict, …); also OrderedDict(pairs),
// the form of Python 2 and of old torch. Empty for anything else.
std::vector<std::pair<NodeId, NodeId>> dict_items(const PickleTree& tree, NodeId node);
bool is_dict(const PickleTree& tree, NodeId node);  // a Dict or an OrderedDict, defaultdict, Counter
// The value under a string key in dict_items(); kNoNode when absent. Linear: make a map for many look-ups.
NodeId find(const PickleTree& tree, NodeId dict, std::string_view key);

// The elements of a Tuple, List or Set; of set(list), frozenset(list), torch.Size(tuple), tuple(list), list(tuple) calls;
// what was appended to a Call or New (a list subclass). Empty for anything else.
std::span<const NodeId> elements(const PickleTree& tree, NodeId node);

// The class of an instance, as a node: of New its class; of a Call its callee, but the first argument for
// copyreg._reconstructor, copyreg.__newobj__, copyreg.__newobj_ex__ and copyreg.__reduce_ex__. kNoNode for other kinds.
NodeId type_of(const PickleTree& tree, NodeId node);

struct PickledType {
  std::string module, name;
  bool by_value = false;      // the class itself is in the stream: dill's _create_type, types.new_class, cloudpickle
  std::vector<NodeId> bases;  // of a class by value: types again
  NodeId body = kNoNode;      // of a class by value: its dict
  std::string full_name() const { return module.empty() ? name : module + "." + name; }
};
// Nothing for nodes that are neither a Global, nor a class by value, nor a legacy torch file's reference to a module's class.
std::optional<PickledType> describe_type(const PickleTree& tree, NodeId type);
// "module.name" of the node's class (for a class by value: its __module__ and name); empty when it has none.
std::string class_of(const PickleTree& tree, NodeId node);
// True when the class is `full_name`, or is by value and has it among its bases (through at most 64 classes).
bool is_instance_of(const PickleTree& tree, NodeId node, std::string_view full_name);

// The attributes of an object: the dict of its state, or both dicts of a (dict, slots) state, in order; the state of
// copyreg._reconstructor too. Only string keys. Empty for objects with a state of their own kind (see PickleTree::state).
std::vector<std::pair<std::string_view, NodeId>> attributes(const PickleTree& tree, NodeId node);
NodeId attribute(const PickleTree& tree, NodeId node, std::string_view name);  // kNoNode when absent

// A node as JSON: None, bools, numbers, texts (bytes that are no UTF-8 become U+FFFD), lists, tuples and sets as arrays,
// dicts as objects (keys that are no strings as their JSON text), torch dtypes as "torch.float16"; objects as
// {"__class__": NAME, ATTRIBUTE: …}; Binary, other globals and opaque things as {"__opaque__": what}. NaN and infinities
// become null. What lies deeper than `max_depth`, beyond `max_values` values or `max_text` bytes of text in all, or on a
// cycle is replaced by {"__omitted__": why}: shared nodes cannot make the result explode. Does not throw on account of data.
struct PickleJsonLimits {
  int max_depth = 32;
  std::uint64_t max_values = 100'000;
  std::uint64_t max_text = 16u << 20;
};
Json to_json(const PickleTree& tree, NodeId node, const PickleJsonLimits& limits = {});

}  // namespace miq
