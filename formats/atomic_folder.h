// Writes a folder so that its final name only ever shows the whole of it: everything goes into a temporary
// folder beside it, which is then renamed. Whatever fails on the way leaves the old folder as it was.
#pragma once

#include <functional>
#include <string>

namespace miq {

class AtomicFolder {
 public:
  // Creates the temporary folder. `path` may be absent or an empty folder. A folder that holds something is
  // replaced only where `may_replace` accepts every entry's name and each is a regular file; otherwise, and
  // where `path` is no folder, Error says what is in the way. `may_replace` may be empty: never.
  AtomicFolder(std::string path, const std::function<bool(const std::string& name)>& may_replace = {});
  ~AtomicFolder();  // removes the temporary folder unless commit() finished
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  // Where to write: files directly inside, each synced by its writer (atomic_file.h does).
  const std::string& temporary() const { return temporary_; }
  // Checks again, renames (exchanging the two where there was one), syncs, removes the old one.
  void commit();

 private:
  void check_target() const;
  std::string path_, temporary_;
  int lock_ = -1;
  std::function<bool(const std::string&)> may_replace_;
};

}  // namespace miq
