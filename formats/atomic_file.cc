// Temporary file beside the final name, O_EXCL, then write, fsync, verify, rename, fsync of the folder.
// A failed fsync is final: the kernel may have dropped the dirty pages, so trying again proves nothing.
#include "miq/formats/atomic_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "miq/base/error.h"

namespace miq {
namespace {

constexpr std::uint64_t kStartEvery = 32u << 20;
constexpr std::size_t kStage = 256u << 10, kLine = 64;

std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string mebibytes(std::uint64_t bytes) {
  char text[64];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

[[noreturn]] void fail(const std::string& path, const std::string& what, int reason) {
  std::string message = path + ": " + what + ": " + std::strerror(reason);
  switch (reason) {
    case ENOENT:
      message += ". Create the folder " + folder_of(path) + " first";
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      message += ". Choose an output folder that you may write to, or change the permissions of " + folder_of(path);
      break;
    case ENOSPC:
    case EDQUOT:
      message += ". Free some space in " + folder_of(path) + " or write elsewhere";
      break;
    default:
      break;
  }
  throw Error(message);
}

void check_target(const std::string& path) {
  if (path.empty() || path.back() == '/') throw Error("'" + path + "': no file name to write to. Name a file, not a folder");
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return;  // does not exist yet, or its folder will say why not
  if (S_ISDIR(status.st_mode)) throw Error(path + ": is a folder. Name a file to write to");
  if (!S_ISREG(status.st_mode)) throw Error(path + ": exists and is no regular file. Name another file to write to");
}

void check_space(const std::string& path, std::uint64_t needed) {
  if (needed == 0) return;
  struct statvfs status {};
  if (::statvfs(folder_of(path).c_str(), &status) != 0) return;  // the write itself will tell
  std::uint64_t free_bytes = 0;
  if (__builtin_mul_overflow(std::uint64_t{status.f_bavail}, std::uint64_t{status.f_frsize}, &free_bytes)) return;
  if (free_bytes >= needed) return;
  throw Error(path + ": needs " + mebibytes(needed) + " (" + std::to_string(needed) + " bytes), but " + folder_of(path) + " has only " +
              mebibytes(free_bytes) + " (" + std::to_string(free_bytes) + " bytes) free. Free some space or write elsewhere");
}

int sync_descriptor(int descriptor) {
  int result;
  do {
    result = ::fsync(descriptor);
  } while (result != 0 && errno == EINTR);
  return result;
}

// Makes the rename itself durable. Some file systems cannot sync a folder (EINVAL): nothing to be done there.
void sync_folder(const std::string& path) {
  const int folder = ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;  // a folder may be writable without being readable
  const int result = sync_descriptor(folder);
  const int reason = errno;
  ::close(folder);
  if (result != 0 && reason != EINVAL && reason != ENOTSUP) fail(path, "written, but its folder cannot be synced", reason);
}

// Names are at most 255 bytes long; the temporary one, which has PID-NUMBER.tmp behind this, must fit as well.
std::string temporary_stem(const std::string& path) {
  const auto slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  return folder + "." + path.substr(folder.size()).substr(0, 200) + ".";
}

}  // namespace

AtomicFile::AtomicFile(std::string path, std::uint64_t expected_bytes) : path_(std::move(path)) {
  check_target(path_);
  remove_abandoned_temporaries(path_);
  check_space(path_, expected_bytes);
  const std::string stem = temporary_stem(path_);
  for (int attempt = 0; attempt < 1000; ++attempt) {
    std::string candidate = stem + std::to_string(::getpid()) + "-" + std::to_string(attempt) + ".tmp";
    descriptor_ = ::open(candidate.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ >= 0) {
      temporary_ = std::move(candidate);
      ::flock(descriptor_, LOCK_SH | LOCK_NB);  // until it has its name: it is not abandoned
      return;
    }
    if (errno != EEXIST && errno != EINTR) fail(path_, "cannot be written", errno);
  }
  fail(path_, "no free name for a temporary file beside it", EEXIST);
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept {
  for (int* descriptor : {&descriptor_, &lock_}) {
    if (*descriptor >= 0) ::close(*descriptor);
    *descriptor = -1;
  }
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
}

// The kernel copies with one string instruction, which some processors slow down several times when source and
// target lie differently within a cache line, as tensors behind a header of any length do. Such bytes go
// through a buffer that lies as the file does; copying into it costs little, because it stays in the cache.
void AtomicFile::write(Bytes bytes) {
  const auto misplaced = [&] { return (reinterpret_cast<std::uintptr_t>(bytes.data()) - position_) % kLine != 0; };
  while (!bytes.empty()) {
    if (bytes.size() < kStage || !misplaced()) {
      const Bytes part = bytes.first(std::min<std::size_t>(bytes.size(), kStartEvery));
      write_some(part);
      bytes = bytes.subspan(part.size());
      continue;
    }
    if (stage_.empty()) stage_.resize(kStage + kLine);
    const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(stage_.data());
    std::uint8_t* staged = stage_.data() + (position_ - address) % kLine;
    const std::size_t size = kStage - position_ % kLine;  // the next part begins at a line
    std::memcpy(staged, bytes.data(), size);
    write_some(Bytes(staged, size));
    bytes = bytes.subspan(size);
  }
}

void AtomicFile::write_some(Bytes bytes) {
  if (descriptor_ < 0) throw Error(path_ + ": written to after it was finished or failed");
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      const int reason = errno;
      discard();
      fail(path_, "cannot be written at byte " + std::to_string(position_), reason);
    }
    position_ += static_cast<std::uint64_t>(written);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    // The disk begins while there is more to write; the sync at the end finds less to do.
    if (position_ - started_ >= kStartEvery) {
      ::sync_file_range(descriptor_, static_cast<off64_t>(started_), static_cast<off64_t>(position_ - started_), SYNC_FILE_RANGE_WRITE);
      started_ = position_;
    }
  }
}

void AtomicFile::commit(const std::function<void(const std::string& temporary)>& verify) {
  if (descriptor_ < 0) throw Error(path_ + ": finished twice, or after it failed");
  try {
    if (sync_descriptor(descriptor_) != 0) fail(path_, "cannot be brought to the disk", errno);
    lock_ = ::fcntl(descriptor_, F_DUPFD_CLOEXEC, 0);
    const int closed = ::close(descriptor_);
    descriptor_ = -1;
    if (closed != 0 && errno != EINTR) fail(path_, "cannot be closed", errno);
    if (verify) verify(temporary_);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "cannot be given its final name", errno);
  } catch (...) {
    discard();
    throw;
  }
  temporary_.clear();
  discard();
  sync_folder(path_);
}

void remove_abandoned_temporaries(const std::string& path) noexcept {
  DIR* folder = ::opendir(folder_of(path).c_str());
  if (!folder) return;
  const std::string stem = temporary_stem(path), base = stem.substr(stem.rfind('/') + 1);
  while (const dirent* entry = ::readdir(folder)) {
    const std::string_view name = entry->d_name;
    if (!name.starts_with(base)) continue;
    long process = 0, number = 0;
    int length = 0;
    const char* rest = entry->d_name + base.size();
    if (std::sscanf(rest, "%9ld-%9ld.tmp%n", &process, &number, &length) != 2 || length == 0 || rest[length] != '\0' || process <= 0) continue;
    if (::kill(static_cast<pid_t>(process), 0) == 0 || errno != ESRCH) continue;
    // A process of another container or machine is none of ours to see, but its lock is.
    const int descriptor = ::openat(::dirfd(folder), entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0) continue;
    std::error_code ignored;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) std::filesystem::remove_all(folder_of(path) + "/" + entry->d_name, ignored);
    ::close(descriptor);
  }
  ::closedir(folder);
}

void write_file_atomically(const std::string& path, std::string_view text) {
  AtomicFile file(path, text.size());
  file.write(Bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()));
  file.commit();
}

}  // namespace miq
