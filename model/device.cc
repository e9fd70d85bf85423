// The driver is asked through its C interface by dlsym(), so nothing here needs CUDA's headers or libraries. Free memory needs a context, which
// takes a second on a large machine, so it is asked for only where there are several devices.
#include "miq/model/device.h"

#include <ATen/ops/empty.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <memory>
#include <mutex>

#include "miq/base/error.h"

namespace miq {
namespace {

// The driver's functions that we call (cuda.h); results are 0 for success.
struct Driver {
  int (*init)(unsigned) = nullptr;
  int (*count)(int*) = nullptr;
  int (*get)(int*, int) = nullptr;
  int (*name)(char*, int, int) = nullptr;
  int (*total)(std::size_t*, int) = nullptr;
  int (*attribute)(int*, int, int) = nullptr;
  int (*error)(int, const char**) = nullptr;
  int (*retain)(void**, int) = nullptr;
  int (*release)(int) = nullptr;
  int (*push)(void*) = nullptr;
  int (*pop)(void**) = nullptr;
  int (*memory)(std::size_t*, std::size_t*) = nullptr;
};
constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*

// The first function that is missing; empty: none.
std::string bind(void* library, Driver& driver) {
  std::string missing;
  const auto find = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (!function && missing.empty()) missing = name;
  };
  find("cuInit", driver.init);
  find("cuDeviceGetCount", driver.count);
  find("cuDeviceGet", driver.get);
  find("cuDeviceGetName", driver.name);
  find("cuDeviceTotalMem_v2", driver.total);
  find("cuDeviceGetAttribute", driver.attribute);
  find("cuGetErrorName", driver.error);
  find("cuDevicePrimaryCtxRetain", driver.retain);
  find("cuDevicePrimaryCtxRelease_v2", driver.release);
  find("cuCtxPushCurrent_v2", driver.push);
  find("cuCtxPopCurrent_v2", driver.pop);
  find("cuMemGetInfo_v2", driver.memory);
  return missing;
}

std::string error_name(const Driver& driver, int code) {
  const char* name = nullptr;
  return driver.error(code, &name) == 0 && name ? name : "error " + std::to_string(code);
}

std::uint64_t free_memory(const Driver& driver, int device) {
  void *context = nullptr, *popped = nullptr;
  if (driver.retain(&context, device) != 0) return 0;
  std::size_t free = 0, total = 0;
  if (driver.push(context) == 0) {
    if (driver.memory(&free, &total) != 0) free = 0;
    driver.pop(&popped);
  }
  driver.release(device);
  return free;
}

std::string list_of(const CudaDevices& found) {
  if (found.devices.empty()) return found.problem;
  std::string text;
  for (const CudaDevice& device : found.devices) {
    text += (text.empty() ? "" : ", ") + ("cuda:" + std::to_string(device.number)) + " (" + device.name + ", " + std::to_string(device.memory >> 20) + " MiB)";
  }
  return text;
}

constexpr const char* kNoGpu = ". Leave --device out, or give --device cpu, to run on the processor";

// Where the dynamic linker found libtorch_cpu.so.
std::string torch_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&at::detail::getCUDAHooks), &info) == 0 || !info.dli_fname) return {};
  std::error_code ignored;
  const std::filesystem::path path = std::filesystem::canonical(info.dli_fname, ignored);
  return path.parent_path().string();
}

c10::DeviceAllocator& allocator(at::Device device) { return *c10::getDeviceAllocator(device.type()); }

}  // namespace

DeviceChoice parse_device(std::string_view text) {
  if (text == "auto") return {DeviceChoice::Kind::Auto, {}};
  if (text == "cpu") return {DeviceChoice::Kind::Cpu, {}};
  DeviceChoice choice{DeviceChoice::Kind::Cuda, {}};
  const UsageError wrong("--device '" + std::string(text) + "': give auto, cpu, cuda, cuda:N or cuda:N,M, such as cuda:0");
  if (text == "cuda") return choice;
  if (!text.starts_with("cuda:")) throw wrong;
  text.remove_prefix(5);
  for (;;) {
    int number = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (failure != std::errc() || number < 0 || number > 127) throw wrong;
    if (std::find(choice.numbers.begin(), choice.numbers.end(), number) != choice.numbers.end()) {
      throw UsageError("--device: cuda:" + std::to_string(number) + " is given twice");
    }
    choice.numbers.push_back(number);
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    if (text.empty()) return choice;
    if (text.front() != ',') throw wrong;
    text.remove_prefix(1);
  }
}

CudaDevices find_cuda_devices(const std::string& driver_name) {
  CudaDevices found;
  void* library = dlopen(driver_name.c_str(), RTLD_NOW | RTLD_LOCAL);  // stays loaded: LibTorch uses the same one
  if (!library) {
    found.problem = "no NVIDIA driver (" + std::string(dlerror()) + ")";
    return found;
  }
  Driver driver;
  if (const std::string missing = bind(library, driver); !missing.empty()) {
    found.problem = "an NVIDIA driver that is too old (" + driver_name + " has no " + missing + ")";
    return found;
  }
  int count = 0;
  int code = driver.init(0);
  if (code == 0) code = driver.count(&count);
  if (code != 0 || count == 0) {
    found.problem = "an NVIDIA driver that shows no device" + (code != 0 ? " (" + error_name(driver, code) + ")" : std::string()) +
                    "; CUDA_VISIBLE_DEVICES may hide them";
    return found;
  }
  for (int number = 0; number < count; ++number) {
    CudaDevice device;
    device.number = number;
    int handle = 0;
    std::array<char, 256> name{};
    std::size_t total = 0;
    if (driver.get(&handle, number) != 0) continue;
    if (driver.name(name.data(), static_cast<int>(name.size()) - 1, handle) == 0) device.name = name.data();
    if (driver.total(&total, handle) == 0) device.memory = total;
    driver.attribute(&device.major, kMajor, handle);
    driver.attribute(&device.minor, kMinor, handle);
    if (count > 1) device.free = free_memory(driver, handle);
    found.devices.push_back(std::move(device));
  }
  if (found.devices.empty()) found.problem = "an NVIDIA driver none of whose " + std::to_string(count) + " devices answers";
  return found;
}

std::vector<int> choose_cuda_devices(const DeviceChoice& choice, const CudaDevices& found) {
  if (choice.kind == DeviceChoice::Kind::Cpu) return {};
  if (found.devices.empty()) {
    if (choice.kind == DeviceChoice::Kind::Auto) return {};
    throw Error("--device cuda: found " + found.problem + kNoGpu);
  }
  if (choice.numbers.empty()) {
    const auto best = std::max_element(found.devices.begin(), found.devices.end(),
                                       [](const CudaDevice& a, const CudaDevice& b) { return a.free < b.free; });
    return {best->number};
  }
  for (const int number : choice.numbers) {
    if (std::none_of(found.devices.begin(), found.devices.end(), [&](const CudaDevice& device) { return device.number == number; })) {
      throw Error("--device cuda:" + std::to_string(number) + ": there is no such device. Found " + list_of(found) +
                  "; numbers count the devices that CUDA_VISIBLE_DEVICES leaves visible");
    }
  }
  return choice.numbers;
}

void load_cuda(const std::string& named) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (c10::impl::hasDeviceGuardImpl(at::kCUDA)) return;
  const std::string library = named.empty() ? torch_folder() + "/libtorch_cuda.so" : named;
  // Global: what it registers is found by LibTorch's own libraries, and exceptions cross between them.
  if (!dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL)) {
    throw Error("LibTorch's CUDA part cannot be loaded: " + std::string(dlerror()) +
                ". It comes with the wheel torch 2.11.0 and needs the nvidia-* packages that the wheel names: install them (tools/setup --gpu)" + kNoGpu);
  }
  if (!c10::impl::hasDeviceGuardImpl(at::kCUDA)) throw Error(library + " is not LibTorch's CUDA part: it registers no device" + kNoGpu);
}

std::vector<at::Device> open_devices(const DeviceChoice& choice, std::string* fallback) {
  const std::vector<at::Device> processor{at::Device(at::kCPU)};
  if (choice.kind == DeviceChoice::Kind::Cpu) return processor;
  const CudaDevices found = find_cuda_devices();
  const std::vector<int> numbers = choose_cuda_devices(choice, found);
  if (numbers.empty()) {
    if (fallback) *fallback = "found " + found.problem;
    return processor;
  }
  try {
    load_cuda();
    const int usable = at::detail::getCUDAHooks().deviceCount();
    if (usable <= *std::max_element(numbers.begin(), numbers.end())) {
      throw Error("--device cuda: the driver shows " + list_of(found) + ", but LibTorch can use " + std::to_string(usable) +
                  " of them: its wheel is for CUDA 13, so the driver must be of version 580 or later" + kNoGpu);
    }
  } catch (const Error& error) {
    if (choice.kind != DeviceChoice::Kind::Auto) throw;
    if (fallback) *fallback = error.what();
    return processor;
  }
  std::vector<at::Device> devices;
  for (const int number : numbers) devices.emplace_back(at::kCUDA, static_cast<c10::DeviceIndex>(number));
  return devices;
}

DeviceMemory device_memory(at::Device device) {
  if (device.is_cpu()) return {};
  const c10::DeviceGuard guard(device);
  const auto [free, total] = allocator(device).getMemoryInfo(device.index());
  std::uint64_t cached = 0;
  if (allocator(device).initialized()) {
    const auto statistics = allocator(device).getDeviceStats(device.index());
    const std::int64_t reserved = statistics.reserved_bytes[0].current, allocated = statistics.allocated_bytes[0].current;
    cached = reserved > allocated ? static_cast<std::uint64_t>(reserved - allocated) : 0;
  }
  return {free + cached, total};
}

void empty_device_cache(at::Device device) {
  if (!device.is_cpu() && allocator(device).initialized()) allocator(device).emptyCache();
}

void synchronize(at::Device device) {
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

at::Tensor moved_to_host(const at::Tensor& tensor) {
  if (tensor.device().is_cpu()) return tensor;
  at::Tensor copy = at::empty(tensor.sizes(), tensor.options().device(at::kCPU).pinned_memory(true));
  return copy.copy_(tensor, true);
}

at::Tensor moved_to_device(const at::Tensor& tensor, at::Device device) { return tensor.to(device, true); }

std::string device_name(at::Device device) {
  if (device.is_cpu()) return {};
  for (const CudaDevice& found : find_cuda_devices().devices) {
    if (found.number == device.index()) return found.name;
  }
  return {};
}

}  // namespace miq
