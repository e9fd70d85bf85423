// Two folders of one parent change places in one step with renameat2(RENAME_EXCHANGE); file systems
// without it get two renames, the old folder out of the way first.
#include "miq/formats/atomic_folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "miq/base/error.h"
#include "miq/formats/atomic_file.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

[[noreturn]] void fail(const std::string& path, const std::string& what, int reason) {
  throw Error(path + ": " + what + ": " + std::strerror(reason) + (reason == ENOENT ? ". Create the folder above it first" : ""));
}

void sync_folder(const std::string& path) {
  const int folder = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  int result;
  do {
    result = ::fsync(folder);
  } while (result != 0 && errno == EINTR);
  const int reason = errno;
  ::close(folder);
  if (result != 0 && reason != EINVAL && reason != ENOTSUP) fail(path, "cannot be synced", reason);
}

std::string parent_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

}  // namespace

AtomicFolder::AtomicFolder(std::string path, const std::function<bool(const std::string&)>& may_replace)
    : path_(without_slashes(std::move(path))), may_replace_(may_replace) {
  const std::string base = fs::path(path_).filename().string();
  if (base.empty() || base == "." || base == ".." || base == "/") throw Error("'" + path_ + "': no name for a folder. Name the folder to write");
  check_target();
  remove_abandoned_temporaries(path_);
  for (int attempt = 0; attempt < 1000; ++attempt) {
    const fs::path candidate = fs::path(path_).parent_path() / ("." + base.substr(0, 200) + "." + std::to_string(::getpid()) + "-" + std::to_string(attempt) + ".tmp");
    if (::mkdir(candidate.c_str(), 0777) == 0) {
      temporary_ = candidate.string();
      lock_ = ::open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      if (lock_ >= 0) ::flock(lock_, LOCK_SH | LOCK_NB);  // as long as we live: it is not abandoned
      return;
    }
    if (errno != EEXIST) fail(path_, "cannot be made", errno);
  }
  fail(path_, "no free name for a temporary folder beside it", EEXIST);
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

void AtomicFolder::check_target() const {
  std::error_code problem;
  const fs::file_status status = fs::symlink_status(path_, problem);
  if (status.type() == fs::file_type::not_found) return;
  if (problem) fail(path_, "cannot be looked at", problem.value());
  if (status.type() != fs::file_type::directory) throw Error(path_ + ": exists and is no folder. Name another folder to write");
  for (const auto& entry : fs::directory_iterator(path_)) {
    const std::string name = entry.path().filename().string();
    if (!may_replace_ || entry.symlink_status().type() != fs::file_type::regular || !may_replace_(name)) {
      throw Error(path_ + ": the folder exists and holds '" + name + "', which would be lost. Name another folder, or empty this one");
    }
  }
}

void AtomicFolder::commit() {
  check_target();
  sync_folder(temporary_);
  const bool replaces = fs::exists(path_) && !fs::is_empty(path_);
  if (!replaces) {
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "cannot be given its final name", errno);
    temporary_.clear();
  } else if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) != 0) {
    const std::string old = temporary_ + ".old";
    if (::rename(path_.c_str(), old.c_str()) != 0) fail(path_, "cannot be replaced", errno);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
      const int reason = errno;
      ::rename(old.c_str(), path_.c_str());
      fail(path_, "cannot be given its final name", reason);
    }
    temporary_ = old;
  }
  sync_folder(parent_of(path_));
  if (!temporary_.empty()) fs::remove_all(temporary_);
  temporary_.clear();
}

}  // namespace miq
