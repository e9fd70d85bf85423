// The state of one run of the interpreter. Within this room only: pickle_read.cc has the op-codes, pickle_build.cc the
// nodes, the memo and the containers.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/pickle.h"

namespace miq {

namespace pickle {
inline constexpr std::string_view kFetchAgain = "The file may be damaged or cut short: fetch it again";
inline constexpr std::string_view kSaveAgain = "Write it again with torch.save or with pickle protocol 2 or later";
inline constexpr std::string_view kDistrust = "No pickler writes this: do not trust the file";
inline constexpr std::size_t kLongestName = 512;
}  // namespace pickle

class PickleReader {
 public:
  PickleReader(Blob bytes, const std::string& name, std::uint64_t base)
      : blob_(std::move(bytes)), data_(blob_.text()), name_(name), base_(base), end_(data_.size()) {}
  std::pair<PickleTree, std::uint64_t> read();

 private:
  using Node = PickleTree::Node;
  using Extra = PickleTree::Extra;
  struct Batch {
    std::uint32_t first, count, next;
  };
  struct Chain {
    std::uint32_t head = kNoNode, tail = kNoNode;
  };
  struct Chains {
    Chain items, pairs;
  };

  [[noreturn]] void fail(std::string_view problem, std::string_view remedy = pickle::kDistrust) const {
    throw FormatError(name_, base_ + op_at_, problem, remedy);
  }

  // Input.
  void start_op();
  std::string_view take(std::uint64_t length, std::string_view what);
  std::string_view take_line();
  template <class T>
  T number(std::string_view what);

  // Nodes.
  Node& node(NodeId id) { return tree_.blocks_[id >> PickleTree::kBlockBits][id & ((1u << PickleTree::kBlockBits) - 1)]; }
  NodeId make(NodeKind kind);
  NodeId shared(NodeKind kind, NodeId& known);
  void push(NodeId id) { stack_.push_back(id); }
  void push_text(NodeKind kind, std::string_view text);
  void push_int(std::int64_t value);
  void push_long(std::string_view bytes);
  void push_tuple(std::size_t count);
  void push_global(std::string_view module, std::string_view name);
  void push_call(NodeKind kind, NodeId kwargs);

  // Stack and memo.
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  std::size_t depth() const { return stack_.size() - floor(); }
  void need(std::size_t count) const {
    if (depth() < count) fail("takes more from the stack than is on it");
  }
  NodeId pop();
  std::size_t pop_mark();
  void put(std::uint64_t index);
  void put_top();
  NodeId get(std::uint64_t index) const;

  // Containers.
  std::uint32_t extra_of(NodeId id, bool for_pairs, bool for_items);
  void append(NodeId target, std::size_t from);
  void set_pairs(NodeId target, std::size_t from);
  template <class T>
  Batch* room_for(Chain& chain, const std::vector<T>& values, std::size_t count);
  void build();

  bool step(std::uint8_t op);
  bool step_value(std::uint8_t op);
  bool step_container(std::uint8_t op);
  bool step_object(std::uint8_t op);
  [[noreturn]] void refuse(std::uint8_t op) const;
  void finish();
  template <class T>
  void lay_out(Chain chain, std::vector<T>& values, std::uint32_t& first);
  void check_keys(const Extra& extra) const;

  Blob blob_;
  std::string_view data_;
  const std::string& name_;
  std::uint64_t base_, end_;
  std::uint64_t at_ = 0, op_at_ = 0;
  std::uint64_t frame_end_ = 0;  // 0: not in a frame
  PickleTree tree_;
  std::vector<NodeId> stack_;
  std::vector<std::size_t> marks_;
  std::vector<NodeId> memo_;
  std::map<std::uint64_t, NodeId> sparse_memo_;
  std::vector<Batch> batches_;
  std::vector<Chains> chains_;  // one for each of tree_.extras_
  std::map<std::pair<std::string_view, std::string_view>, std::uint32_t> globals_;
  NodeId none_ = kNoNode, true_ = kNoNode, false_ = kNoNode, empty_ = kNoNode;
};

template <class T>
T PickleReader::number(std::string_view what) {
  T value;
  std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
  return value;
}

}  // namespace miq
