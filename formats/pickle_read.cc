// The interpreter: one loop over op-codes with a stack of node ids, a stack of marks and a memo. Items that are appended
// piecemeal are kept as chains of batches and laid side by side at the end, so that any order of appends is linear. The
// memo is an array for the indices that come in order, as picklers write them, and an ordered map for others: a huge
// index costs nothing, and no choice of indices makes it slow.
#include <algorithm>
#include <bit>
#include <cstring>
#include <map>

#include "miq/base/error.h"
#include "miq/formats/json_events.h"
#include "miq/formats/pickle.h"
#include "miq/formats/pickle_opcodes.h"

namespace miq {
namespace {

using namespace pickle;

constexpr std::string_view kFetchAgain = "The file may be damaged or cut short: fetch it again";
constexpr std::string_view kSaveAgain = "Write it again with torch.save or with pickle protocol 2 or later";
constexpr std::string_view kDistrust = "No pickler writes this: do not trust the file";
constexpr std::uint64_t kLongestInteger = 16;
constexpr std::size_t kLongestName = 512;
constexpr std::size_t kLongestCheckedKey = 256;

// Python 2's module names, and torch's older ones; _compat_pickle.py and torch/serialization.py.
constexpr std::pair<std::string_view, std::string_view> kRenamedModules[] = {
    {"__builtin__", "builtins"}, {"copy_reg", "copyreg"},      {"cPickle", "pickle"},        {"commands", "subprocess"},
    {"exceptions", "builtins"},  {"UserDict", "collections"},  {"UserList", "collections"},  {"UserString", "collections"},
    {"urllib2", "urllib.request"}, {"torch.tensor", "torch._tensor"}, {"dill.dill", "dill._dill"},
};

}  // namespace

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

  [[noreturn]] void fail(std::string_view problem, std::string_view remedy = kDistrust) const {
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

// ---- input ----------------------------------------------------------------------------------------------------------

void PickleReader::start_op() {
  op_at_ = at_;
  if (frame_end_ != 0 && at_ == frame_end_) frame_end_ = 0;
}

std::string_view PickleReader::take(std::uint64_t length, std::string_view what) {
  if (length > end_ - at_) {
    fail("is cut short: " + std::string(what) + " takes " + std::to_string(length) + " bytes, " + std::to_string(end_ - at_) + " are left", kFetchAgain);
  }
  if (frame_end_ != 0 && length > frame_end_ - at_) fail(std::string(what) + " crosses the end of its frame");
  const std::string_view bytes = data_.substr(at_, length);
  at_ += length;
  return bytes;
}

std::string_view PickleReader::take_line() {
  const std::string_view rest = data_.substr(at_, kLongestName + 1);
  const std::size_t length = rest.find('\n');
  if (length == std::string_view::npos) {
    if (rest.size() > kLongestName) fail("names a global of more than " + std::to_string(kLongestName) + " bytes");
    fail("is cut short within a global's name", kFetchAgain);
  }
  return take(length + 1, "a global's name").substr(0, length);
}

template <class T>
T PickleReader::number(std::string_view what) {
  T value;
  std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
  return value;
}

// ---- nodes ----------------------------------------------------------------------------------------------------------

NodeId PickleReader::make(NodeKind kind) {
  if (tree_.size_ == kNoNode) fail("holds more than four thousand million values");
  if (tree_.size_ >> PickleTree::kBlockBits == tree_.blocks_.size()) {
    tree_.blocks_.push_back(std::make_unique<Node[]>(std::size_t{1} << PickleTree::kBlockBits));
  }
  const NodeId id = tree_.size_++;
  Node& made = node(id);
  made.kind = kind;
  made.offset = base_ + op_at_;
  return id;
}

// Values without a content of their own need one node only.
NodeId PickleReader::shared(NodeKind kind, NodeId& known) {
  if (known == kNoNode) known = make(kind);
  return known;
}

void PickleReader::push_text(NodeKind kind, std::string_view text) {
  const NodeId id = make(kind);
  Node& made = node(id);
  made.text = text.data();
  made.a = static_cast<std::uint32_t>(text.size());
  made.b = static_cast<std::uint32_t>(std::uint64_t{text.size()} >> 32);
  push(id);
}

void PickleReader::push_int(std::int64_t value) {
  const NodeId id = make(NodeKind::Int);
  node(id).integer = value;
  push(id);
}

void PickleReader::push_long(std::string_view bytes) {
  // Bytes that only repeat the sign do not make an integer big.
  const bool negative = !bytes.empty() && (bytes.back() & 0x80);
  std::size_t length = bytes.size();
  while (length > 8 && static_cast<std::uint8_t>(bytes[length - 1]) == (negative ? 0xff : 0) && ((bytes[length - 2] & 0x80) != 0) == negative) --length;
  if (length > 8) return push_text(NodeKind::BigInt, bytes.substr(0, length));
  std::uint64_t value = negative ? ~std::uint64_t{0} : 0;
  std::memcpy(&value, bytes.data(), length);
  push_int(static_cast<std::int64_t>(value));
}

// The top `count` values become a tuple.
void PickleReader::push_tuple(std::size_t count) {
  need(count);
  if (count == 0) {
    push(shared(NodeKind::Tuple, empty_));
    node(empty_).a = node(empty_).b = 0;
    return;
  }
  const std::size_t first = tree_.links_.size();
  if (first + count >= kNoNode) fail("holds more than four thousand million items");
  tree_.links_.insert(tree_.links_.end(), stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
  stack_.resize(stack_.size() - count);
  const NodeId id = make(NodeKind::Tuple);
  node(id).a = static_cast<std::uint32_t>(first);
  node(id).b = static_cast<std::uint32_t>(count);
  push(id);
}

void PickleReader::push_global(std::string_view module, std::string_view name) {
  if (module.empty() || name.empty()) fail("names a global without a module or name");
  if (module.size() > kLongestName || name.size() > kLongestName) fail("names a global of more than " + std::to_string(kLongestName) + " bytes");
  for (const auto& [old, present] : kRenamedModules) {
    if (module == old) {
      module = present;
      break;
    }
  }
  const auto [found, fresh] = globals_.try_emplace({module, name}, static_cast<std::uint32_t>(tree_.globals_.size()));
  if (fresh) tree_.globals_.push_back({module, name, base_ + op_at_, 0, 0, 0});
  ++tree_.globals_[found->second].named;
  const NodeId id = make(NodeKind::Global);
  node(id).a = found->second;
  push(id);
}

void PickleReader::push_call(NodeKind kind, NodeId kwargs) {
  need(2);
  const NodeId args = pop(), callee = pop();
  if (node(callee).kind == NodeKind::Global) {
    PickleGlobal& global = tree_.globals_[node(callee).a];
    ++(kind == NodeKind::Call ? global.called : global.instantiated);
  } else {
    ++tree_.indirect_calls_;
  }
  const NodeId id = make(kind);
  Node& made = node(id);
  made.a = callee;
  made.b = args;
  made.integer = kwargs;
  push(id);
}

// ---- stack and memo -------------------------------------------------------------------------------------------------

NodeId PickleReader::pop() {
  need(1);
  const NodeId top = stack_.back();
  stack_.pop_back();
  return top;
}

// Where the values above the last mark begin.
std::size_t PickleReader::pop_mark() {
  if (marks_.empty()) fail("closes a mark that was never set");
  const std::size_t from = marks_.back();
  marks_.pop_back();
  return from;
}

void PickleReader::put(std::uint64_t index) {
  need(1);
  if (index < memo_.size()) {
    memo_[index] = stack_.back();
  } else if (index == memo_.size()) {
    memo_.push_back(stack_.back());
    if (!sparse_memo_.empty()) sparse_memo_.erase(index);
  } else {
    sparse_memo_[index] = stack_.back();
  }
}

NodeId PickleReader::get(std::uint64_t index) const {
  if (index < memo_.size()) return memo_[index];
  const auto found = sparse_memo_.find(index);
  if (found == sparse_memo_.end()) fail("takes memo entry " + std::to_string(index) + ", which was never put");
  return found->second;
}

// ---- containers -----------------------------------------------------------------------------------------------------

std::uint32_t PickleReader::extra_of(NodeId id, bool for_pairs, bool for_items) {
  Node& target = node(id);
  const bool object = target.kind == NodeKind::Call || target.kind == NodeKind::New;
  const bool may = object || (for_pairs && target.kind == NodeKind::Dict) ||
                   (for_items && (target.kind == NodeKind::List || target.kind == NodeKind::Set));
  if (!may) fail(for_pairs || for_items ? "adds items to what cannot have any" : "gives state to what is no object");
  if (target.c == kNoNode) {
    target.c = static_cast<std::uint32_t>(tree_.extras_.size());
    tree_.extras_.emplace_back();
    chains_.emplace_back();
  }
  return target.c;
}

// The batch that takes `count` values which will be put at the end of `values`.
template <class T>
PickleReader::Batch* PickleReader::room_for(Chain& chain, const std::vector<T>& values, std::size_t count) {
  if (values.size() + count >= kNoNode) fail("holds more than four thousand million items");
  if (chain.tail != kNoNode) {
    Batch& last = batches_[chain.tail];
    if (last.first + last.count == values.size()) return &last;
  }
  const auto fresh = static_cast<std::uint32_t>(batches_.size());
  batches_.push_back({static_cast<std::uint32_t>(values.size()), 0, kNoNode});
  if (chain.tail == kNoNode) {
    chain.head = fresh;
  } else {
    batches_[chain.tail].next = fresh;
  }
  chain.tail = fresh;
  return &batches_.back();
}

void PickleReader::append(NodeId target, std::size_t from) {
  const std::uint32_t extra = extra_of(target, false, true);
  const std::size_t count = stack_.size() - from;
  if (count != 0) {
    room_for(chains_[extra].items, tree_.links_, count)->count += static_cast<std::uint32_t>(count);
    tree_.extras_[extra].items += static_cast<std::uint32_t>(count);
    tree_.links_.insert(tree_.links_.end(), stack_.begin() + static_cast<std::ptrdiff_t>(from), stack_.end());
  }
  stack_.resize(from);
}

void PickleReader::set_pairs(NodeId target, std::size_t from) {
  const std::uint32_t extra = extra_of(target, true, false);
  if ((stack_.size() - from) % 2 != 0) fail("sets a dict's key without a value");
  const std::size_t count = (stack_.size() - from) / 2;
  if (count != 0) {
    room_for(chains_[extra].pairs, tree_.pairs_, count)->count += static_cast<std::uint32_t>(count);
    tree_.extras_[extra].pairs += static_cast<std::uint32_t>(count);
    for (std::size_t i = from; i < stack_.size(); i += 2) tree_.pairs_.emplace_back(stack_[i], stack_[i + 1]);
  }
  stack_.resize(from);
}

void PickleReader::build() {
  need(2);
  const NodeId state = pop();
  Extra& extra = tree_.extras_[extra_of(stack_.back(), false, false)];
  if (extra.state != kNoNode) fail("gives state to one object twice");
  extra.state = state;
}

// ---- op-codes -------------------------------------------------------------------------------------------------------

bool PickleReader::step_value(std::uint8_t op) {
  switch (op) {
    case kNone: push(shared(NodeKind::None, none_)); return true;
    case kNewTrue:
      push(shared(NodeKind::Bool, true_));
      node(true_).integer = 1;
      return true;
    case kNewFalse: push(shared(NodeKind::Bool, false_)); return true;
    case kBinInt: push_int(number<std::int32_t>("an integer")); return true;
    case kBinInt1: push_int(number<std::uint8_t>("an integer")); return true;
    case kBinInt2: push_int(number<std::uint16_t>("an integer")); return true;
    case kLong1:
    case kLong4: {
      const std::uint64_t length = op == kLong1 ? number<std::uint8_t>("a length") : number<std::uint32_t>("a length");
      if (length > kLongestInteger) fail("holds an integer of " + std::to_string(length) + " bytes, more than " + std::to_string(kLongestInteger));
      push_long(take(length, "an integer"));
      return true;
    }
    case kBinFloat: {
      const NodeId id = make(NodeKind::Float);
      node(id).real = std::bit_cast<double>(__builtin_bswap64(number<std::uint64_t>("a number")));
      push(id);
      return true;
    }
    case kShortBinUnicode:
    case kShortBinString: push_text(NodeKind::String, take(number<std::uint8_t>("a length"), "a text")); return true;
    case kBinUnicode:
    case kBinString: push_text(NodeKind::String, take(number<std::uint32_t>("a length"), "a text")); return true;
    case kBinUnicode8: push_text(NodeKind::String, take(number<std::uint64_t>("a length"), "a text")); return true;
    case kShortBinBytes: push_text(NodeKind::Binary, take(number<std::uint8_t>("a length"), "a byte string")); return true;
    case kBinBytes: push_text(NodeKind::Binary, take(number<std::uint32_t>("a length"), "a byte string")); return true;
    case kBinBytes8:
    case kByteArray8: push_text(NodeKind::Binary, take(number<std::uint64_t>("a length"), "a byte string")); return true;
    default: return false;
  }
}

bool PickleReader::step_container(std::uint8_t op) {
  switch (op) {
    case kMark: marks_.push_back(stack_.size()); return true;
    case kPop:
      if (!marks_.empty() && marks_.back() == stack_.size()) {
        marks_.pop_back();
      } else {
        pop();
      }
      return true;
    case kPopMark: stack_.resize(pop_mark()); return true;
    case kEmptyTuple: push_tuple(0); return true;
    case kTuple1: push_tuple(1); return true;
    case kTuple2: push_tuple(2); return true;
    case kTuple3: push_tuple(3); return true;
    case kTuple: {
      const std::size_t from = pop_mark();
      push_tuple(stack_.size() - from);
      return true;
    }
    case kEmptyList: push(make(NodeKind::List)); return true;
    case kEmptyDict: push(make(NodeKind::Dict)); return true;
    case kEmptySet: push(make(NodeKind::Set)); return true;
    case kFrozenSet: {
      const std::size_t from = pop_mark();
      const NodeId id = make(NodeKind::Set);
      append(id, from);
      push(id);
      return true;
    }
    case kAppend: need(2); append(stack_[stack_.size() - 2], stack_.size() - 1); return true;
    case kSetItem: need(3); set_pairs(stack_[stack_.size() - 3], stack_.size() - 2); return true;
    case kAppends:
    case kAddItems:
    case kSetItems: {
      const std::size_t from = pop_mark();
      need(stack_.size() - from + 1);
      if (op == kSetItems) {
        set_pairs(stack_[from - 1], from);
      } else {
        append(stack_[from - 1], from);
      }
      return true;
    }
    default: return false;
  }
}

bool PickleReader::step_object(std::uint8_t op) {
  switch (op) {
    case kBinGet: push(get(number<std::uint8_t>("a memo index"))); return true;
    case kLongBinGet: push(get(number<std::uint32_t>("a memo index"))); return true;
    case kBinPut: put(number<std::uint8_t>("a memo index")); return true;
    case kLongBinPut: put(number<std::uint32_t>("a memo index")); return true;
    case kMemoize: put(memo_.size() + sparse_memo_.size()); return true;
    case kGlobal: {
      const std::string_view module = take_line();
      push_global(module, take_line());
      return true;
    }
    case kStackGlobal: {
      need(2);
      const NodeId name = pop(), module = pop();
      if (node(name).kind != NodeKind::String || node(module).kind != NodeKind::String) fail("names a global by what is no text");
      push_global(tree_.text(module), tree_.text(name));
      return true;
    }
    case kReduce: push_call(NodeKind::Call, kNoNode); return true;
    case kNewObj: push_call(NodeKind::New, kNoNode); return true;
    case kNewObjEx: {
      need(3);
      const NodeId kwargs = pop();
      push_call(NodeKind::New, kwargs);
      return true;
    }
    case kBuild: build(); return true;
    case kBinPersId: {
      const NodeId id = pop(), made = make(NodeKind::Persistent);
      node(made).a = id;
      push(made);
      return true;
    }
    default: return false;
  }
}

void PickleReader::refuse(std::uint8_t op) const {
  constexpr char kDigits[] = "0123456789abcdef";
  const std::string code = std::string("op-code 0x") + kDigits[op >> 4] + kDigits[op & 15];
  switch (op) {
    case kInt: case kLong: case kFloat: case kString: case kUnicode: case kGet: case kPut: case kPersId: case kInst: case kObj: case kList: case kDict:
      fail(code + " belongs to the text form of pickle protocols 0 and 1, which is not read", kSaveAgain);
    case kDup: case kExt1: case kExt2: case kExt4: fail(code + " (DUP or EXT) is not read: no checkpoint needs it", kSaveAgain);
    case kNextBuffer: case kReadonlyBuffer:
      fail(code + " takes a buffer from outside the stream, which the file does not have", "Write it again without out-of-band buffers");
    case kProto: fail("has a second PROTO");
    default: fail(code + " is no pickle op-code", kFetchAgain);
  }
}

// False at STOP.
bool PickleReader::step(std::uint8_t op) {
  if (op == kStop) return false;
  if (op == kFrame) {
    if (frame_end_ != 0) fail("has a frame within a frame");
    const auto length = number<std::uint64_t>("a length");
    if (length > end_ - at_) fail("states a frame of " + std::to_string(length) + " bytes, " + std::to_string(end_ - at_) + " are left", kFetchAgain);
    if (length != 0) frame_end_ = at_ + length;
    return true;
  }
  if (!step_value(op) && !step_container(op) && !step_object(op)) refuse(op);
  return true;
}

// ---- the end --------------------------------------------------------------------------------------------------------

// Where the chain's values lie side by side; they are copied to the end if they do not yet.
template <class T>
void PickleReader::lay_out(Chain chain, std::vector<T>& values, std::uint32_t& first) {
  if (chain.head == kNoNode) return;
  first = batches_[chain.head].first;
  if (chain.head == chain.tail) return;
  first = static_cast<std::uint32_t>(values.size());
  for (std::uint32_t at = chain.head; at != kNoNode; at = batches_[at].next) {
    if (values.size() + batches_[at].count >= kNoNode) fail("holds more than four thousand million items");
    for (std::uint32_t i = 0; i < batches_[at].count; ++i) values.push_back(T(values[batches_[at].first + i]));
  }
}

void PickleReader::check_keys(const Extra& extra) const {
  if (extra.pairs < 2) return;
  std::vector<std::string_view> keys;
  for (std::uint32_t i = 0; i < extra.pairs; ++i) {
    const NodeId key = tree_.pairs_[extra.first_pair + i].first;
    if (tree_.kind(key) != NodeKind::String) continue;
    const std::string_view text = tree_.text(key);
    if (text.size() <= kLongestCheckedKey) keys.push_back(text);
  }
  std::sort(keys.begin(), keys.end(), [](std::string_view a, std::string_view b) { return a.size() != b.size() ? a.size() < b.size() : a < b; });
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  if (twice != keys.end()) fail("gives the key '" + printable(*twice) + "' twice in one dict");
}

void PickleReader::finish() {
  if (!marks_.empty()) fail("stops within a mark");
  if (stack_.size() != 1) fail("stops with " + std::to_string(stack_.size()) + " values on the stack instead of one");
  tree_.root_ = stack_.back();
  for (std::size_t i = 0; i < chains_.size(); ++i) {
    Extra& extra = tree_.extras_[i];
    lay_out(chains_[i].items, tree_.links_, extra.first_item);
    lay_out(chains_[i].pairs, tree_.pairs_, extra.first_pair);
    check_keys(extra);
  }
  tree_.bytes_ = blob_;
}

std::pair<PickleTree, std::uint64_t> PickleReader::read() {
  if (end_ < 2 || static_cast<std::uint8_t>(data_[0]) != kProto) fail("does not begin like a pickle of protocol 2 to 5", kSaveAgain);
  at_ = 1;
  const auto protocol = number<std::uint8_t>("a protocol");
  if (protocol < 2 || protocol > 5) fail("is a pickle of protocol " + std::to_string(protocol) + "; 2 to 5 are read", kSaveAgain);
  do {
    start_op();
  } while (step(number<std::uint8_t>("the next op-code")));
  if (frame_end_ != 0 && frame_end_ != at_) fail("stops before its frame ends");
  finish();
  return {std::move(tree_), at_};
}

std::pair<PickleTree, std::uint64_t> read_pickle_prefix(Blob bytes, const std::string& name, std::uint64_t base) {
  return PickleReader(std::move(bytes), name, base).read();
}

PickleTree read_pickle(Blob bytes, const std::string& name, std::uint64_t base) {
  const std::uint64_t size = bytes.size();
  auto [tree, taken] = read_pickle_prefix(std::move(bytes), name, base);
  if (taken != size) {
    throw FormatError(name, base + taken, "has " + std::to_string(size - taken) + " bytes behind the end of its pickle", kDistrust);
  }
  return std::move(tree);
}

}  // namespace miq
