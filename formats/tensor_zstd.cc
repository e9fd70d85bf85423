// The zstd encoding: byte k of every element goes into plane k, because exponents of weights repeat
// and their low bits do not; the planes, one behind the other, are one zstd frame. The frame must
// state its content size, which must be what dtype and shape demand, and may ask for a window of at
// most 8 MiB: nothing a file says makes the decoder take more memory than the tensor needs.
// Format of the frame header: RFC 8878, 3.1.1.1.
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "miq/formats/encodings.h"

namespace miq {
namespace {

constexpr std::uint64_t kLargestWindow = 8u << 20;
// A block of at least 4 bytes yields at most 128 KiB.
constexpr std::uint64_t kLargestRatio = (128u << 10) / 4;

template <std::size_t width>
void to_planes(Bytes data, std::uint8_t* planes) {
  const std::size_t elements = data.size() / width;
  for (std::size_t plane = 0; plane < width; ++plane) {
    for (std::size_t i = 0; i < elements; ++i) planes[plane * elements + i] = data[i * width + plane];
  }
}

// Puts a run of the planes' bytes, which begins at `position` of them, where it belongs. One pass over `out` for each plane costs less than a
// second buffer of the tensor's size, which may be the largest thing in memory.
template <std::size_t width>
void scatter(Bytes run, std::size_t position, std::span<std::uint8_t> out) {
  const std::size_t elements = out.size() / width;
  while (!run.empty()) {
    const std::size_t plane = position / elements, first = position % elements, count = std::min(run.size(), elements - first);
    std::uint8_t* to = out.data() + first * width + plane;
    for (std::size_t i = 0; i < count; ++i) to[i * width] = run[i];
    run = run.subspan(count);
    position += count;
  }
}

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

// Bytes of window that the frame asks for; 0 when there is no whole frame header.
std::uint64_t frame_window(Bytes frame, std::uint64_t content) {
  if (frame.size() < 6) return 0;
  const bool single_segment = (frame[4] >> 5) & 1;
  if (single_segment) return content;
  const unsigned exponent = frame[5] >> 3, mantissa = frame[5] & 7;
  const std::uint64_t base = std::uint64_t{1} << (10 + exponent);
  return base + base / 8 * mantissa;
}

}  // namespace

namespace encodings {

void check_zstd(const Tensor& tensor, std::string_view name) {
  const std::uint64_t expected = decoded_bytes(tensor, name);
  require_sections(tensor, name, {"data"});
  const Bytes frame = section(tensor, name, "data");
  static constexpr std::uint8_t kMagic[4] = {0x28, 0xB5, 0x2F, 0xFD};
  if (frame.size() < 6 || std::memcmp(frame.data(), kMagic, 4) != 0) throw FormatError(subject(name), "section 'data' is no zstd frame");
  const unsigned long long content = ZSTD_getFrameContentSize(frame.data(), frame.size());
  if (content == ZSTD_CONTENTSIZE_ERROR || content == ZSTD_CONTENTSIZE_UNKNOWN) {
    throw FormatError(subject(name), "its zstd frame does not state its content size");
  }
  if (content != expected || expected / kLargestRatio > frame.size()) {
    throw FormatError(subject(name), "its zstd frame of " + std::to_string(frame.size()) + " bytes states " + std::to_string(content) +
                                         " bytes of content where dtype and shape need " + std::to_string(expected));
  }
  if (frame_window(frame, content) > kLargestWindow) throw FormatError(subject(name), "its zstd frame needs a window of more than 8 MiB");
  if ((frame[4] & 3) != 0) throw FormatError(subject(name), "its zstd frame asks for a dictionary");
  const std::size_t length = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  if (ZSTD_isError(length) || length != frame.size()) throw FormatError(subject(name), "section 'data' is not exactly one zstd frame");
}

void decode_zstd(const Tensor& tensor, std::string_view name, std::span<std::uint8_t> out) {
  check_zstd(tensor, name);
  const Bytes frame = section(tensor, name, "data");
  const std::unique_ptr<ZSTD_DCtx, FreeContext> context(ZSTD_createDCtx());
  if (!context) throw std::bad_alloc();
  const auto damaged = [&](const char* why) { return FormatError(subject(name), std::string("its zstd frame is damaged (") + why + ")"); };
  const std::size_t width = dtype_bytes(tensor.dtype);
  std::vector<std::uint8_t> piece(ZSTD_DStreamOutSize());
  ZSTD_inBuffer in{frame.data(), frame.size(), 0};
  for (std::size_t position = 0, left = 1; left != 0;) {  // `left`: 0 at the frame's end
    ZSTD_outBuffer run{piece.data(), piece.size(), 0};
    const std::size_t read = in.pos;
    left = ZSTD_decompressStream(context.get(), &run, &in);
    if (ZSTD_isError(left)) throw damaged(ZSTD_getErrorName(left));
    if (run.pos > out.size() - position) throw damaged("too long");
    const Bytes bytes(piece.data(), run.pos);
    switch (width) {
      case 2: scatter<2>(bytes, position, out); break;
      case 4: scatter<4>(bytes, position, out); break;
      case 8: scatter<8>(bytes, position, out); break;
      default: std::copy(bytes.begin(), bytes.end(), out.begin() + static_cast<std::ptrdiff_t>(position));
    }
    position += run.pos;
    if (left == 0 ? position != out.size() : run.pos == 0 && in.pos == read) throw damaged("too short");
  }
}

}  // namespace encodings

Tensor encode_zstd(const Tensor& dense, int level) {
  const Blob data = decode(dense, "being encoded");
  const std::size_t width = dtype_bytes(dense.dtype);
  std::vector<std::uint8_t> planes(data.size());
  switch (width) {
    case 2: to_planes<2>(data.bytes(), planes.data()); break;
    case 4: to_planes<4>(data.bytes(), planes.data()); break;
    case 8: to_planes<8>(data.bytes(), planes.data()); break;
    default: std::copy(data.bytes().begin(), data.bytes().end(), planes.begin());
  }
  const std::unique_ptr<ZSTD_CCtx, FreeContext> context(ZSTD_createCCtx());
  if (!context) throw std::bad_alloc();
  // Levels above 19 would use windows larger than a reader accepts.
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, std::clamp(level, 1, 19));
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_contentSizeFlag, 1);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, 0);
  std::vector<std::uint8_t> frame(ZSTD_compressBound(planes.size()));
  const std::size_t size = ZSTD_compress2(context.get(), frame.data(), frame.size(), planes.data(), planes.size());
  if (ZSTD_isError(size)) throw Error(std::string("zstd could not compress a tensor: ") + ZSTD_getErrorName(size));
  frame.resize(size);
  frame.shrink_to_fit();
  Tensor tensor;
  tensor.encoding = Encoding::Zstd;
  tensor.dtype = dense.dtype;
  tensor.shape = dense.shape;
  tensor.sections.emplace("data", Blob(std::move(frame)));
  return tensor;
}

}  // namespace miq
