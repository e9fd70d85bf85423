// A call of one of torch's rebuild functions becomes a view of a storage; wrappers (Parameter, tensor subclasses) are
// taken off first, a bounded number of them. Copies are made dimension by dimension after neighbouring dimensions that
// lie in one piece are joined.
#include <algorithm>
#include <array>
#include <cstring>

#include "miq/base/checked.h"
#include "miq/base/error.h"
#include "miq/formats/json_events.h"
#include "miq/formats/pickle_objects.h"
#include "miq/formats/torch_file.h"
#include "miq/formats/torch_parts.h"

namespace miq {
namespace {

constexpr std::string_view kDistrust = "torch.save does not write this: do not trust the file";
constexpr std::string_view kDense = "Save the model with plain dense tensors";
constexpr int kMostWrappers = 8;
constexpr std::size_t kMostDimensions = 64;

enum class Rebuild : std::uint8_t { Plain, V2, V3, Parameter, FromType, FromCpu, Refused };
struct RebuildRow {
  std::string_view module, name;
  Rebuild how;
  std::string_view kind;  // of what is refused
};
constexpr RebuildRow kRebuilds[] = {
    {"torch._utils", "_rebuild_tensor_v2", Rebuild::V2, ""},
    {"torch._utils", "_rebuild_tensor", Rebuild::Plain, ""},
    {"torch._utils", "_rebuild_tensor_v3", Rebuild::V3, ""},
    {"torch._utils", "_rebuild_parameter", Rebuild::Parameter, ""},
    {"torch._utils", "_rebuild_parameter_with_state", Rebuild::Parameter, ""},
    {"torch.nn.parameter", "Parameter", Rebuild::Parameter, ""},
    {"torch._tensor", "_rebuild_from_type_v2", Rebuild::FromType, ""},
    {"torch._tensor", "_rebuild_from_type", Rebuild::FromType, ""},
    {"torch._utils", "_rebuild_device_tensor_from_cpu_tensor", Rebuild::FromCpu, ""},
    {"torch._utils", "_rebuild_xla_tensor", Rebuild::FromCpu, ""},
    {"torch._utils", "_rebuild_qtensor", Rebuild::Refused, "a quantized"},
    {"torch._utils", "_rebuild_sparse_tensor", Rebuild::Refused, "a sparse"},
    {"torch._utils", "_rebuild_sparse_csr_tensor", Rebuild::Refused, "a sparse"},
    {"torch._utils", "_rebuild_nested_tensor", Rebuild::Refused, "a nested"},
    {"torch._utils", "_rebuild_meta_tensor_no_storage", Rebuild::Refused, "a meta (dataless)"},
    {"torch._utils", "_rebuild_wrapper_subclass", Rebuild::Refused, "a wrapped (dataless)"},
    {"torch._utils", "_rebuild_device_tensor_from_numpy", Rebuild::Refused, "a device"},
    {"torch._utils", "_rebuild_mlc_tensor", Rebuild::Refused, "a device"},
};

const RebuildRow* rebuild_of(const PickleTree& tree, NodeId callee) {
  const PickleGlobal* global = tree.global(callee);
  if (!global || !global->module.starts_with("torch.")) return nullptr;
  const auto found = std::find_if(std::begin(kRebuilds), std::end(kRebuilds),
                                  [&](const RebuildRow& row) { return row.name == global->name && row.module == global->module; });
  return found == std::end(kRebuilds) ? nullptr : &*found;
}

// The elements that a shape reaches, less one; nothing where the sum overflows. REQUIRES a shape without zeros.
std::optional<std::int64_t> last_element(std::int64_t offset, const Shape& shape, const std::vector<std::int64_t>& stride) {
  std::optional<std::int64_t> last = offset;
  for (std::size_t i = 0; i < shape.size() && last; ++i) {
    const auto reach = checked_mul(shape[i] - 1, stride[i]);
    last = reach ? checked_add(*last, *reach) : std::nullopt;
  }
  return last;
}

// ---- copies ---------------------------------------------------------------------------------------------------------

struct Dimension {
  std::int64_t size, stride;
};

// Without dimensions of one element, and with neighbours joined that are one run of memory.
std::vector<Dimension> joined(const TorchTensor& tensor) {
  std::vector<Dimension> result;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    if (tensor.shape[i] == 1) continue;
    if (!result.empty() && tensor.stride[i] != 0 && result.back().stride == tensor.shape[i] * tensor.stride[i]) {
      result.back() = {result.back().size * tensor.shape[i], tensor.stride[i]};
    } else {
      result.push_back({tensor.shape[i], tensor.stride[i]});
    }
  }
  if (result.empty()) result.push_back({1, 1});
  return result;
}

template <class Word>
void copy_row(const std::uint8_t* from, std::uint8_t* to, const Dimension& row) {
  const auto count = static_cast<std::size_t>(row.size);
  if (row.stride == 1) {
    std::memcpy(to, from, count * sizeof(Word));
    return;
  }
  for (std::size_t i = 0; i < count; ++i)
    std::memcpy(to + i * sizeof(Word), from + i * static_cast<std::size_t>(row.stride) * sizeof(Word), sizeof(Word));
}

// `from` is the first element. Every dimension has at least one.
template <class Word>
void copy_view(const std::uint8_t* from, std::uint8_t* to, const std::vector<Dimension>& dimensions) {
  const Dimension row = dimensions.back();
  const std::size_t outer = dimensions.size() - 1;
  std::array<std::int64_t, kMostDimensions> index{};
  std::int64_t at = 0;
  for (;;) {
    copy_row<Word>(from + static_cast<std::size_t>(at) * sizeof(Word), to, row);
    to += static_cast<std::size_t>(row.size) * sizeof(Word);
    std::size_t turning = outer;
    while (turning-- > 0) {
      at += dimensions[turning].stride;
      if (++index[turning] < dimensions[turning].size) break;
      at -= dimensions[turning].size * dimensions[turning].stride;
      index[turning] = 0;
    }
    if (turning == static_cast<std::size_t>(-1)) return;
  }
}

template <class Word>
void swap_bytes(std::uint8_t* bytes, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) std::reverse(bytes + i * sizeof(Word), bytes + (i + 1) * sizeof(Word));
}

// Memory for a copy, given back to the budget with its last Blob.
class Copy {
 public:
  Copy(std::shared_ptr<std::atomic<std::uint64_t>> budget, std::uint64_t size)
      : budget_(std::move(budget)), size_(size), bytes_(std::make_unique_for_overwrite<std::uint8_t[]>(size)) {}
  ~Copy() { budget_->fetch_add(size_); }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;
  std::uint8_t* data() { return bytes_.get(); }

 private:
  std::shared_ptr<std::atomic<std::uint64_t>> budget_;
  std::uint64_t size_;
  std::unique_ptr<std::uint8_t[]> bytes_;
};

bool take_from(std::atomic<std::uint64_t>& budget, std::uint64_t bytes) {
  std::uint64_t left = budget.load();
  do {
    if (bytes > left) return false;
  } while (!budget.compare_exchange_weak(left, left - bytes));
  return true;
}

}  // namespace

bool TorchTensor::contiguous() const {
  if (checked_elements(shape) == 0u) return true;
  std::int64_t expected = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == 1) continue;
    if (stride[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

bool TorchTensor::same_view(const TorchTensor& other) const {
  return key == other.key && dtype == other.dtype && offset == other.offset && shape == other.shape && stride == other.stride;
}

bool TorchFile::is_tensor(NodeId node) const {
  const PickleTree& tree = parts_->tree;
  return tree.kind(node) == NodeKind::Call && rebuild_of(tree, tree.callee(node)) != nullptr;
}

namespace {

// The call at the heart of a node, its wrappers taken off.
struct Core {
  const RebuildRow* rebuild = nullptr;
  std::span<const NodeId> args;
  bool parameter = false, requires_grad = false;
};

Core unwrap(const TorchFile::Parts& parts, NodeId node) {
  const PickleTree& tree = parts.tree;
  Core core{rebuild_of(tree, tree.callee(node)), tree.items(tree.args(node))};
  for (int i = 0;; ++i) {
    if (!core.rebuild) parts.fail(node, "a tensor is wrapped around what is no tensor", kDistrust);
    if (i == kMostWrappers) parts.fail(node, "a tensor is wrapped more than " + std::to_string(kMostWrappers) + " times", kDistrust);
    switch (core.rebuild->how) {
      case Rebuild::Parameter:
      case Rebuild::FromCpu: {
        if (core.args.empty()) parts.fail(node, "a tensor is wrapped around nothing", kDistrust);
        if (core.rebuild->how == Rebuild::Parameter) {
          core.parameter = true;
          core.requires_grad |= core.args.size() < 2 || tree.boolean(core.args[1]);
        }
        const NodeId inner = core.args[0];
        if (tree.kind(inner) != NodeKind::Call) parts.fail(node, "a tensor is wrapped around what is no tensor", kDistrust);
        core.rebuild = rebuild_of(tree, tree.callee(inner));
        core.args = tree.items(tree.args(inner));
        break;
      }
      case Rebuild::FromType: {  // (function, class, arguments, state)
        if (core.args.size() < 3) parts.fail(node, "a tensor of a class of its own lacks its arguments", kDistrust);
        if (const PickleGlobal* type = tree.global(core.args[1])) core.parameter |= type->name == "Parameter";
        core.rebuild = rebuild_of(tree, core.args[0]);
        core.args = tree.items(core.args[2]);
        break;
      }
      default: return core;
    }
  }
}

std::vector<std::int64_t> numbers(const TorchFile::Parts& parts, NodeId node, NodeId list, const char* what) {
  std::vector<std::int64_t> result;
  const bool sequence =
      parts.tree.kind(list) == NodeKind::Tuple || parts.tree.kind(list) == NodeKind::List || is_call_of(parts.tree, list, "torch", "Size");
  const auto items = elements(parts.tree, list);
  if (!sequence || items.size() > kMostDimensions)
    parts.fail(node, std::string("a tensor's ") + what + " is no list of up to 64 numbers", kDistrust);
  for (const NodeId item : items) {
    const auto number = as_int(parts.tree, item);
    if (!number || *number < 0)
      parts.fail(node, std::string("a tensor's ") + what + " holds something else than numbers from 0 on", kDistrust);
    result.push_back(*number);
  }
  return result;
}

// The element type: of the storage, or (version 3) stated.
DType dtype_of(const TorchFile::Parts& parts, NodeId node, const Core& core, const TorchStorage& storage) {
  const TorchType* type = storage.type;
  if (core.rebuild->how == Rebuild::V3) {
    const PickleGlobal* named = core.args.size() > 6 ? parts.tree.global(core.args[6]) : nullptr;
    type = named && named->module == "torch" ? torch_dtype(named->name) : nullptr;
    if (!type) parts.fail(node, "a tensor has the unknown element type " + (named ? printable(named->full_name()) : "(none)"), kDense);
  }
  if (!type->type) {
    parts.fail(node, "a tensor has elements of type " + std::string(type->dtype) + ", which is not read",
               "Save it with a real element type, float32 for example");
  }
  return *type->type;
}

void refuse_bits(const TorchFile::Parts& parts, NodeId node, const Core& core) {
  const std::size_t place = core.rebuild->how == Rebuild::V3 ? 7 : 6;
  if (core.rebuild->how == Rebuild::Plain || core.args.size() <= place) return;
  for (const auto& [key, value] : dict_items(parts.tree, core.args[place])) {
    if (parts.tree.boolean(value)) {
      parts.fail(node,
                 "a tensor is a view with the bit '" + printable(parts.tree.text(key)) + "' (conjugate or negative) set, which is not read",
                 "Call resolve_conj() and resolve_neg() before saving");
    }
  }
}

}  // namespace

std::optional<TorchTensor> TorchFile::tensor(NodeId node) const {
  const Parts& parts = *parts_;
  const PickleTree& tree = parts.tree;
  if (is_call_of(tree, node, "torch.storage", "_load_from_bytes")) {
    parts.fail(node, "a storage was pickled inside the pickle, without torch.save",
               "Write the file with torch.save instead of pickle.dump");
  }
  if (!is_tensor(node)) return std::nullopt;
  const Core core = unwrap(parts, node);
  if (core.rebuild->how == Rebuild::Refused) parts.fail(node, std::string(core.rebuild->kind) + " tensor, which is not read", kDense);
  const std::size_t fewest = core.rebuild->how == Rebuild::Plain ? 4 : core.rebuild->how == Rebuild::V2 ? 6 : 7;
  if (core.args.size() < fewest || core.args.size() > (core.rebuild->how == Rebuild::Plain ? 4 : fewest + 1)) {
    parts.fail(node, "a tensor has " + std::to_string(core.args.size()) + " arguments", kDistrust);
  }
  if (is_call_of(tree, core.args[0], "torch.storage", "_load_from_bytes")) {
    parts.fail(node, "a tensor was pickled without torch.save", "Write the file with torch.save instead of pickle.dump");
  }
  const TorchStorageView* found = parts.view(core.args[0]);
  if (!found) parts.fail(node, "a tensor has no storage", kDistrust);
  const TorchStorageView& view = *found;
  const TorchStorage& storage = parts.storages[view.storage];

  TorchTensor result;
  result.node = node;
  result.key = storage.key;
  result.dtype = dtype_of(parts, node, core, storage);
  refuse_bits(parts, node, core);
  const auto offset = as_int(tree, core.args[1]);
  if (!offset || *offset < 0) parts.fail(node, "a tensor's offset is no number from 0 on", kDistrust);
  result.shape = numbers(parts, node, core.args[2], "shape");
  result.stride = numbers(parts, node, core.args[3], "stride");
  if (result.shape.size() != result.stride.size()) parts.fail(node, "a tensor has another number of strides than of dimensions", kDistrust);
  const auto bytes = tensor_bytes(result.dtype, result.shape);
  if (!bytes || *bytes > static_cast<std::uint64_t>(INT64_MAX)) parts.fail(node, "a tensor's shape is too large", kDistrust);
  const std::uint64_t size = dtype_bytes(result.dtype);
  if (*bytes != 0) {
    const auto last = last_element(*offset, result.shape, result.stride);
    if (!last || static_cast<std::uint64_t>(*last) >= view.bytes / size) {
      parts.fail(node, "a tensor leaves its storage '" + printable(storage.key) + "' of " + std::to_string(view.bytes) + " bytes",
                 kDistrust);
    }
  }
  if (view.begin % size != 0) parts.fail(node, "a tensor begins within an element of its storage", kDistrust);
  const auto from_start = checked_add(*offset, static_cast<std::int64_t>(view.begin / size));
  if (!from_start) parts.fail(node, "a tensor's offset is too large", kDistrust);
  result.offset = *from_start;
  result.parameter = core.parameter;
  result.requires_grad = core.requires_grad || (core.args.size() > 4 && tree.boolean(core.args[4]));
  return result;
}

Tensor TorchFile::read(const TorchTensor& tensor, std::string_view tensor_name) const {
  const Parts& parts = *parts_;
  const std::string subject = "tensor " + printable(tensor_name) + ": ";
  const auto known = parts.by_key.find(tensor.key);
  const auto bytes = tensor_bytes(tensor.dtype, tensor.shape);
  if (known == parts.by_key.end() || !bytes || tensor.shape.size() != tensor.stride.size())
    throw FormatError(parts.name, subject + "is not of this file");
  const TorchStorage& storage = parts.storages[known->second];
  if (*bytes == 0) return dense_tensor(tensor.dtype, tensor.shape, Blob());
  const std::uint64_t size = dtype_bytes(tensor.dtype);
  const auto last = last_element(tensor.offset, tensor.shape, tensor.stride);
  if (!last || tensor.offset < 0 || static_cast<std::uint64_t>(*last) >= storage.data.size() / size)
    throw FormatError(parts.name, subject + "is not of this file");

  auto& verified = parts.verified[known->second];
  if (storage.record && !verified.load()) {
    parts.zip->verify(*storage.record);
    verified = true;
  }
  const bool swap = parts.big_endian && size > 1;
  const std::uint64_t begin = static_cast<std::uint64_t>(tensor.offset) * size;
  if (tensor.contiguous() && !swap) return dense_tensor(tensor.dtype, tensor.shape, storage.data.slice(begin, *bytes));

  if (!take_from(*parts.budget, *bytes)) {
    throw FormatError(
        parts.name,
        subject + "takes " + std::to_string(*bytes) + " bytes unfolded, too many for a file of " + std::to_string(parts.file.size()),
        "Save it with .contiguous() if it is right");
  }
  std::shared_ptr<Copy> copy;
  try {
    copy = std::make_shared<Copy>(parts.budget, *bytes);
  } catch (...) {
    parts.budget->fetch_add(*bytes);
    throw;
  }
  const std::uint8_t* from = storage.data.bytes().data() + begin;
  const std::size_t count = *bytes / size;
  const auto run = [&]<class Word>(Word) {
    copy_view<Word>(from, copy->data(), joined(tensor));
    if (swap) swap_bytes<Word>(copy->data(), count);
  };
  switch (size) {
    case 1: run(std::uint8_t{}); break;
    case 2: run(std::uint16_t{}); break;
    case 4: run(std::uint32_t{}); break;
    default: run(std::uint64_t{}); break;
  }
  const Bytes view(copy->data(), *bytes);
  return dense_tensor(tensor.dtype, tensor.shape, Blob(std::move(copy), view));
}

}  // namespace miq
