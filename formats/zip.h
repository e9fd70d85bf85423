// Reader of zip files as torch writes them: stored entries, found through the central directory, zip64, data
// descriptors, padding in the local headers. Nothing is unpacked to disk and nothing is decompressed.
// Facts: PKWARE's APPNOTE 6.3.9; caffe2/serialize/inline_container.cc.
//
// Compressed entries are listed, and refused when their content is asked for. Refused at once, with the entry's name and
// offset: encrypted entries, archives in several parts, names given
// twice, absolute names or names with "..", a backslash or a control character, local headers that contradict the
// central directory, entries that overlap each other or the directory or leave the file, zip64 records that contradict
// the fields beside them, a directory of another size or count than stated, bytes before or behind the archive.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "miq/base/blob.h"

namespace miq {

struct ZipEntry {
  std::string_view name;           // a view into the file
  std::uint64_t header = 0;        // offset of the local header
  std::uint64_t begin = 0;         // offset of the content
  std::uint64_t size = 0;          // of the content in the file: before it is decompressed
  std::uint32_t crc = 0;           // CRC-32 of the content by the directory; 0: not stated
  std::uint16_t method = 0;        // 0: stored
};

class ZipFile {
 public:
  // `name` is used in messages. Throws FormatError. Entries for folders are left out.
  static ZipFile read(Blob file, const std::string& name);

  const std::vector<ZipEntry>& entries() const { return entries_; }  // in the order of the central directory
  const ZipEntry* find(std::string_view entry_name) const;           // null when there is none
  Blob content(const ZipEntry& entry) const;                         // throws FormatError for a compressed entry
  // Throws FormatError when the content's CRC-32 is not the stated one. Reads all of the content. Passes what states 0:
  // torch.save writes that where the user turned checksums off.
  void verify(const ZipEntry& entry) const;
  const std::string& name() const { return name_; }

 private:
  Blob file_;
  std::string name_;
  std::vector<ZipEntry> entries_;
  std::vector<std::uint32_t> by_name_;  // indices of entries_, ordered by name
};

}  // namespace miq
