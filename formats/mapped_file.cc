// mmap with a shared owner that unmaps. The file is opened without blocking, so that a pipe or device
// under the given name is refused instead of waited for.
#include "miq/formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "miq/base/error.h"

namespace miq {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

struct Mapping {
  void* address;
  std::size_t length;
  Mapping(void* at, std::size_t bytes) : address(at), length(bytes) {}
  ~Mapping() { ::munmap(address, length); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
};

[[noreturn]] void refuse_open(const std::string& path, int reason) {
  if (path.empty()) throw FormatError("''", "no file name given");
  switch (reason) {
    case ENOENT:
      throw FormatError(path, "no such file", "Check the path");
    case EACCES:
    case EPERM:
      throw FormatError(path, "not readable", "Check the permissions of the file and of its folders");
    default:
      throw FormatError(path, std::string("cannot be opened: ") + std::strerror(reason));
  }
}

}  // namespace

Blob map_file(const std::string& path) {
  int opened;
  do {
    opened = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (opened < 0 && errno == EINTR);
  if (opened < 0) refuse_open(path, errno);
  const Descriptor file(opened);

  struct stat status {};
  if (::fstat(file.get(), &status) != 0) refuse_open(path, errno);
  if (S_ISDIR(status.st_mode)) throw FormatError(path, "is a folder, not a file", "Name a file inside it");
  if (!S_ISREG(status.st_mode)) throw FormatError(path, "is no regular file (a pipe or a device)", "Copy its content to a file first");
  if (status.st_size == 0) return Blob();

  const auto length = static_cast<std::size_t>(status.st_size);
  void* address = ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) throw FormatError(path, std::string("cannot be mapped: ") + std::strerror(errno));
  auto mapping = std::make_shared<const Mapping>(address, length);
  return Blob(mapping, Bytes(static_cast<const std::uint8_t*>(address), length));
}

std::string read_text_file(const std::string& path, std::uint64_t limit) {
  const Blob blob = map_file(path);
  if (blob.size() > limit) {
    throw FormatError(path,
                      std::to_string(blob.size()) + " bytes, more than the " + std::to_string(limit) + " accepted for a file of this kind",
                      "Check that it is the right file");
  }
  return std::string(blob.text());
}

}  // namespace miq
