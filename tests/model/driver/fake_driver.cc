// A library with the driver's functions that model/device.cc calls: two devices, the second with more free memory. $MIQ_FAKE_DRIVER=none: no device.
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {
int current = -1;
int retained = 0;
bool none() {
  const char* mode = std::getenv("MIQ_FAKE_DRIVER");
  return mode && std::strcmp(mode, "none") == 0;
}
}  // namespace

extern "C" {
int cuInit(unsigned) { return none() ? 100 : 0; }
int cuDeviceGetCount(int* count) { return *count = none() ? 0 : 2, 0; }
int cuDeviceGet(int* device, int number) { return *device = number + 40, 0; }
int cuDeviceGetName(char* name, int size, int device) { return std::snprintf(name, static_cast<std::size_t>(size), "Fake GPU %d", device), 0; }
int cuDeviceTotalMem_v2(std::size_t* bytes, int) { return *bytes = std::size_t{80} << 30, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int) { return *value = attribute == 75 ? 9 : 0, 0; }
int cuGetErrorName(int code, const char** name) { return *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : "?", 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { return ++retained, *context = reinterpret_cast<void*>(static_cast<std::size_t>(device)), 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return --retained < 0 ? 1 : 0; }
int cuCtxPushCurrent_v2(void* context) { return current = static_cast<int>(reinterpret_cast<std::size_t>(context)), 0; }
int cuCtxPopCurrent_v2(void** context) { return *context = nullptr, current = -1, 0; }
int cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  if (current < 0) return 201;
  *free = static_cast<std::size_t>(current - 39) << 30;  // 1 GiB, 2 GiB
  *total = std::size_t{80} << 30;
  return 0;
}
}
