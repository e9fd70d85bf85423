// One stream of its own copies while another computes. Packed bytes of a layer are all on their way before the host waits for the copies; then the
// kernels that decode them are queued on the stream that computes, so that everything which reads the matrices is behind them, and nothing waits for them.
// LibTorch's allocator keeps a piece of memory that two streams use until both are done with it.
#include "miq/model/layer_loader.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "miq/base/cuda_library.h"
#include "miq/base/error.h"
#include "miq/formats/packed_view.h"

namespace miq {
namespace {

at::ScalarType torch_type(DType dtype, std::string_view name) {
  switch (dtype) {
    case DType::Bool: return at::kBool;
    case DType::U8: return at::kByte;
    case DType::I8: return at::kChar;
    case DType::I16: return at::kShort;
    case DType::I32: return at::kInt;
    case DType::I64: return at::kLong;
    case DType::F8E4M3: return at::kFloat8_e4m3fn;
    case DType::F8E5M2: return at::kFloat8_e5m2;
    case DType::F16: return at::kHalf;
    case DType::BF16: return at::kBFloat16;
    case DType::F32: return at::kFloat;
    case DType::F64: return at::kDouble;
    case DType::U16:
    case DType::U32:
    case DType::U64: break;
  }
  throw Error("tensor '" + std::string(name) + "' has element type " + std::string(dtype_name(dtype)) +
              ", which the forward pass cannot compute with; store it as F32, BF16 or F16");
}

std::uint64_t dense_bytes(const Tensor& stored, at::ScalarType type) { return static_cast<std::uint64_t>(stored.elements()) * c10::elementSize(type); }

}  // namespace

std::string PackedLoads::text(const std::string& device) const {
  if (by_kernel + by_processor == 0) return {};
  const auto matrices = [](std::int64_t count) { return std::to_string(count) + (count == 1 ? " packed matrix" : " packed matrices"); };
  const std::string here = matrices(by_processor) + " decoded on the processor (" + why + ")";
  if (by_kernel == 0) return here;
  const std::string there = matrices(by_kernel) + " decoded on " + device;
  return by_processor == 0 ? there : there + ", " + std::to_string(by_processor) + " on the processor (" + why + ")";
}

at::Tensor to_torch(const Tensor& tensor, std::string_view name, at::ScalarType type) {
  const at::NoGradGuard no_grad;
  const at::ScalarType from = torch_type(tensor.dtype, name);
  auto blob = std::make_unique<Blob>(decode(tensor, name));
  // from_blob wants a mutable pointer; nothing here writes through it.
  void* data = const_cast<std::uint8_t*>(blob->bytes().data());
  if (blob->empty()) return at::empty(tensor.shape, type);
  if (reinterpret_cast<std::uintptr_t>(data) % c10::elementSize(from) != 0) {
    auto copy = std::make_unique<Blob>(std::vector<std::uint8_t>(blob->bytes().begin(), blob->bytes().end()));
    blob = std::move(copy);
    data = const_cast<std::uint8_t*>(blob->bytes().data());
  }
  Blob* owner = blob.release();
  const at::Tensor view = at::from_blob(data, tensor.shape, [owner](void*) { delete owner; }, at::TensorOptions(from));
  return view.to(type);
}

const Tensor& stored_tensor(const Model& model, const std::string& name) {
  const auto found = model.tensors.find(name);
  if (found == model.tensors.end()) throw Error("model '" + model.name + "' has no tensor '" + name + "'; check it with inspect-checkpoint");
  return found->second;
}

LayerLoader::LayerLoader(const Model& model, at::ScalarType linear_type, at::Device device, const MiqCudaTable* kernels)
    : model_(model), linear_type_(linear_type), device_(device), kernels_(kernels) {
  // One for good: LibTorch keeps freed memory for the stream that it was taken for.
  if (!device.is_cpu()) copying_ = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
}

LayerLoader::Tensors LayerLoader::load(std::int64_t index, std::optional<InputSite> site) const {
  const at::NoGradGuard no_grad;
  const auto layers = static_cast<std::int64_t>(model_.config.layers.size());
  if (index < 0 || index >= layers) throw Error("no layer " + std::to_string(index) + " in a model of " + std::to_string(layers));
  const Architecture& rules = architecture(model_.config.architecture);
  const std::vector<LayerTensor> wanted = layer_tensors(model_.config, index);
  Tensors tensors;
  std::vector<Sent> sent;
  for (const LayerTensor& tensor : wanted) {
    if (site && !(tensor.linear() && tensor.site() == *site)) continue;
    const std::string name = layer_tensor_name(rules, index, tensor.name);
    const Tensor& stored = stored_tensor(model_, name);
    if (tensor.linear()) {
      if (std::optional<Sent> packed = send_packed(stored, name, tensor.name)) {
        sent.push_back(std::move(*packed));
        continue;
      }
    }
    tensors.emplace(tensor.name, to_device(to_torch(stored, name, tensor.linear() ? linear_type_ : at::kFloat)));
  }
  if (copying_) c10::impl::VirtualGuardImpl(device_.type()).synchronizeStream(*copying_);
  for (const Sent& matrix : sent) tensors.emplace(matrix.rule_name, decode(matrix));
  return tensors;
}

std::optional<LayerLoader::Sent> LayerLoader::send_packed(const Tensor& stored, const std::string& name, std::string_view rule_name) const {
  if (kernels_ == nullptr || stored.encoding != Encoding::Packed) return std::nullopt;
  const auto leave = [&](const std::string& why) {
    leave_to_processor(name, why);
    return std::nullopt;
  };
  PackedArrays arrays;
  try {
    arrays = packed_arrays(stored, name);
  } catch (const FormatError&) {
    throw;  // the processor would refuse it as well
  } catch (const Error& error) {
    return leave(error.what());
  }
  const std::uint64_t bytes = arrays.image_bytes();
  if (bytes >= dense_bytes(stored, linear_type_)) return leave("as the kernel reads it it takes more bytes than decoded");
  if (arrays.octets.size() > static_cast<std::uint64_t>(kMostDecodedOctets)) return leave("it has more columns than the kernel takes");
  Sent sent{rule_name, {}, packed_rounding(stored.dtype), {}};
  const auto count = static_cast<std::int64_t>(bytes);
  const auto options = at::TensorOptions(at::kByte);
  std::optional<c10::StreamGuard> guard;
  if (copying_) guard.emplace(*copying_);
  try {
    sent.image = at::empty({count}, options.device(device_));
  } catch (const c10::OutOfMemoryError&) {
    return leave(device_.str() + " has no memory left for its packed bytes");
  }
  const at::Tensor host = device_.is_cpu() ? sent.image : at::empty({count}, options.pinned_memory(true));
  sent.view = arrays.write_image({host.mutable_data_ptr<std::uint8_t>(), bytes}, sent.image.const_data_ptr());
  if (copying_) {
    sent.image.copy_(host, true);
    guard.reset();
    sent.image.record_stream(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  }
  const std::lock_guard lock(mutex_);
  by_kernel_.insert(name);
  return sent;
}

at::Tensor LayerLoader::decode(const Sent& sent) const {
  const at::Tensor matrix = at::empty({sent.view.rows, sent.view.cols}, at::TensorOptions(linear_type_).device(device_));
  const int status = kernels_->packed_decode(device_.has_index() ? device_.index() : 0, &sent.view, sent.rounding, linear_type_ == at::kFloat ? 1 : 0,
                                             matrix.mutable_data_ptr());
  check_cuda(*kernels_, status, "decoding a packed matrix");
  return matrix;
}

// Through pinned memory, which the GPU reads by itself; LibTorch keeps such buffers and hands them out again.
at::Tensor LayerLoader::to_device(const at::Tensor& host) const {
  if (!copying_) return host;
  at::Tensor there;
  {
    const c10::StreamGuard guard(*copying_);
    if (host.numel() == 0) return host.to(device_);
    const at::Tensor pinned = at::empty(host.sizes(), host.options().pinned_memory(true)).copy_(host);
    there = pinned.to(device_, true);
  }
  // The stream of this thread's computations is where the layer will be used, and let go.
  there.record_stream(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  return there;
}

std::uint64_t LayerLoader::packed_bytes(std::int64_t index) const {
  std::uint64_t bytes = 0;
  if (kernels_ == nullptr) return bytes;
  const Architecture& rules = architecture(model_.config.architecture);
  for (const LayerTensor& tensor : layer_tensors(model_.config, index)) {
    const auto found = model_.tensors.find(layer_tensor_name(rules, index, tensor.name));
    if (!tensor.linear() || found == model_.tensors.end() || found->second.encoding != Encoding::Packed) continue;
    bytes += std::min(most_image_bytes(found->second), dense_bytes(found->second, linear_type_));
  }
  return bytes;
}

void LayerLoader::leave_to_processor(const std::string& name, const std::string& why) const {
  const std::lock_guard lock(mutex_);
  if (by_processor_.insert(name).second && why_.empty()) why_ = name + ": " + why;
}

PackedLoads LayerLoader::packed_loads() const {
  const std::lock_guard lock(mutex_);
  return {static_cast<std::int64_t>(by_kernel_.size()), static_cast<std::int64_t>(by_processor_.size()), why_};
}

}  // namespace miq
