// The interpreter: one loop over op-codes with a stack of node ids, a stack of marks and a memo.
#include "miq/formats/pickle_reader.h"

#include <bit>

#include "miq/formats/pickle_opcodes.h"

namespace miq {

using namespace pickle;

namespace {

constexpr std::uint64_t kLongestInteger = 16;

}  // namespace

// ---- input ----------------------------------------------------------------------------------------------------------

void PickleReader::start_op() {
  op_at_ = at_;
  if (frame_end_ != 0 && at_ == frame_end_) frame_end_ = 0;
}

std::string_view PickleReader::take(std::uint64_t length, std::string_view what) {
  if (length > end_ - at_) {
    fail("is cut short: " + std::string(what) + " takes " + std::to_string(length) + " bytes, " + std::to_string(end_ - at_) + " are left",
         kFetchAgain);
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
      if (length > kLongestInteger)
        fail("holds an integer of " + std::to_string(length) + " bytes, more than " + std::to_string(kLongestInteger));
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
    case kAppend:
      need(2);
      append(stack_[stack_.size() - 2], stack_.size() - 1);
      return true;
    case kSetItem:
      need(3);
      set_pairs(stack_[stack_.size() - 3], stack_.size() - 2);
      return true;
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
    case kInt:
    case kLong:
    case kFloat:
    case kString:
    case kUnicode:
    case kGet:
    case kPut:
    case kPersId:
    case kInst:
    case kObj:
    case kList:
    case kDict: fail(code + " belongs to the text form of pickle protocols 0 and 1, which is not read", kSaveAgain);
    case kDup:
    case kExt1:
    case kExt2:
    case kExt4: fail(code + " (DUP or EXT) is not read: no checkpoint needs it", kSaveAgain);
    case kNextBuffer:
    case kReadonlyBuffer:
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
    if (length > end_ - at_)
      fail("states a frame of " + std::to_string(length) + " bytes, " + std::to_string(end_ - at_) + " are left", kFetchAgain);
    if (length != 0) frame_end_ = at_ + length;
    return true;
  }
  if (!step_value(op) && !step_container(op) && !step_object(op)) refuse(op);
  return true;
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
