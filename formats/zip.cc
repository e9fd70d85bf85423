// The end record is found from the back of the file, the central directory through it, and every local header through
// the directory. Each number that stands twice in an archive is read in both places and must agree; ranges of entries
// are sorted once to find overlaps. All fields are read through a bounded little-endian window.
#include "miq/formats/zip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

#include "miq/base/checked.h"
#include "miq/base/error.h"
#include "miq/formats/json_events.h"
#include "miq/formats/wrong_file.h"

namespace miq {
namespace {

constexpr std::string_view kFetchAgain = "The file may be damaged or cut short: fetch it again";
constexpr std::string_view kSaveAgain = "Write the file again with torch.save";

constexpr std::uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr std::uint64_t kLocalSize = 30, kCentralSize = 46, kEndSize = 22, kEnd64Size = 56, kLocator64Size = 20;
constexpr std::uint16_t kZip64Extra = 1;
constexpr std::uint16_t kEncrypted = 1u << 0, kDescriptor = 1u << 3, kPatched = 1u << 5, kStrongEncryption = 1u << 6, kMasked = 1u << 13;
constexpr std::uint32_t kAll32 = 0xffffffff;
constexpr std::uint16_t kAll16 = 0xffff;

class Reader {
 public:
  Reader(const Blob& file, const std::string& name) : bytes_(file.bytes()), text_(file.text()), name_(name) {}
  std::vector<ZipEntry> read();

 private:
  struct Directory {
    std::uint64_t offset = 0, size = 0, count = 0;
  };
  // What a zip64 extra field gives, in the order of the format, each only where its field of 32 bits is full.
  struct Sizes {
    std::uint64_t size = 0, stored = 0, header = 0;
  };

  [[noreturn]] void fail(std::uint64_t at, std::string_view problem, std::string_view remedy = kFetchAgain) const {
    throw FormatError(name_, at, problem, remedy);
  }
  bool fits(std::uint64_t at, std::uint64_t length) const { return at <= bytes_.size() && length <= bytes_.size() - at; }

  // REQUIRES fits(at, sizeof(T)).
  template <class T>
  T get(std::uint64_t at) const {
    T value;
    std::memcpy(&value, bytes_.data() + at, sizeof value);
    return value;
  }

  std::uint64_t find_end() const;
  Directory read_directory() const;
  Directory widen(Directory directory, std::uint64_t end) const;
  ZipEntry read_entry(std::uint64_t at, std::uint64_t end, std::uint64_t* next) const;
  void check_name(std::string_view entry, std::uint64_t at) const;
  void read_local(ZipEntry& entry, std::uint16_t flags, std::uint64_t unpacked) const;
  Sizes read_extra(std::uint64_t at, std::uint64_t length, Sizes sizes) const;
  void check_overlaps(std::vector<ZipEntry>& entries, std::uint64_t directory) const;

  Bytes bytes_;
  std::string_view text_;
  const std::string& name_;
};

// The end record's comment must reach to the end of the file, so there is one place for each length of comment.
std::uint64_t Reader::find_end() const {
  const std::uint64_t size = bytes_.size();
  if (size < kEndSize) fail(0, "is too short for a zip file");
  const std::uint64_t farthest = std::min<std::uint64_t>(size - kEndSize, kAll16);
  for (std::uint64_t comment = 0; comment <= farthest; ++comment) {
    const std::uint64_t at = size - kEndSize - comment;
    if (get<std::uint32_t>(at) == kEnd && get<std::uint16_t>(at + 20) == comment) return at;
  }
  fail(size, "has no zip directory at its end");
}

Reader::Directory Reader::widen(Directory directory, std::uint64_t end) const {
  const bool full = directory.count == kAll16 || directory.size == kAll32 || directory.offset == kAll32;
  const bool locator = end >= kLocator64Size && get<std::uint32_t>(end - kLocator64Size) == kLocator64;
  if (!locator) {
    if (full) fail(end, "has a zip64 directory without its locator");
    if (directory.offset + directory.size != end) fail(end, "states a directory that does not end where its end record begins");
    return directory;
  }
  const std::uint64_t at = get<std::uint64_t>(end - kLocator64Size + 8);
  if (get<std::uint32_t>(end - kLocator64Size + 4) != 0 || get<std::uint32_t>(end - kLocator64Size + 16) > 1) {
    fail(end - kLocator64Size, "is one part of a zip archive in several parts", "Join the parts first");
  }
  if (at > end - kLocator64Size || end - kLocator64Size - at < kEnd64Size || get<std::uint32_t>(at) != kEnd64) {
    fail(end - kLocator64Size, "has a zip64 locator that points at no zip64 end record");
  }
  if (get<std::uint64_t>(at + 4) != end - kLocator64Size - at - 12) fail(at, "has a zip64 end record of another length than stated");
  if (get<std::uint32_t>(at + 16) != 0 || get<std::uint32_t>(at + 20) != 0) {
    fail(at, "is one part of a zip archive in several parts", "Join the parts first");
  }
  const Directory wide{get<std::uint64_t>(at + 48), get<std::uint64_t>(at + 40), get<std::uint64_t>(at + 32)};
  const bool agree = (directory.count == kAll16 || directory.count == wide.count) &&
                     (directory.size == kAll32 || directory.size == wide.size) &&
                     (directory.offset == kAll32 || directory.offset == wide.offset) && get<std::uint64_t>(at + 24) == wide.count;
  if (!agree) fail(at, "has a zip64 end record that contradicts the end record");
  const auto sum = checked_add(wide.offset, wide.size);
  if (!sum || *sum != at) fail(at, "states a directory that does not end where its end record begins");
  return wide;
}

Reader::Directory Reader::read_directory() const {
  const std::uint64_t end = find_end();
  if (get<std::uint16_t>(end + 4) != 0 || get<std::uint16_t>(end + 6) != 0) {
    const bool wide = get<std::uint16_t>(end + 4) == kAll16 && get<std::uint16_t>(end + 6) == kAll16;
    if (!wide) fail(end, "is one part of a zip archive in several parts", "Join the parts first");
  }
  if (get<std::uint16_t>(end + 8) != get<std::uint16_t>(end + 10)) fail(end, "states two different numbers of entries");
  const Directory directory = widen({get<std::uint32_t>(end + 16), get<std::uint32_t>(end + 12), get<std::uint16_t>(end + 10)}, end);
  if (directory.count > directory.size / kCentralSize) {
    fail(end, "states " + std::to_string(directory.count) + " entries, more than its directory of " + std::to_string(directory.size) +
                  " bytes can hold");
  }
  return directory;
}

Reader::Sizes Reader::read_extra(std::uint64_t at, std::uint64_t length, Sizes sizes) const {
  const std::uint64_t end = at + length;
  bool found = false;
  while (end - at >= 4) {
    const auto kind = get<std::uint16_t>(at);
    const auto bytes = get<std::uint16_t>(at + 2);
    at += 4;
    if (bytes > end - at) fail(at - 4, "has an extra field that is longer than its header states");
    if (kind == kZip64Extra) {
      if (found) fail(at - 4, "has two zip64 fields in one header");
      found = true;
      std::uint64_t from = at;
      for (std::uint64_t* field : {&sizes.size, &sizes.stored, &sizes.header}) {
        if (*field != kAll32) continue;
        if (at + bytes - from < 8) fail(at - 4, "has a zip64 field that is too short for what it must give");
        *field = get<std::uint64_t>(from);
        from += 8;
      }
    }
    at += bytes;
  }
  return sizes;
}

void Reader::check_name(std::string_view entry, std::uint64_t at) const {
  bool bad = entry.empty() || entry.front() == '/';
  for (const char c : entry) bad |= static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '\\' || c == ':';
  for (std::size_t from = 0; from <= entry.size() && !bad;) {
    const std::size_t slash = std::min(entry.find('/', from), entry.size());
    const std::string_view part = entry.substr(from, slash - from);
    bad = part == "." || part == ".." || (part.empty() && slash != entry.size());
    from = slash + 1;
  }
  if (bad) fail(at, "has an entry with the name '" + printable(entry) + "', which is no plain relative path", "Do not trust this file");
}

void Reader::read_local(ZipEntry& entry, std::uint16_t flags, std::uint64_t unpacked) const {
  const std::uint64_t at = entry.header;
  const std::string subject = "entry '" + printable(entry.name) + "': ";
  if (!fits(at, kLocalSize) || get<std::uint32_t>(at) != kLocal) fail(at, subject + "the directory points at no entry");
  const std::uint64_t name_bytes = get<std::uint16_t>(at + 26), extra_bytes = get<std::uint16_t>(at + 28);
  if (!fits(at + kLocalSize, name_bytes + extra_bytes)) fail(at, subject + "its header leaves the file");
  if (text_.substr(at + kLocalSize, name_bytes) != entry.name) fail(at, subject + "its own header gives another name than the directory");
  if (get<std::uint16_t>(at + 8) != entry.method || (get<std::uint16_t>(at + 6) & ~kDescriptor) != (flags & ~kDescriptor)) {
    fail(at, subject + "its own header gives another method or other flags than the directory");
  }
  const Sizes sizes = read_extra(at + kLocalSize + name_bytes, extra_bytes, {get<std::uint32_t>(at + 22), get<std::uint32_t>(at + 18), 0});
  const auto crc = get<std::uint32_t>(at + 14);
  // With a data descriptor the header was written before the size was known: zeros then.
  const bool later = get<std::uint16_t>(at + 6) & kDescriptor;
  const auto agrees = [later](std::uint64_t here, std::uint64_t there) {
    return here == there || (later && (here == 0 || here == kAll32));
  };
  if (!agrees(sizes.size, unpacked) || !agrees(sizes.stored, entry.size) || !agrees(crc, entry.crc)) {
    fail(at, subject + "its own header gives another size or checksum than the directory");
  }
  entry.begin = at + kLocalSize + name_bytes + extra_bytes;
  if (!fits(entry.begin, entry.size)) fail(at, subject + "its " + std::to_string(entry.size) + " bytes leave the file");
}

ZipEntry Reader::read_entry(std::uint64_t at, std::uint64_t end, std::uint64_t* next) const {
  if (end - at < kCentralSize || get<std::uint32_t>(at) != kCentral) fail(at, "has no directory entry where one is stated");
  const std::uint64_t name_bytes = get<std::uint16_t>(at + 28), extra_bytes = get<std::uint16_t>(at + 30);
  const std::uint64_t comment_bytes = get<std::uint16_t>(at + 32);
  if (name_bytes + extra_bytes + comment_bytes > end - at - kCentralSize) fail(at, "has a directory entry that leaves the directory");
  *next = at + kCentralSize + name_bytes + extra_bytes + comment_bytes;

  ZipEntry entry;
  entry.name = text_.substr(at + kCentralSize, name_bytes);
  check_name(entry.name, at);
  const std::string subject = "entry '" + printable(entry.name) + "' ";
  const auto flags = get<std::uint16_t>(at + 8);
  if (flags & (kEncrypted | kStrongEncryption | kMasked)) fail(at, subject + "is encrypted", "Decrypt the archive first");
  if (flags & kPatched) fail(at, subject + "is a patch of another file", kSaveAgain);
  const auto disk = get<std::uint16_t>(at + 34);
  if (disk != 0 && disk != kAll16) fail(at, subject + "lies in another part of the archive", "Join the parts first");
  const Sizes sizes = read_extra(at + kCentralSize + name_bytes, extra_bytes,
                                 {get<std::uint32_t>(at + 24), get<std::uint32_t>(at + 20), get<std::uint32_t>(at + 42)});
  entry.method = get<std::uint16_t>(at + 10);
  if (entry.method == 0 && sizes.size != sizes.stored) fail(at, subject + "is stored, but its two sizes differ");
  entry.size = sizes.stored;
  entry.header = sizes.header;
  entry.crc = get<std::uint32_t>(at + 16);
  read_local(entry, flags, sizes.size);
  return entry;
}

void Reader::check_overlaps(std::vector<ZipEntry>& entries, std::uint64_t directory) const {
  std::vector<const ZipEntry*> order;
  order.reserve(entries.size());
  for (const ZipEntry& entry : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const ZipEntry* a, const ZipEntry* b) { return a->header < b->header; });
  if (!order.empty() && order[0]->header != 0) fail(0, "has something before its first entry", "Do not trust this file");
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::uint64_t end = order[i]->begin + order[i]->size;
    if (end > directory)
      fail(order[i]->header, "entry '" + printable(order[i]->name) + "' overlaps the directory", "Do not trust this file");
    if (i + 1 < order.size() && end > order[i + 1]->header) {
      fail(order[i + 1]->header, "entries '" + printable(order[i]->name) + "' and '" + printable(order[i + 1]->name) + "' overlap",
           "Do not trust this file");
    }
  }
}

std::vector<ZipEntry> Reader::read() {
  if (!fits(0, 4) || get<std::uint32_t>(0) != kLocal) {
    refuse_wrong_file(bytes_, name_, "zip");
    fail(0, "does not begin like a zip file");
  }
  const Directory directory = read_directory();
  std::vector<ZipEntry> entries;
  entries.reserve(directory.count);
  const std::uint64_t end = directory.offset + directory.size;
  std::uint64_t at = directory.offset;
  for (std::uint64_t i = 0; i < directory.count; ++i) entries.push_back(read_entry(at, end, &at));
  if (at != end) fail(at, "has more in its directory than the " + std::to_string(directory.count) + " entries that it states");
  check_overlaps(entries, directory.offset);
  std::erase_if(entries, [](const ZipEntry& entry) { return entry.size == 0 && entry.name.ends_with('/'); });
  return entries;
}

}  // namespace

ZipFile ZipFile::read(Blob file, const std::string& name) {
  ZipFile zip;
  zip.entries_ = Reader(file, name).read();
  zip.file_ = std::move(file);
  zip.name_ = name;
  zip.by_name_.resize(zip.entries_.size());
  std::iota(zip.by_name_.begin(), zip.by_name_.end(), 0u);
  const auto& entries = zip.entries_;
  std::sort(zip.by_name_.begin(), zip.by_name_.end(), [&](auto a, auto b) { return entries[a].name < entries[b].name; });
  const auto twice =
      std::adjacent_find(zip.by_name_.begin(), zip.by_name_.end(), [&](auto a, auto b) { return entries[a].name == entries[b].name; });
  if (twice != zip.by_name_.end()) {
    throw FormatError(name, entries[*twice].header, "entry '" + printable(entries[*twice].name) + "' appears twice",
                      "Do not trust this file");
  }
  return zip;
}

const ZipEntry* ZipFile::find(std::string_view entry_name) const {
  const auto at = std::lower_bound(by_name_.begin(), by_name_.end(), entry_name,
                                   [&](auto i, std::string_view wanted) { return entries_[i].name < wanted; });
  return at != by_name_.end() && entries_[*at].name == entry_name ? &entries_[*at] : nullptr;
}

Blob ZipFile::content(const ZipEntry& entry) const {
  if (entry.method != 0) {
    throw FormatError(
        name_, entry.header,
        "entry '" + printable(entry.name) + "' is compressed (method " + std::to_string(entry.method) + "), which is not read",
        "Unpack the archive and pack it without compression, or write the file again with torch.save");
  }
  return file_.slice(entry.begin, entry.size);
}

void ZipFile::verify(const ZipEntry& entry) const {
  if (entry.crc == 0) return;
  const Bytes bytes = content(entry).bytes();
  const auto crc = static_cast<std::uint32_t>(::crc32_z(0, bytes.data(), bytes.size()));
  if (crc != entry.crc) {
    throw FormatError(name_, entry.begin, "entry '" + printable(entry.name) + "': its checksum (CRC-32) is wrong", kFetchAgain);
  }
}

}  // namespace miq
