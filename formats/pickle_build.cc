// Nodes, memo and containers of the interpreter. Items that are appended piecemeal are kept as chains of batches and laid
// side by side at the end, so that any order of appends is linear. The memo is an array for the indices that come in
// order, as picklers write them, and an ordered map for others: a huge index costs nothing, and no choice of indices makes
// it slow.
#include <algorithm>

#include "miq/formats/json_events.h"
#include "miq/formats/pickle_reader.h"

namespace miq {

using namespace pickle;

namespace {

constexpr std::size_t kLongestCheckedKey = 256;

// Python 2's module names, and torch's older ones; _compat_pickle.py and torch/serialization.py.
constexpr std::pair<std::string_view, std::string_view> kRenamedModules[] = {
    {"__builtin__", "builtins"},   {"copy_reg", "copyreg"},           {"cPickle", "pickle"},       {"commands", "subprocess"},
    {"exceptions", "builtins"},    {"UserDict", "collections"},       {"UserList", "collections"}, {"UserString", "collections"},
    {"urllib2", "urllib.request"}, {"torch.tensor", "torch._tensor"}, {"dill.dill", "dill._dill"},
};

}  // namespace

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
  while (length > 8 && static_cast<std::uint8_t>(bytes[length - 1]) == (negative ? 0xff : 0) &&
         ((bytes[length - 2] & 0x80) != 0) == negative)
    --length;
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
  if (module.size() > kLongestName || name.size() > kLongestName)
    fail("names a global of more than " + std::to_string(kLongestName) + " bytes");
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
  std::sort(keys.begin(), keys.end(),
            [](std::string_view a, std::string_view b) { return a.size() != b.size() ? a.size() < b.size() : a < b; });
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

}  // namespace miq
