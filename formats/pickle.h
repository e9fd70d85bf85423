// An inert interpreter of Python's pickle streams. The stream becomes a tree of nodes that says what a file names,
// would call and would build; nothing here can call, import or construct any of it.
//
// Read: protocols 2 to 5 (pickletools.py), and from protocols 0 and 1 only GLOBAL, POP and POP_MARK. Refused with the
// offset: the text op-codes of protocols 0 and 1, DUP, EXT*, out-of-band buffers, unknown op-codes; a missing, second
// or misplaced PROTO; frames that nest or that an op-code crosses; lengths beyond the bytes left; integers beyond 16
// bytes; names of globals beyond 512 bytes; a stack that underflows or is not one value at STOP; memo entries that were
// never put; items or state given to what cannot have any, state given twice; a string key (of up to 256 bytes) given
// twice in one dict; bytes behind STOP (see read_pickle_prefix).
//
// Cost: at most 64 bytes of memory for each byte of input, one pass, no recursion. Texts are views into the input.
// Nodes may be shared and cycles are legal (memo with APPEND, SETITEM or BUILD): a walk needs a visited set or a bound.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "miq/base/blob.h"

namespace miq {

using NodeId = std::uint32_t;
inline constexpr NodeId kNoNode = 0xffffffff;  // reads as None everywhere

enum class NodeKind : std::uint8_t {
  None, Bool, Int, BigInt, Float, String, Binary, Tuple, List, Dict, Set,
  Global,      // module.name, as GLOBAL and STACK_GLOBAL give it
  Call,        // callee(*args): REDUCE
  New,         // class.__new__(class, *args, **kwargs): NEWOBJ, NEWOBJ_EX
  Persistent,  // the id of something outside the stream: BINPERSID
};

// One distinct global that a stream names. Names of Python 2 and of old torch are given in their present form
// (__builtin__ -> builtins, copy_reg -> copyreg, torch.tensor -> torch._tensor).
struct PickleGlobal {
  std::string_view module, name;   // valid as long as the tree
  std::uint64_t first_offset = 0;  // in the file
  std::uint64_t named = 0;         // times that the stream names it
  std::uint64_t called = 0;        // times as the callee of REDUCE
  std::uint64_t instantiated = 0;  // times as the class of NEWOBJ and NEWOBJ_EX
  std::string full_name() const { return std::string(module) + "." + std::string(name); }
};

class PickleTree {
 public:
  PickleTree();
  NodeId root() const { return root_; }
  std::size_t size() const { return size_; }  // node ids are 0 .. size() - 1

  // Each gives 0, an empty text, an empty list or kNoNode where the node is of another kind.
  NodeKind kind(NodeId node) const { return node < size_ ? at(node).kind : NodeKind::None; }
  std::uint64_t offset(NodeId node) const { return node < size_ ? at(node).offset : 0; }  // of its op-code, in the file
  bool boolean(NodeId node) const;
  std::int64_t integer(NodeId node) const;
  double real(NodeId node) const;             // Float; BigInt rounded
  std::string_view text(NodeId node) const;   // String (bytes as stored: UTF-8 is not checked), Binary; BigInt's bytes
  std::span<const NodeId> items(NodeId node) const;  // of Tuple, List, Set; what was appended or added to a Call or New
  std::span<const std::pair<NodeId, NodeId>> pairs(NodeId node) const;  // (key, value) of Dict; SETITEMS on Call, New
  const PickleGlobal* global(NodeId node) const;     // null unless a Global
  NodeId callee(NodeId node) const;                  // Call: what would be called; New: the class
  NodeId args(NodeId node) const;                    // Call, New: mostly a Tuple, but that is the file's choice
  NodeId kwargs(NodeId node) const;                  // New from NEWOBJ_EX
  NodeId persistent_id(NodeId node) const;
  NodeId state(NodeId node) const;                   // Call, New: what BUILD gave

  // Every distinct global, by first appearance.
  const std::vector<PickleGlobal>& globals() const { return globals_; }
  // REDUCE and NEWOBJ whose callee is no global but the result of another call, an argument, ….
  std::uint64_t indirect_calls() const { return indirect_calls_; }

 private:
  friend class PickleReader;
  struct Node {
    NodeKind kind = NodeKind::None;
    std::uint32_t a = kNoNode, b = kNoNode, c = kNoNode;  // see pickle.cc
    union {
      std::int64_t integer = 0;
      double real;
      const char* text;
    };
    std::uint64_t offset = 0;
  };
  // What only some nodes have: ranges of links_ and pairs_.
  struct Extra {
    NodeId state = kNoNode;
    std::uint32_t items = 0, first_item = 0, pairs = 0, first_pair = 0;
  };
  static constexpr unsigned kBlockBits = 10;
  const Node& at(NodeId node) const { return blocks_[node >> kBlockBits][node & ((1u << kBlockBits) - 1)]; }
  const Extra* extra(NodeId node) const;

  NodeId root_ = kNoNode;
  std::uint32_t size_ = 0;
  std::vector<std::unique_ptr<Node[]>> blocks_;
  std::vector<Extra> extras_;
  std::vector<NodeId> links_;
  std::vector<std::pair<NodeId, NodeId>> pairs_;
  std::vector<PickleGlobal> globals_;
  std::uint64_t indirect_calls_ = 0;
  Blob bytes_;  // keeps the texts alive
};

// Reads the one pickle that `bytes` is. `name` is used in messages; offsets count from `base`, the place of `bytes` in
// the file. Throws FormatError.
PickleTree read_pickle(Blob bytes, const std::string& name, std::uint64_t base = 0);
// Reads the pickle at the start of `bytes` and says how many bytes it took.
std::pair<PickleTree, std::uint64_t> read_pickle_prefix(Blob bytes, const std::string& name, std::uint64_t base = 0);

}  // namespace miq
