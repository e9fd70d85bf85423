// The tree that pickle_build.cc builds. A node is 32 bytes; what its fields a, b and c mean depends on its kind:
//
//   Bool Int        integer                     Tuple           a: first of its links_, b: how many
//   Float           real                        List Set Dict   c: index in extras_ (items, pairs)
//   String Binary   text, length in a and b     Call            a: callee, b: arguments, c: extras_
//   BigInt          the same, little-endian     New             a: class, b: arguments, c: extras_, integer: kwargs
//   Global          a: index in globals_        Persistent      a: the id
#include "miq/formats/pickle.h"

#include <cmath>

namespace miq {

PickleTree::PickleTree() = default;

const PickleTree::Extra* PickleTree::extra(NodeId node) const {
  switch (kind(node)) {
    case NodeKind::List:
    case NodeKind::Set:
    case NodeKind::Dict:
    case NodeKind::Call:
    case NodeKind::New: return at(node).c == kNoNode ? nullptr : &extras_[at(node).c];
    default: return nullptr;
  }
}

bool PickleTree::boolean(NodeId node) const { return kind(node) == NodeKind::Bool && at(node).integer != 0; }
std::int64_t PickleTree::integer(NodeId node) const { return kind(node) == NodeKind::Int ? at(node).integer : 0; }

double PickleTree::real(NodeId node) const {
  if (kind(node) == NodeKind::Float) return at(node).real;
  if (kind(node) != NodeKind::BigInt) return 0;
  // Two's complement: the top byte counts negative. At most 16 bytes.
  const std::string_view bytes = text(node);
  double value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) {
    const auto byte = static_cast<std::uint8_t>(bytes[i]);
    value += std::ldexp(i + 1 == bytes.size() ? static_cast<double>(static_cast<std::int8_t>(byte)) : static_cast<double>(byte),
                        static_cast<int>(8 * i));
  }
  return value;
}

std::string_view PickleTree::text(NodeId node) const {
  const NodeKind found = kind(node);
  if (found != NodeKind::String && found != NodeKind::Binary && found != NodeKind::BigInt) return {};
  const Node& n = at(node);
  return {n.text, static_cast<std::size_t>(n.a | std::uint64_t{n.b} << 32)};
}

std::span<const NodeId> PickleTree::items(NodeId node) const {
  if (kind(node) == NodeKind::Tuple) return std::span(links_).subspan(at(node).a, at(node).b);
  const Extra* more = extra(node);
  return more ? std::span(links_).subspan(more->first_item, more->items) : std::span<const NodeId>();
}

std::span<const std::pair<NodeId, NodeId>> PickleTree::pairs(NodeId node) const {
  const Extra* more = extra(node);
  return more ? std::span(pairs_).subspan(more->first_pair, more->pairs) : std::span<const std::pair<NodeId, NodeId>>();
}

const PickleGlobal* PickleTree::global(NodeId node) const { return kind(node) == NodeKind::Global ? &globals_[at(node).a] : nullptr; }

NodeId PickleTree::callee(NodeId node) const { return kind(node) == NodeKind::Call || kind(node) == NodeKind::New ? at(node).a : kNoNode; }

NodeId PickleTree::args(NodeId node) const { return kind(node) == NodeKind::Call || kind(node) == NodeKind::New ? at(node).b : kNoNode; }

NodeId PickleTree::kwargs(NodeId node) const { return kind(node) == NodeKind::New ? static_cast<NodeId>(at(node).integer) : kNoNode; }
NodeId PickleTree::persistent_id(NodeId node) const { return kind(node) == NodeKind::Persistent ? at(node).a : kNoNode; }

NodeId PickleTree::state(NodeId node) const {
  const Extra* more = extra(node);
  return more ? more->state : kNoNode;
}

}  // namespace miq
