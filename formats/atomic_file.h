// Writes a file so that its final name only ever shows a whole, verified file: temporary name in the
// same folder (exclusive), write, sync, the caller's check, rename, sync of the folder. Whatever fails
// on the way leaves the old file as it was and removes the temporary one; what a killed process left is removed by the next writer.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "miq/base/blob.h"

namespace miq {

class AtomicFile {
 public:
  // Creates the temporary file; throws Error when the folder is missing or not writable, or when less
  // than `expected_bytes` are free there (the message names the path, what is needed and what is free).
  explicit AtomicFile(std::string path, std::uint64_t expected_bytes = 0);
  ~AtomicFile();  // removes the temporary file unless commit() finished
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(Bytes bytes);  // throws Error with path and reason (no space, input/output error)
  std::uint64_t position() const { return position_; }
  // Syncs, calls `verify` with the temporary file's path (it throws to refuse), renames, syncs the folder.
  void commit(const std::function<void(const std::string& temporary)>& verify = {});

 private:
  void discard() noexcept;
  void write_some(Bytes bytes);
  std::string path_, temporary_;
  int descriptor_ = -1, lock_ = -1;  // lock_ outlives descriptor_ until the file has its name
  std::vector<std::uint8_t> stage_;
  std::uint64_t position_ = 0, started_ = 0;  // bytes written; bytes whose way to the disk has begun
};

// Removes the temporary files and folders of `path` whose processes were killed; those that another process still writes stay.
// AtomicFile and AtomicFolder do it before they begin, so that kills leave at most one.
void remove_abandoned_temporaries(const std::string& path) noexcept;

// For texts: report files and the like.
void write_file_atomically(const std::string& path, std::string_view text);

}  // namespace miq
