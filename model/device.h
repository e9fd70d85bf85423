// Where tensors lie and products run: the processor, or NVIDIA GPUs through LibTorch's CUDA part.
//
// miq links LibTorch's CPU libraries alone. Its CUDA part (libtorch_cuda.so, beside libtorch_cpu.so in the same wheel) is loaded when a GPU is
// asked for; it then registers its kernels with LibTorch's dispatcher, and every ATen operation takes tensors on a GPU. So one installation
// runs with and without a GPU, and starts fast. What GPUs there are is asked of the driver itself (libcuda.so.1), which obeys
// CUDA_VISIBLE_DEVICES: hidden devices do not exist, and numbers count the visible ones.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace miq {

// Of --device.
struct DeviceChoice {
  enum class Kind { Auto, Cpu, Cuda } kind = Kind::Cpu;
  std::vector<int> numbers;  // of visible devices, in the order given, none twice; empty: the one with most free memory
};
// "auto", "cpu", "cuda", "cuda:1", "cuda:0,1". Throws UsageError.
DeviceChoice parse_device(std::string_view text);
inline constexpr const char* kDeviceHelp =
    "cpu; cuda, cuda:N or cuda:N,M: NVIDIA GPUs by number among the visible ones (CUDA_VISIBLE_DEVICES); auto: the GPU with most free memory, else cpu";

struct CudaDevice {
  int number = 0;
  std::string name;  // "NVIDIA H100 80GB HBM3"
  std::uint64_t memory = 0, free = 0;  // bytes; free is 0 where the driver does not say
  int major = 0, minor = 0;            // compute capability
};
struct CudaDevices {
  std::vector<CudaDevice> devices;
  std::string problem;  // why there are none, as a message goes on: "no NVIDIA driver (libcuda.so.1: …)"; empty where there are some
};
// What the driver shows. Never throws for what the machine lacks. `driver`: another library than libcuda.so.1, for tests.
CudaDevices find_cuda_devices(const std::string& driver = "libcuda.so.1");

// The numbers that a choice means among what was found; empty: the processor. Throws Error that says what was found.
// Auto takes the processor where there is no GPU.
std::vector<int> choose_cuda_devices(const DeviceChoice& choice, const CudaDevices& found);

// Loads LibTorch's CUDA part; once is enough, and it must be before anything asks LibTorch for a device. Throws Error that says what is missing.
// `library`: another path than libtorch_cuda.so beside libtorch_cpu.so, for tests.
void load_cuda(const std::string& library = {});

// All of it: devices ready for use, at least one. The processor, or GPUs with LibTorch's CUDA part loaded; auto falls back to the processor
// where that cannot be loaded, and says why in `fallback` where it is given.
std::vector<at::Device> open_devices(const DeviceChoice& choice, std::string* fallback = nullptr);

// Bytes free and in all on a GPU, what LibTorch keeps cached counted as free. {0, 0} for the processor.
struct DeviceMemory {
  std::uint64_t free = 0, total = 0;
};
DeviceMemory device_memory(at::Device device);
// Gives back what LibTorch keeps cached; nothing on the processor.
void empty_device_cache(at::Device device);
// Waits for all work on a device; nothing on the processor.
void synchronize(at::Device device);
// What another computation on the same device will read again, out of its memory: a copy in pinned host memory, written and read by the
// device itself. Behind the device's earlier work; the host must not look at it. On the processor: the tensor itself.
at::Tensor moved_to_host(const at::Tensor& tensor);
at::Tensor moved_to_device(const at::Tensor& tensor, at::Device device);
// "NVIDIA H100 80GB HBM3"; empty for the processor.
std::string device_name(at::Device device);

}  // namespace miq
