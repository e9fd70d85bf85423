// What a long run has finished so far, kept beside its output so that an interrupted run can go on. A folder with
// an append-only log of checksummed records and a few slots that are overwritten. Spec: spec/journal.md.
//
// What the records mean belongs to whoever writes them. An appended record is on the disk when append()
// returns; a record that was cut short by a kill or a power failure is dropped when the journal is read.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "miq/base/blob.h"
#include "miq/formats/json.h"

namespace miq {

// The records of a log, as found in its bytes.
struct JournalLog {
  Json run;                    // record 0: which run this is; an object
  std::vector<Blob> records;   // the others, in order, filled up with zeros to multiples of 64 bytes
  std::uint64_t whole_bytes = 0;  // the log up to the end of the last whole record
};

// Throws FormatError naming `name` and the offset where a record that others follow is damaged, or record 0 is.
// A damaged or incomplete last record is left out. Allocates no more than a small multiple of the file's records.
JournalLog read_journal_log(const Blob& log, const std::string& name);

class Journal {
 public:
  static constexpr int kSlots = 4;

  // Whether `folder` holds a log.
  static bool exists(const std::string& folder);

  // A new journal. Throws Error where it cannot be written or one exists.
  static Journal create(const std::string& folder, const Json& run);
  // The journal of the same run. Throws Error when it belongs to another run, saying what differs; FormatError when it is damaged.
  static Journal open(const std::string& folder, const Json& run);

  // Only one process at a time: Error while another one has it. It is kept when the object dies.
  ~Journal();
  Journal(Journal&& other) noexcept;
  Journal& operator=(Journal&&) = delete;

  const std::string& folder() const { return folder_; }
  // Those found by open(), in order; append() adds none here. Their bytes lie in the mapped log.
  const std::vector<Blob>& records() const { return records_; }
  // True when open() dropped a last record that was not whole.
  bool was_torn() const { return torn_; }
  // Forgets the records from number `count` on, on the disk too.
  void truncate(std::size_t count);

  // The pieces together are one record. Throws Error with path and reason (no space); the journal then still
  // ends with the record before.
  void append(std::span<const Bytes> pieces);

  // Overwrites a slot and syncs it; returns the XXH3-128 digest of its bytes. What a torn slot held is lost, so
  // writers alternate between two of them and record the digest afterwards.
  std::string write_slot(int slot, std::span<const Bytes> pieces);
  // The same of pieces that are made one at a time: next() gives one, which is used until next() is called again, and an empty one behind the last.
  std::string write_slot(int slot, const std::function<Bytes()>& next);
  // Fills `pieces` with a slot's bytes. False where the slot is missing, has another size or another digest.
  bool read_slot(int slot, std::span<const std::span<std::uint8_t>> pieces, const std::string& digest) const;
  // The same of `size` bytes into room that is made one piece at a time: next() gives some, which is full when next() is called again, and none behind the
  // last. A wrong digest is found at the end alone.
  bool read_slot(int slot, std::uint64_t size, const std::function<std::span<std::uint8_t>()>& next, const std::string& digest) const;
  // Whether read_slot() would be true.
  bool slot_is_whole(int slot, std::uint64_t size, const std::string& digest) const;

  // Deletes the journal: the run is over.
  void remove();

 private:
  explicit Journal(std::string folder);
  void open_folder();
  void append_at_end(int descriptor, std::uint64_t number, std::span<const Bytes> pieces);
  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  std::string folder_;
  int lock_ = -1, log_ = -1;
  std::vector<Blob> records_;
  std::vector<std::uint64_t> ends_;  // where record i of the log ends, record 0 included
  bool torn_ = false;
};

}  // namespace miq
