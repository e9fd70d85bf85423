// O_TMPFILE where the file system has it; elsewhere a file that is removed as soon as it is open.
#include "miq/formats/scratch_folder.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "miq/base/error.h"

namespace miq {
namespace {

struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) close(number);
  }
};

[[noreturn]] void fail(const std::string& path, const std::string& what, int reason) {
  throw Error(path + ": " + what + ": " + std::strerror(reason) + "; name another folder with --scratch");
}

}  // namespace

ScratchFolder::ScratchFolder(std::string path) : path_(path.empty() ? "." : std::move(path)) { const Descriptor file{open_file()}; }

int ScratchFolder::open_file() const {
  const int unnamed = open(path_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (unnamed >= 0) return unnamed;
  std::string name = path_ + "/.scratch-XXXXXX";
  const int file = mkostemp(name.data(), O_CLOEXEC);
  if (file < 0) fail(path_, "no file can be made for what does not fit into memory", errno);
  unlink(name.c_str());
  return file;
}

void ScratchFolder::require(std::uint64_t bytes) const {
  struct statvfs info;
  if (statvfs(path_.c_str(), &info) != 0) fail(path_, "its free space is not known", errno);
  const std::uint64_t free = static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
  if (free < bytes) {
    throw Error(path_ + ": " + std::to_string(bytes) + " bytes are needed for what does not fit into memory, " + std::to_string(free) +
                " are free; make room there, or name another folder with --scratch");
  }
}

std::shared_ptr<std::uint8_t> ScratchFolder::allocate(std::uint64_t bytes) const {
  if (bytes > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) throw Error(path_ + ": no file can have " + std::to_string(bytes) + " bytes");
  const std::size_t length = std::max<std::uint64_t>(1, bytes);
  const Descriptor file{open_file()};
  if (const int reason = posix_fallocate(file.number, 0, static_cast<off_t>(length)); reason != 0) {
    fail(path_, "no room for " + std::to_string(bytes) + " bytes of what does not fit into memory", reason);
  }
  void* data = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, file.number, 0);
  if (data == MAP_FAILED) fail(path_, "a file of " + std::to_string(bytes) + " bytes cannot be mapped", errno);
  return {static_cast<std::uint8_t*>(data), [length](std::uint8_t* mapped) { munmap(mapped, length); }};
}

Tensor moved_to(const ScratchFolder& folder, Tensor tensor) {
  for (auto& [name, section] : tensor.sections) {
    const std::shared_ptr<std::uint8_t> room = folder.allocate(section.size());
    if (section.size() > 0) std::memcpy(room.get(), section.bytes().data(), section.size());
    section = Blob(room, {room.get(), section.size()});
  }
  return tensor;
}

}  // namespace miq
