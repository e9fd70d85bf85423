// Sums over GPUs by NCCL. Its library is loaded with LibTorch's CUDA part, which links it, and is asked for by name here: its C interface has been
// the same since NCCL 2, so neither its header nor the library is needed to build.
#include "kernel.h"

#include <dlfcn.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>

namespace miq::cuda {
namespace {

constexpr int kSuccess = 0, kInProgress = 7;  // ncclResult_t
constexpr int kFloat64 = 8, kSum = 0;         // ncclDataType_t, ncclRedOp_t
constexpr auto kPatience = std::chrono::minutes(2);
constexpr unsigned kPollMicroseconds = 50;

struct Id {  // ncclUniqueId, which goes by value
  char bytes[kMiqGroupIdBytes];
};
using Communicator = void*;

struct Nccl {
  int (*make_id)(Id*) = nullptr;
  int (*join)(Communicator*, int, Id, int) = nullptr;
  int (*sum_in_all)(const void*, void*, std::size_t, int, int, Communicator, cudaStream_t) = nullptr;
  int (*sum_in_one)(const void*, void*, std::size_t, int, int, int, Communicator, cudaStream_t) = nullptr;
  int (*state)(Communicator, int*) = nullptr;
  int (*leave)(Communicator) = nullptr;
  int (*abandon)(Communicator) = nullptr;
  const char* (*text)(int) = nullptr;
  bool whole = false;
};

// Where LibTorch's is loaded it is the one that is found. Tried again where it was not there: LibTorch may come later.
const Nccl* library() {
  static Nccl nccl;
  if (nccl.whole) return &nccl;
  void* handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return nullptr;
  bool whole = true;
  const auto find = [&](const char* name, auto& function) {
    void* found = dlsym(handle, name);
    whole = whole && found != nullptr;
    std::memcpy(&function, &found, sizeof found);
  };
  find("ncclGetUniqueId", nccl.make_id);
  find("ncclCommInitRank", nccl.join);
  find("ncclAllReduce", nccl.sum_in_all);
  find("ncclReduce", nccl.sum_in_one);
  find("ncclCommGetAsyncError", nccl.state);
  find("ncclCommDestroy", nccl.leave);
  find("ncclCommAbort", nccl.abandon);
  find("ncclGetErrorString", nccl.text);
  nccl.whole = whole;
  return whole ? &nccl : nullptr;
}

int no_library(const char* what) { return refused(what, "there is no NCCL (libnccl.so.2) beside LibTorch's CUDA part"); }

struct Group {
  int device;
  Communicator communicator;
};

// A thread joins, so that a process whose partner could not does not wait for ever.
struct Joining {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false, too_late = false;
  int result = kSuccess;
  Communicator communicator = nullptr;
};

}  // namespace

int identity(int device, char* text, std::uint64_t capacity) {
  if (!library()) return no_library("sums between GPUs");
  cudaDeviceProp properties;
  const cudaError_t status = cudaGetDeviceProperties(&properties, device);
  if (status != cudaSuccess) return failed("asking the device who it is", status);
  std::uint64_t written = 0;
  for (const char byte : properties.uuid.bytes) {
    if (written + 3 > capacity) return refused("asking the device who it is", "no room for the answer");
    std::snprintf(text + written, 3, "%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
    written += 2;
  }
  return 0;
}

int group_id(std::uint8_t* id) {
  const Nccl* nccl = library();
  if (!nccl) return no_library("sums between GPUs");
  Id made;
  const int result = nccl->make_id(&made);
  if (result != kSuccess) return refused("NCCL", nccl->text(result));
  std::memcpy(id, made.bytes, sizeof made.bytes);
  return 0;
}

int join_group(int device, const std::uint8_t* id, int rank, int size, void** group) {
  const Nccl* nccl = library();
  if (!nccl) return no_library("sums between GPUs");
  Id wanted;
  std::memcpy(wanted.bytes, id, sizeof wanted.bytes);
  const auto joining = std::make_shared<Joining>();
  std::thread([=] {
    Communicator communicator = nullptr;
    int result = cudaSetDevice(device) == cudaSuccess ? kSuccess : 1;  // ncclUnhandledCudaError
    if (result == kSuccess) result = nccl->join(&communicator, size, wanted, rank);
    std::unique_lock<std::mutex> lock(joining->mutex);
    joining->done = true;
    joining->result = result;
    joining->communicator = communicator;
    const bool unwanted = joining->too_late && result == kSuccess;
    joining->changed.notify_all();
    lock.unlock();
    if (unwanted) nccl->abandon(communicator);
  }).detach();
  std::unique_lock<std::mutex> lock(joining->mutex);
  if (!joining->changed.wait_for(lock, kPatience, [&] { return joining->done; })) {
    joining->too_late = true;
    return refused("NCCL", "the other processes have not joined within two minutes");
  }
  if (joining->result != kSuccess) return refused("NCCL", nccl->text(joining->result));
  *group = new Group{device, joining->communicator};
  return 0;
}

int group_sum(void* group, double* values, std::uint64_t count, int to) {
  const Group& own = *static_cast<Group*>(group);
  int result = 0;
  if (!use_device(own.device, result)) return result;
  const Nccl& nccl = *library();
  const cudaStream_t queue = nullptr;  // LibTorch's, behind what made the values
  result = to < 0 ? nccl.sum_in_all(values, values, count, kFloat64, kSum, own.communicator, queue)
                  : nccl.sum_in_one(values, values, count, kFloat64, kSum, to, own.communicator, queue);
  if (result != kSuccess) return refused("NCCL", nccl.text(result));
  for (;;) {
    const cudaError_t status = cudaStreamQuery(queue);
    if (status == cudaSuccess) return 0;
    if (status != cudaErrorNotReady) return failed("a sum between GPUs", status);
    int state = kSuccess;
    if (nccl.state(own.communicator, &state) != kSuccess || (state != kSuccess && state != kInProgress)) return refused("NCCL", nccl.text(state));
    usleep(kPollMicroseconds);
  }
}

void leave_group(void* group, int abandon) {
  Group* own = static_cast<Group*>(group);
  int ignored = 0;
  if (use_device(own->device, ignored)) {
    if (abandon) {
      library()->abandon(own->communicator);
    } else {
      library()->leave(own->communicator);
    }
  }
  delete own;
}

}  // namespace miq::cuda
