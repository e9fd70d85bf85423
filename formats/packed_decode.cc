// Packed codes to floats. A block of rows at a time, group after group: the codes are unpacked to one
// byte each, then (code - zero) is turned into a float and multiplied by the row's scale, which is the
// one rounding that the format allows; a 16-bit result is rounded once more from that float. Where
// groups are not runs of columns, the block is computed in storage order and its columns are put into
// their places afterwards, while it is still in the cache.
#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "miq/formats/encodings.h"
#include "miq/formats/packed_layout.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define MIQ_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MIQ_CLONES
#endif

namespace miq {
namespace {

constexpr std::int64_t kBlockWeights = 16384;  // codes, mask and floats of a block stay in a core's cache
constexpr std::int64_t kBlockRows = 64;

// One row of one group: `count` codes, its mask bytes (null where nothing is masked).
struct Run {
  const std::uint8_t* codes;
  const std::uint8_t* mask;
  std::int64_t count;
  float scale;
  int zero;
};

inline std::uint32_t product_bits(const Run& run, std::int64_t i) {
  return std::bit_cast<std::uint32_t>(run.scale * static_cast<float>(static_cast<int>(run.codes[i]) - run.zero));
}

// All ones or zero from a mask byte.
inline std::uint32_t wide(std::uint8_t mask) {
  return static_cast<std::uint32_t>(static_cast<std::int32_t>(static_cast<std::int8_t>(mask)));
}

// Nearest even; the product is never NaN, since the scale is finite.
inline std::uint16_t to_bf16(std::uint32_t bits) { return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16); }

MIQ_CLONES void run_f32(Run run, std::uint32_t* __restrict out) {
  for (std::int64_t i = 0; i < run.count; ++i) out[i] = product_bits(run, i);
}
MIQ_CLONES void run_f32_masked(Run run, std::uint32_t* __restrict out) {
  for (std::int64_t i = 0; i < run.count; ++i) out[i] = product_bits(run, i) & wide(run.mask[i]);
}
MIQ_CLONES void run_bf16(Run run, std::uint16_t* __restrict out) {
  for (std::int64_t i = 0; i < run.count; ++i) out[i] = to_bf16(product_bits(run, i));
}
MIQ_CLONES void run_bf16_masked(Run run, std::uint16_t* __restrict out) {
  for (std::int64_t i = 0; i < run.count; ++i) out[i] = to_bf16(product_bits(run, i) & wide(run.mask[i]));
}

// No vector form without F16C: rare enough.
void run_f16_plain(Run run, std::int64_t from, std::uint16_t* __restrict out) {
  for (std::int64_t i = from; i < run.count; ++i) {
    const std::uint32_t bits = product_bits(run, i) & (run.mask ? wide(run.mask[i]) : ~0u);
    out[i] = f32_to_f16(std::bit_cast<float>(bits));
  }
}
#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) std::int64_t run_f16_vectors(Run run, std::uint16_t* __restrict out) {
  std::int64_t i = 0;
  for (; i + 8 <= run.count; i += 8) {
    alignas(32) std::uint32_t bits[8];
    for (std::int64_t j = 0; j < 8; ++j) bits[j] = product_bits(run, i + j) & (run.mask ? wide(run.mask[i + j]) : ~0u);
    const __m128i half = _mm256_cvtps_ph(_mm256_load_ps(reinterpret_cast<const float*>(bits)), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), half);
  }
  return i;
}
// Asked of the processor itself: __builtin_cpu_supports does not know "f16c" in clang 14.
bool processor_has_halves() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __builtin_cpu_supports("avx") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
const bool kHasHalves = processor_has_halves();
#endif
void run_f16(Run run, std::uint16_t* out) {
  std::int64_t from = 0;
#if defined(__x86_64__)
  if (kHasHalves) from = run_f16_vectors(run, out);
#endif
  run_f16_plain(run, from, out);
}

void decode_run(const Run& run, DType dtype, void* out) {
  if (dtype == DType::F16) return run_f16(run, static_cast<std::uint16_t*>(out));
  if (dtype == DType::BF16) return (run.mask ? run_bf16_masked : run_bf16)(run, static_cast<std::uint16_t*>(out));
  return (run.mask ? run_f32_masked : run_f32)(run, static_cast<std::uint32_t*>(out));
}

template <typename Word>
void gather(const Word* __restrict from, const std::uint32_t* __restrict position, std::int64_t count, Word* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = from[position[i]];
}

class BlockDecoder {
 public:
  BlockDecoder(const PackedLayout& layout, DType dtype, std::int64_t rows_per_block)
      : layout_(layout),
        dtype_(dtype),
        width_(static_cast<std::int64_t>(dtype_bytes(dtype))),
        codes_(static_cast<std::size_t>(rows_per_block * layout.cols + PackedLayout::kSlack)),
        mask_(layout.masked ? codes_.size() : 0),
        ordered_(layout.in_order ? 0 : static_cast<std::size_t>(rows_per_block * layout.cols * width_)) {}

  // `kept` holds, per group, the kept weights above `row`; it is moved to the row after the block.
  void decode(std::int64_t row, std::int64_t rows, std::vector<std::uint64_t>& kept, std::uint8_t* out) {
    std::uint8_t* to = layout_.in_order ? out : ordered_.data();
    for (std::size_t g = 0; g < layout_.groups.size(); ++g) decode_group(g, row, rows, kept[g], to);
    if (layout_.in_order) return;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t at = r * layout_.cols * width_;
      if (width_ == 4) put_in_place<std::uint32_t>(to + at, out + at);
      if (width_ == 2) put_in_place<std::uint16_t>(to + at, out + at);
    }
  }

 private:
  void decode_group(std::size_t g, std::int64_t row, std::int64_t rows, std::uint64_t& kept, std::uint8_t* out) {
    const PackedLayout::Group& group = layout_.groups[g];
    if (group.columns == 0) return;
    const auto index = static_cast<std::int64_t>(g);
    std::int64_t at = layout_.unpack(index, row, rows, kept, codes_.data(), mask_.data());
    for (std::int64_t r = 0; r < rows; ++r, at += group.columns) {
      const Run run{codes_.data() + at, layout_.masked ? mask_.data() + at : nullptr, group.columns, layout_.scale(index, row + r),
                    layout_.zero(group, row + r)};
      decode_run(run, dtype_, out + (r * layout_.cols + group.first) * width_);
    }
  }

  template <typename Word>
  void put_in_place(const std::uint8_t* from, std::uint8_t* to) const {
    gather(reinterpret_cast<const Word*>(from), layout_.position_of_column.data(), layout_.cols, reinterpret_cast<Word*>(to));
  }

  const PackedLayout& layout_;
  DType dtype_;
  std::int64_t width_;
  std::vector<std::uint8_t> codes_, mask_, ordered_;
};

}  // namespace

PackedDecoder::PackedDecoder(const Tensor& tensor, std::string_view name)
    : layout_(std::make_unique<const PackedLayout>(parse_packed(tensor, name))) {}
PackedDecoder::~PackedDecoder() = default;
PackedDecoder::PackedDecoder(PackedDecoder&&) noexcept = default;
PackedDecoder& PackedDecoder::operator=(PackedDecoder&&) noexcept = default;

std::int64_t PackedDecoder::rows() const { return layout_->rows; }
std::int64_t PackedDecoder::cols() const { return layout_->cols; }

void PackedDecoder::decode_rows(std::int64_t begin, std::int64_t end, DType dtype, std::span<std::uint8_t> out) const {
  if (dtype != DType::F32 && dtype != DType::F16 && dtype != DType::BF16) {
    throw Error("packed tensors decode to F32, F16 or BF16, not to " + std::string(dtype_name(dtype)));
  }
  const auto row_bytes = static_cast<std::uint64_t>(layout_->cols) * dtype_bytes(dtype);
  if (begin < 0 || end < begin || end > layout_->rows || out.size() != static_cast<std::uint64_t>(end - begin) * row_bytes) {
    throw Error("rows " + std::to_string(begin) + " to " + std::to_string(end) + " of a packed tensor with " +
                std::to_string(layout_->rows) + " rows were asked for in a buffer of " + std::to_string(out.size()) + " bytes");
  }
  if (begin == end) return;
  const std::int64_t step = std::min(end - begin, std::clamp<std::int64_t>(kBlockWeights / layout_->cols, 1, kBlockRows));
  std::vector<std::uint64_t> kept(layout_->groups.size());
  for (std::size_t g = 0; g < kept.size(); ++g) kept[g] = layout_->kept_above(static_cast<std::int64_t>(g), begin);
  BlockDecoder block(*layout_, dtype, step);
  for (std::int64_t row = begin; row < end; row += step) {
    block.decode(row, std::min(step, end - row), kept, out.data() + static_cast<std::uint64_t>(row - begin) * row_bytes);
  }
}

void PackedDecoder::decode(DType dtype, std::span<std::uint8_t> out, ThreadPool* pool) const {
  if (!pool || pool->threads() == 1) return decode_rows(0, layout_->rows, dtype, out);
  const std::int64_t unit = PackedLayout::kRowsPerMark, units = (layout_->rows + unit - 1) / unit;
  const std::uint64_t row_bytes = static_cast<std::uint64_t>(layout_->cols) * dtype_bytes(dtype);
  if (out.size() != row_bytes * static_cast<std::uint64_t>(layout_->rows)) throw Error("the buffer for a packed tensor has the wrong size");
  pool->for_each(units, [&](std::int64_t i) {
    const std::int64_t begin = i * unit, end = std::min(layout_->rows, begin + unit);
    decode_rows(begin, end, dtype,
                out.subspan(static_cast<std::uint64_t>(begin) * row_bytes, static_cast<std::uint64_t>(end - begin) * row_bytes));
  });
}

}  // namespace miq
