// A preloaded library that makes one system call or allocation of a program go wrong (LD_PRELOAD=fault_shim.so).
//
//   MIQ_FAULT_ROOT=FOLDER  only calls on files in this folder count (and on names in it)
//   MIQ_FAULT=KIND@N       what happens at the N-th durable call, counted from 1; a full disk stays full
//   MIQ_FAULT_LOG=FILE     a line "N CALL PATH" for each durable call, and "allocations N" at the end
//
// Durable calls: open that may create, write, pwrite, writev, fsync, fdatasync, sync_file_range, ftruncate, posix_fallocate, rename,
// renameat2, link, unlink, unlinkat, mkdir, rmdir. Kinds:
//   kill     SIGKILL instead of the call          torn     half a write, then SIGKILL
//   enospc, edquot  fails, and so does all later work that takes space
//   eio      fails with EIO, once                 eintr    fails with EINTR, once (open, write, fsync)
//   short    writes half of what was asked, once  alloc    the N-th operator new after main() began throws, once
//   memory   that and every later allocation of at least 4096 bytes
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <new>
#include <string>

namespace {

enum class Fault { None, Kill, Torn, NoSpace, Quota, InputOutput, Interrupt, Short, Allocation, Memory };

struct State {
  Fault fault = Fault::None;
  long number = 0;
  char root[PATH_MAX] = "";
  int log = -1;
};
State state;
std::atomic<bool> armed{false};
std::atomic<long> calls{0}, allocations{0};

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

__attribute__((constructor)) void begin() {
  const char* root = getenv("MIQ_FAULT_ROOT");
  if (!root || !realpath(root, state.root)) return;
  if (const char* fault = getenv("MIQ_FAULT")) {
    static constexpr struct {
      const char* name;
      Fault fault;
    } kFaults[] = {{"kill", Fault::Kill},   {"torn", Fault::Torn},   {"enospc", Fault::NoSpace},   {"edquot", Fault::Quota}, {"eio", Fault::InputOutput},
                   {"eintr", Fault::Interrupt}, {"short", Fault::Short}, {"alloc", Fault::Allocation}, {"memory", Fault::Memory}};
    const char* at = strchr(fault, '@');
    for (const auto& known : kFaults) {
      if (at && strncmp(fault, known.name, static_cast<size_t>(at - fault)) == 0 && strlen(known.name) == static_cast<size_t>(at - fault)) state.fault = known.fault;
    }
    state.number = at ? atol(at + 1) : 0;
  }
  if (const char* log = getenv("MIQ_FAULT_LOG")) state.log = next<int (*)(const char*, int, ...)>("open")(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
}

bool inside(const char* path) {
  if (state.root[0] == '\0' || !path) return false;
  char absolute[2 * PATH_MAX];
  if (path[0] == '/') {
    snprintf(absolute, sizeof absolute, "%s", path);
  } else {
    char here[PATH_MAX];
    if (!getcwd(here, sizeof here)) return false;
    snprintf(absolute, sizeof absolute, "%s/%s", here, path);
  }
  const size_t length = strlen(state.root);
  return strncmp(absolute, state.root, length) == 0 && (absolute[length] == '/' || absolute[length] == '\0');
}

std::string path_of(int descriptor) {
  char link[64], target[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, target, sizeof target - 1);
  return length < 0 ? std::string() : std::string(target, static_cast<size_t>(length));
}

// What is to happen to this call: 0, or an errno, or one of these.
constexpr int kWriteHalf = -1, kWriteHalfAndDie = -2;
enum class Call { Makes, Writes, Syncs, Changes };

int verdict(const char* name, Call call, const std::string& path) {
  if (!armed || !inside(path.c_str())) return 0;
  const long number = ++calls;
  if (state.log >= 0) {
    const std::string line = std::to_string(number) + " " + name + " " + (path[0] == '/' ? path.substr(strlen(state.root)) : path) + "\n";
    [[maybe_unused]] const ssize_t ignored = next<ssize_t (*)(int, const void*, size_t)>("write")(state.log, line.data(), line.size());
  }
  const bool now = number == state.number, writes = call == Call::Writes;
  switch (state.fault) {
    case Fault::Kill:
      if (now) kill(getpid(), SIGKILL);
      return 0;
    case Fault::Torn: return now && writes ? kWriteHalfAndDie : 0;
    case Fault::NoSpace: return number >= state.number && (writes || call == Call::Makes) ? ENOSPC : 0;
    case Fault::Quota: return number >= state.number && (writes || call == Call::Makes) ? EDQUOT : 0;
    case Fault::InputOutput: return now ? EIO : 0;
    case Fault::Interrupt: return now && call != Call::Changes ? EINTR : 0;
    case Fault::Short: return now && writes ? kWriteHalf : 0;
    default: return 0;
  }
}

int failed(int reason) {
  errno = reason;
  return -1;
}

// Decides about a write of `size` bytes: true with the result where it goes wrong; `size` may become smaller.
bool write_goes_wrong(int descriptor, const char* name, size_t& size, bool& die) {
  const int found = armed && descriptor > 2 ? verdict(name, Call::Writes, path_of(descriptor)) : 0;
  die = found == kWriteHalfAndDie;
  if (found < 0) size = die || size > 1 ? size / 2 : size;
  if (found > 0) errno = found;
  return found > 0;
}

bool allocation_fails(size_t size) {
  if (!armed) return false;
  const long number = ++allocations;
  if (state.fault == Fault::Allocation) return number == state.number;
  return state.fault == Fault::Memory && number >= state.number && size >= 4096;
}

void* allocated(size_t size, size_t alignment, bool may_throw) {
  void* memory = nullptr;
  if (!allocation_fails(size)) memory = alignment == 0 ? malloc(size ? size : 1) : aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (!memory && may_throw) throw std::bad_alloc();
  return memory;
}

}  // namespace

#define EXPORT __attribute__((visibility("default")))

extern "C" {

EXPORT int open(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = static_cast<mode_t>(va_arg(list, unsigned));
  va_end(list);
  if (armed && (flags & (O_CREAT | O_TMPFILE) & ~O_DIRECTORY) != 0) {
    if (const int found = verdict("open", Call::Makes, path); found > 0) return failed(found);
  }
  return next<int (*)(const char*, int, ...)>("open")(path, flags, mode);
}
EXPORT int open64(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const mode_t mode = static_cast<mode_t>(va_arg(list, unsigned));
  va_end(list);
  return open(path, flags, mode);
}
EXPORT ssize_t write(int descriptor, const void* bytes, size_t size) {
  bool die = false;
  if (write_goes_wrong(descriptor, "write", size, die)) return -1;
  const ssize_t result = next<ssize_t (*)(int, const void*, size_t)>("write")(descriptor, bytes, size);
  if (die) kill(getpid(), SIGKILL);
  return result;
}
EXPORT ssize_t pwrite(int descriptor, const void* bytes, size_t size, off_t at) {
  bool die = false;
  if (write_goes_wrong(descriptor, "pwrite", size, die)) return -1;
  const ssize_t result = next<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite")(descriptor, bytes, size, at);
  if (die) kill(getpid(), SIGKILL);
  return result;
}
EXPORT ssize_t pwrite64(int descriptor, const void* bytes, size_t size, off64_t at) { return pwrite(descriptor, bytes, size, at); }
EXPORT ssize_t writev(int descriptor, const struct iovec* parts, int count) {
  size_t size = 2;
  bool die = false;
  if (write_goes_wrong(descriptor, "writev", size, die)) return -1;
  if (size < 2 && count > 0) {
    const ssize_t result = next<ssize_t (*)(int, const void*, size_t)>("write")(descriptor, parts[0].iov_base, parts[0].iov_len / 2);
    if (die) kill(getpid(), SIGKILL);
    return result;
  }
  return next<ssize_t (*)(int, const struct iovec*, int)>("writev")(descriptor, parts, count);
}
EXPORT int fsync(int descriptor) {
  if (const int found = armed ? verdict("fsync", Call::Syncs, path_of(descriptor)) : 0; found > 0) return failed(found);
  return next<int (*)(int)>("fsync")(descriptor);
}
EXPORT int fdatasync(int descriptor) {
  if (const int found = armed ? verdict("fdatasync", Call::Syncs, path_of(descriptor)) : 0; found > 0) return failed(found);
  return next<int (*)(int)>("fdatasync")(descriptor);
}
EXPORT int ftruncate(int descriptor, off_t size) {
  if (const int found = armed ? verdict("ftruncate", Call::Changes, path_of(descriptor)) : 0; found > 0) return failed(found);
  return next<int (*)(int, off_t)>("ftruncate")(descriptor, size);
}
EXPORT int ftruncate64(int descriptor, off64_t size) { return ftruncate(descriptor, size); }
EXPORT int posix_fallocate(int descriptor, off_t at, off_t size) {
  if (const int found = armed ? verdict("posix_fallocate", Call::Makes, path_of(descriptor)) : 0; found > 0) return found;
  return next<int (*)(int, off_t, off_t)>("posix_fallocate")(descriptor, at, size);
}
EXPORT int posix_fallocate64(int descriptor, off64_t at, off64_t size) { return posix_fallocate(descriptor, at, size); }
EXPORT int rename(const char* from, const char* to) {
  if (const int found = armed ? verdict("rename", Call::Changes, to) : 0; found > 0) return failed(found);
  return next<int (*)(const char*, const char*)>("rename")(from, to);
}
EXPORT int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
  if (const int found = armed ? verdict("renameat2", Call::Changes, to) : 0; found > 0) return failed(found);
  return next<int (*)(int, const char*, int, const char*, unsigned)>("renameat2")(from_folder, from, to_folder, to, flags);
}
EXPORT int unlink(const char* path) {
  if (const int found = armed ? verdict("unlink", Call::Changes, path) : 0; found > 0) return failed(found);
  return next<int (*)(const char*)>("unlink")(path);
}
EXPORT int unlinkat(int folder, const char* path, int flags) {
  const std::string whole = path[0] == '/' || folder == AT_FDCWD ? std::string(path) : path_of(folder) + "/" + path;
  if (const int found = armed ? verdict("unlinkat", Call::Changes, whole) : 0; found > 0) return failed(found);
  return next<int (*)(int, const char*, int)>("unlinkat")(folder, path, flags);
}
EXPORT int mkdir(const char* path, mode_t mode) {
  if (const int found = armed ? verdict("mkdir", Call::Makes, path) : 0; found > 0) return failed(found);
  return next<int (*)(const char*, mode_t)>("mkdir")(path, mode);
}
EXPORT int rmdir(const char* path) {
  if (const int found = armed ? verdict("rmdir", Call::Changes, path) : 0; found > 0) return failed(found);
  return next<int (*)(const char*)>("rmdir")(path);
}

// Counting begins with main(): what the loader and static initialisers do is not the program's.
using Main = int (*)(int, char**, char**);
static Main real_main;
static int armed_main(int argc, char** argv, char** environment) {
  armed = true;
  const int code = real_main(argc, argv, environment);
  armed = false;
  if (state.log >= 0) {
    const std::string line = "allocations " + std::to_string(allocations.load()) + "\n";
    [[maybe_unused]] const ssize_t ignored = next<ssize_t (*)(int, const void*, size_t)>("write")(state.log, line.data(), line.size());
  }
  return code;
}
EXPORT int __libc_start_main(Main main, int argc, char** argv, void (*init)(), void (*fini)(), void (*loader_fini)(), void* stack_end) {
  real_main = main;
  return next<int (*)(Main, int, char**, void (*)(), void (*)(), void (*)(), void*)>("__libc_start_main")(armed_main, argc, argv, init, fini, loader_fini, stack_end);
}

}  // extern "C"

EXPORT void* operator new(size_t size) { return allocated(size, 0, true); }
EXPORT void* operator new[](size_t size) { return allocated(size, 0, true); }
EXPORT void* operator new(size_t size, const std::nothrow_t&) noexcept { return allocated(size, 0, false); }
EXPORT void* operator new[](size_t size, const std::nothrow_t&) noexcept { return allocated(size, 0, false); }
EXPORT void* operator new(size_t size, std::align_val_t alignment) { return allocated(size, static_cast<size_t>(alignment), true); }
EXPORT void* operator new[](size_t size, std::align_val_t alignment) { return allocated(size, static_cast<size_t>(alignment), true); }
EXPORT void operator delete(void* memory) noexcept { free(memory); }
EXPORT void operator delete[](void* memory) noexcept { free(memory); }
EXPORT void operator delete(void* memory, size_t) noexcept { free(memory); }
EXPORT void operator delete[](void* memory, size_t) noexcept { free(memory); }
EXPORT void operator delete(void* memory, const std::nothrow_t&) noexcept { free(memory); }
EXPORT void operator delete[](void* memory, const std::nothrow_t&) noexcept { free(memory); }
EXPORT void operator delete(void* memory, std::align_val_t) noexcept { free(memory); }
EXPORT void operator delete[](void* memory, std::align_val_t) noexcept { free(memory); }
EXPORT void operator delete(void* memory, size_t, std::align_val_t) noexcept { free(memory); }
EXPORT void operator delete[](void* memory, size_t, std::align_val_t) noexcept { free(memory); }
