// Framing with checked heads, so that a length is believed only when its head is whole; one fsync a record.
// What is torn and what is damaged is told apart by what follows: an append-only log that is synced after
// every record can only be cut short at its end.
#include "miq/formats/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "miq/base/error.h"
#include "miq/formats/digest.h"
#include "miq/formats/mapped_file.h"

namespace miq {
namespace {

constexpr std::string_view kMagic = "miqjrnl1";
constexpr std::uint64_t kHead = 64, kCheckAt = 56, kDigestAt = 24, kDigestDigits = 32, kLongestRun = 16u << 20;
constexpr const char *kLog = "log", *kNewLog = "log.new";
constexpr const char* kRemedy = "Remove the journal's folder and begin anew";

void put(std::uint8_t* to, std::uint64_t value) {
  for (int i = 0; i < 8; ++i) to[i] = static_cast<std::uint8_t>(value >> (8 * i));
}
std::uint64_t get(const std::uint8_t* from) {
  std::uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value |= std::uint64_t{from[i]} << (8 * i);
  return value;
}

bool head_is_whole(Bytes bytes) {
  return bytes.size() >= kHead && std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0 && get(&bytes[kCheckAt]) == xxh3_64(bytes.first(kCheckAt));
}

struct Found {
  bool whole = false;
  std::uint64_t length = 0;  // of the content
};

Found record_at(Bytes log, std::uint64_t at, std::uint64_t number) {
  const Bytes rest = log.subspan(at);
  if (!head_is_whole(rest) || get(&rest[8]) != number) return {};
  const std::uint64_t length = get(&rest[16]);
  if (length % kHead != 0 || length > rest.size() - kHead) return {};
  const std::string_view digest(reinterpret_cast<const char*>(&rest[kDigestAt]), kDigestDigits);
  return {digest_of(rest.subspan(kHead, length)) == digest, length};
}

bool later_head(Bytes log, std::uint64_t from, std::uint64_t number) {
  while (from < log.size()) {
    const auto* found = static_cast<const std::uint8_t*>(::memmem(&log[from], log.size() - from, kMagic.data(), kMagic.size()));
    if (!found) return false;
    const auto at = static_cast<std::uint64_t>(found - log.data());
    if (head_is_whole(log.subspan(at)) && get(found + 8) > number) return true;
    from = at + 1;
  }
  return false;
}

[[noreturn]] void fail(const std::string& path, const std::string& what, int reason) {
  const bool space = reason == ENOSPC || reason == EDQUOT;
  throw Error(path + ": " + what + ": " + std::strerror(reason) + (space ? ". Free some space, or compress without a journal (--no-journal)" : ""));
}

void sync(int descriptor, const std::string& path) {
  while (::fsync(descriptor) != 0) {
    if (errno == EINTR) continue;
    if (errno == EINVAL || errno == ENOTSUP) return;  // folders of some file systems
    fail(path, "cannot be brought to the disk", errno);
  }
}

struct Descriptor {
  int number;
  explicit Descriptor(int opened) : number(opened) {}
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
};

void write_all(int descriptor, Bytes bytes, std::uint64_t at, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor, bytes.data(), std::min<std::size_t>(bytes.size(), 1u << 30), static_cast<off_t>(at));
    if (written < 0) {
      if (errno == EINTR) continue;
      fail(path, "cannot be written at byte " + std::to_string(at) + " (" + std::to_string(bytes.size()) + " bytes to go)", errno);
    }
    at += static_cast<std::uint64_t>(written);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

std::string short_text(const Json& value) {
  std::string text = value.dump();
  return text.size() > 80 ? text.substr(0, 77) + "…" : text;
}

void check_same_run(const Json& theirs, const Json& ours, const std::string& folder) {
  if (theirs == ours) return;
  const Json left = theirs.flatten(), right = ours.flatten();
  std::vector<std::string> differences;
  auto add = [&](const std::string& key, const std::string& there, const std::string& here) {
    differences.push_back(key.substr(key.empty() ? 0 : 1) + " was " + there + " and is " + here);
  };
  for (const auto& [key, value] : left.items()) {
    if (!right.contains(key)) {
      add(key, short_text(value), "not given");
    } else if (right.at(key) != value) {
      add(key, short_text(value), short_text(right.at(key)));
    }
  }
  for (const auto& [key, value] : right.items()) {
    if (!left.contains(key)) add(key, "not given", short_text(value));
  }
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(differences.size(), 6); ++i) text += (i ? "; " : "") + differences[i];
  if (differences.size() > 6) text += "; and " + std::to_string(differences.size() - 6) + " more";
  throw Error(folder + ": is the journal of another run: " + text + ". Repeat that run's command, write to another file, or remove the folder");
}

// A run that was over before its first record.
bool holds_nothing(const std::string& path) {
  try {
    return read_journal_log(map_file(path), path).records.empty();
  } catch (const FormatError&) {
    return false;
  }
}

}  // namespace

JournalLog read_journal_log(const Blob& log, const std::string& name) {
  const Bytes bytes = log.bytes();
  JournalLog result;
  for (std::uint64_t at = 0, number = 0; at < bytes.size(); ++number) {
    const Found found = record_at(bytes, at, number);
    if (!found.whole) {
      if (number == 0) throw FormatError(name, 0, "is no journal of this version, or its first record is damaged", kRemedy);
      if (later_head(bytes, at + 1, number)) throw FormatError(name, at, "record " + std::to_string(number) + " is damaged", kRemedy);
      break;
    }
    if (number == 0) {
      if (found.length > kLongestRun) throw FormatError(name, at, "the first record is too long", kRemedy);
      Json first = parse_json(log.slice(at + kHead, found.length).text(), name);
      if (!first.is_object() || first.value("version", Json()) != 1 || !first.contains("run") || !first["run"].is_object()) {
        throw FormatError(name, at + kHead, "the first record does not say which run this is", kRemedy);
      }
      result.run = std::move(first["run"]);
    } else {
      result.records.push_back(log.slice(at + kHead, found.length));
    }
    at += kHead + found.length;
    result.whole_bytes = at;
  }
  if (result.whole_bytes == 0) throw FormatError(name, 0, "is empty", kRemedy);
  return result;
}

bool Journal::exists(const std::string& folder) {
  struct stat status {};
  return ::lstat((folder + "/" + kLog).c_str(), &status) == 0;
}

Journal::Journal(std::string folder) : folder_(std::move(folder)) {}

Journal::Journal(Journal&& other) noexcept
    : folder_(std::move(other.folder_)), lock_(std::exchange(other.lock_, -1)), log_(std::exchange(other.log_, -1)), records_(std::move(other.records_)),
      ends_(std::move(other.ends_)), torn_(other.torn_) {}

Journal::~Journal() {
  if (log_ >= 0) ::close(log_);
  if (lock_ >= 0) ::close(lock_);
}

void Journal::open_folder() {
  lock_ = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (lock_ < 0) fail(folder_, "cannot be opened as the journal's folder", errno);
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    throw Error(folder_ + ": another process is writing this journal. Wait for it, or write to another file");
  }
}

Journal Journal::create(const std::string& folder, const Json& run) {
  Journal journal(folder);
  if (::mkdir(folder.c_str(), 0777) != 0 && errno != EEXIST) fail(folder, "cannot be made", errno);
  journal.open_folder();
  if (exists(folder) && !holds_nothing(journal.path(kLog))) {
    throw Error(folder + ": holds the journal of an interrupted run. Go on with --resume, or remove the folder and begin anew");
  }
  const std::string path = journal.path(kNewLog);
  journal.log_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (journal.log_ < 0) fail(path, "cannot be written", errno);
  std::string text = Json{{"version", 1}, {"run", run}}.dump();
  text.resize((text.size() + kHead - 1) / kHead * kHead, ' ');
  const Bytes pieces[] = {Bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size())};
  try {
    journal.append(pieces);
    if (::rename(path.c_str(), journal.path(kLog).c_str()) != 0) fail(path, "cannot be given its final name", errno);
    sync(journal.lock_, folder);
  } catch (...) {
    journal.remove();
    throw;
  }
  const auto slash = folder.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : folder.substr(0, slash + 1);
  if (const int descriptor = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); descriptor >= 0) {
    ::fsync(descriptor);  // without it a power failure may lose the whole journal, and nothing else
    ::close(descriptor);
  }
  return journal;
}

Journal Journal::open(const std::string& folder, const Json& run) {
  Journal journal(folder);
  journal.open_folder();
  const std::string path = journal.path(kLog);
  journal.log_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (journal.log_ < 0) fail(path, "cannot be opened", errno);
  const Blob bytes = map_file(path);
  JournalLog log = read_journal_log(bytes, path);
  check_same_run(log.run, run, folder);
  journal.torn_ = log.whole_bytes != bytes.size();
  std::uint64_t end = log.whole_bytes;
  for (const Blob& record : log.records) end -= record.size() + kHead;
  journal.ends_.push_back(end);
  for (const Blob& record : log.records) journal.ends_.push_back(end += record.size() + kHead);
  journal.records_ = std::move(log.records);
  if (journal.torn_) journal.truncate(journal.records_.size());
  return journal;
}

void Journal::truncate(std::size_t count) {
  records_.resize(std::min(records_.size(), count));
  ends_.resize(std::min(ends_.size(), count + 1));
  if (::ftruncate(log_, static_cast<off_t>(ends_.back())) != 0) fail(path(kLog), "cannot be cut to its whole records", errno);
  sync(log_, path(kLog));
}

void Journal::append(std::span<const Bytes> pieces) {
  const std::uint64_t start = ends_.empty() ? 0 : ends_.back();
  std::uint64_t length = 0;
  Digest digest;
  for (Bytes piece : pieces) length += piece.size(), digest.add(piece);
  static constexpr std::uint8_t kZeros[kHead] = {};
  const Bytes filling = Bytes(kZeros).first((kHead - length % kHead) % kHead);
  digest.add(filling);
  length += filling.size();
  std::uint8_t head[kHead];
  std::memcpy(head, kMagic.data(), kMagic.size());
  put(head + 8, ends_.size());
  put(head + 16, length);
  std::memcpy(head + kDigestAt, digest.hex().data(), kDigestDigits);
  put(head + kCheckAt, xxh3_64(Bytes(head, kCheckAt)));
  try {
    std::uint64_t at = start + kHead;
    for (Bytes piece : pieces) {
      write_all(log_, piece, at, path(kLog));
      at += piece.size();
    }
    write_all(log_, filling, at, path(kLog));
    write_all(log_, head, start, path(kLog));
    sync(log_, path(kLog));
  } catch (const Error&) {
    // Half a record is dropped by the next reader anyway; giving its space back is what a full disk needs.
    [[maybe_unused]] const int ignored = ::ftruncate(log_, static_cast<off_t>(start));
    throw;
  }
  ends_.push_back(start + kHead + length);
}

std::string Journal::write_slot(int slot, std::span<const Bytes> pieces) {
  auto rest = pieces.begin();
  return write_slot(slot, [&]() -> Bytes {
    while (rest != pieces.end() && rest->empty()) ++rest;
    return rest == pieces.end() ? Bytes() : *rest++;
  });
}

std::string Journal::write_slot(int slot, const std::function<Bytes()>& next) {
  const std::string name = path("states." + std::to_string(slot));
  struct stat status {};
  const bool fresh = ::lstat(name.c_str(), &status) != 0;
  const Descriptor file(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (file.number < 0) fail(name, "cannot be written", errno);
  Digest digest;
  std::uint64_t at = 0;
  for (Bytes piece = next(); !piece.empty(); piece = next()) {
    digest.add(piece);
    write_all(file.number, piece, at, name);
    at += piece.size();
  }
  if (::ftruncate(file.number, static_cast<off_t>(at)) != 0) fail(name, "cannot be cut to its size", errno);
  sync(file.number, name);
  if (fresh) sync(lock_, folder_);
  return digest.hex();
}

bool Journal::read_slot(int slot, std::span<const std::span<std::uint8_t>> pieces, const std::string& digest) const {
  std::uint64_t size = 0;
  for (const auto piece : pieces) size += piece.size();
  auto rest = pieces.begin();
  return read_slot(slot, size, [&]() -> std::span<std::uint8_t> {
    while (rest != pieces.end() && rest->empty()) ++rest;
    return rest == pieces.end() ? std::span<std::uint8_t>() : *rest++;
  }, digest);
}

bool Journal::read_slot(int slot, std::uint64_t size, const std::function<std::span<std::uint8_t>()>& next, const std::string& digest) const {
  const Descriptor file(::open(path("states." + std::to_string(slot)).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat status {};
  if (file.number < 0 || ::fstat(file.number, &status) != 0 || !S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) != size) return false;
  Digest found;
  std::uint64_t at = 0;
  for (std::span<std::uint8_t> piece = next(); !piece.empty(); piece = next()) {
    for (std::size_t done = 0; done < piece.size();) {
      const ssize_t count = ::pread(file.number, piece.data() + done, std::min<std::size_t>(piece.size() - done, 1u << 30), static_cast<off_t>(at + done));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return false;
      done += static_cast<std::size_t>(count);
    }
    at += piece.size();
    found.add(piece);
  }
  return at == size && found.hex() == digest;
}

bool Journal::slot_is_whole(int slot, std::uint64_t size, const std::string& digest) const {
  std::vector<std::uint8_t> some(static_cast<std::size_t>(std::min<std::uint64_t>(size, 1u << 20)));
  std::uint64_t rest = size;
  return read_slot(slot, size, [&] {
    const std::span<std::uint8_t> room = std::span(some).first(static_cast<std::size_t>(std::min<std::uint64_t>(rest, some.size())));
    rest -= room.size();
    return room;
  }, digest);
}

void Journal::remove() {
  // The log first: what a kill leaves of the rest is no journal.
  if (::unlink(path(kLog).c_str()) != 0 && errno != ENOENT) fail(path(kLog), "cannot be removed", errno);
  ::unlink(path(kNewLog).c_str());
  for (int slot = 0; slot < kSlots; ++slot) ::unlink(path("states." + std::to_string(slot)).c_str());
  ::rmdir(folder_.c_str());  // stays where something else lies in it
}

}  // namespace miq
