// Both formats are unpacked piece by piece into a growing buffer, so that nothing is allocated because a header says so.
#include "miq/formats/compressed_file.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/mapped_file.h"

namespace miq {
namespace {

constexpr std::uint64_t kLeast = 64u << 20, kMost = 1u << 30, kRatio = 200;
constexpr std::size_t kPiece = 1u << 20;
constexpr int kLongestWindow = 27;  // zstd's own default for untrusted frames: 128 MiB
constexpr const char* kDamaged = "Fetch or write the file again";

class Unpacked {
 public:
  Unpacked(const std::string& path, std::uint64_t limit) : path_(path), limit_(limit) {}
  std::uint8_t* room() {
    if (used_ + kPiece > bytes_.size()) bytes_.resize(std::max(used_ + kPiece, bytes_.size() + bytes_.size() / 2));
    return bytes_.data() + used_;
  }
  void took(std::size_t count) {
    used_ += count;
    if (used_ > limit_) {
      throw FormatError(path_, "it unpacks to more than " + std::to_string(limit_) + " bytes, which is no sensible text for a file of its size",
                        "Unpack it yourself if it really is one");
    }
  }
  Blob blob() {
    bytes_.resize(used_);
    return Blob(std::move(bytes_));
  }

 private:
  const std::string& path_;
  std::uint64_t limit_;
  std::vector<std::uint8_t> bytes_;
  std::size_t used_ = 0;
};

bool starts_gzip(Bytes bytes) { return bytes.size() >= 2 && bytes[0] == 0x1f && bytes[1] == 0x8b; }

bool starts_zstd(Bytes bytes) {
  if (bytes.size() < 4) return false;
  const bool frame = bytes[0] == 0x28, skippable = (bytes[0] & 0xf0) == 0x50;
  return frame ? bytes[1] == 0xb5 && bytes[2] == 0x2f && bytes[3] == 0xfd : skippable && bytes[1] == 0x2a && bytes[2] == 0x4d && bytes[3] == 0x18;
}

void unpack_gzip(const std::string& path, Bytes bytes, Unpacked& to) {
  z_stream stream{};
  if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) throw std::bad_alloc();
  const std::unique_ptr<z_stream, int (*)(z_stream*)> end(&stream, inflateEnd);
  std::size_t at = 0;
  while (true) {
    stream.next_in = const_cast<Bytef*>(bytes.data() + at);  // zlib reads only
    stream.avail_in = static_cast<uInt>(std::min<std::size_t>(bytes.size() - at, 1u << 30));
    stream.next_out = to.room();
    stream.avail_out = static_cast<uInt>(kPiece);
    const uInt before = stream.avail_in;
    const int state = inflate(&stream, Z_NO_FLUSH);
    at += before - stream.avail_in;
    to.took(kPiece - stream.avail_out);
    if (state == Z_STREAM_END) {
      if (at == bytes.size()) return;
      if (!starts_gzip(bytes.subspan(at))) throw FormatError(path, at, "something that is not gzip follows the packed text", kDamaged);
      if (inflateReset(&stream) != Z_OK) throw std::bad_alloc();
    } else if (state == Z_MEM_ERROR) {
      throw std::bad_alloc();
    } else if (state == Z_BUF_ERROR || (state == Z_OK && at == bytes.size() && stream.avail_out > 0)) {
      throw FormatError(path, at, "the packed text is cut short", kDamaged);
    } else if (state != Z_OK) {
      throw FormatError(path, at, std::string("the packed text is damaged (") + (stream.msg ? stream.msg : "gzip") + ")", kDamaged);
    }
  }
}

void unpack_zstd(const std::string& path, Bytes bytes, Unpacked& to) {
  const std::unique_ptr<ZSTD_DStream, std::size_t (*)(ZSTD_DStream*)> stream(ZSTD_createDStream(), ZSTD_freeDStream);
  if (!stream) throw std::bad_alloc();
  ZSTD_DCtx_setParameter(stream.get(), ZSTD_d_windowLogMax, kLongestWindow);
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  std::size_t wanted = 0;
  bool more = true;
  while (more) {
    ZSTD_outBuffer out{to.room(), kPiece, 0};
    const std::size_t before = in.pos;
    wanted = ZSTD_decompressStream(stream.get(), &out, &in);
    if (ZSTD_isError(wanted)) throw FormatError(path, before, std::string("the packed text is damaged (") + ZSTD_getErrorName(wanted) + ")", kDamaged);
    to.took(out.pos);
    more = in.pos < in.size || (wanted != 0 && out.pos == out.size);  // 0: the frame is over and all of it is out
  }
  if (wanted != 0) throw FormatError(path, bytes.size(), "the packed text is cut short", kDamaged);
}

}  // namespace

std::uint64_t unpacked_limit(std::uint64_t file_bytes) { return std::clamp(std::min(file_bytes, kMost) * kRatio, kLeast, kMost); }

Blob read_text_bytes(const std::string& path) {
  Blob file = map_file(path);
  const bool gzip = starts_gzip(file.bytes());
  if (!gzip && !starts_zstd(file.bytes())) return file;
  Unpacked to(path, unpacked_limit(file.size()));
  gzip ? unpack_gzip(path, file.bytes(), to) : unpack_zstd(path, file.bytes(), to);
  return to.blob();
}

}  // namespace miq
