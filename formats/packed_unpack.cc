// Bit streams to one byte a code. Eight codes of b bits are b bytes: they are loaded as one word and
// spread to eight bytes by three shifts and masks (halves, quarters, eighths). Where a mask says which
// weights have a code, the processor's bit deposit instruction spreads and places the kept codes at
// once; without it they are spread and then walked through byte by byte.
#include <algorithm>
#include <bit>
#include <cstring>

#include "miq/formats/packed_layout.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace miq {
namespace {

constexpr std::uint64_t kEveryByte = 0x0101010101010101u;

// The low 8 * b bits of `word`, b to a byte.
template <int b>
constexpr std::uint64_t spread(std::uint64_t word) {
  if constexpr (b == 8) return word;
  constexpr std::uint64_t halves = (std::uint64_t{1} << (4 * b)) - 1;
  constexpr std::uint64_t quarters = ((std::uint64_t{1} << (2 * b)) - 1) * 0x0000000100000001u;
  constexpr std::uint64_t eighths = ((std::uint64_t{1} << b) - 1) * 0x0001000100010001u;
  word = (word & halves) | ((word >> (4 * b)) & halves) << 32;
  word = (word & quarters) | ((word >> (2 * b)) & quarters) << 16;
  return (word & eighths) | ((word >> b) & eighths) << 8;
}

// 0xFF in every byte whose bit is set.
constexpr std::uint64_t bytes_of_bits(std::uint64_t bits) {
  std::uint64_t word = (bits * kEveryByte) & 0x8040201008040201u;  // byte j keeps bit j
  word = ((word + 0x7F7F7F7F7F7F7F7Fu) | word) >> 7 & kEveryByte;  // 1 where the byte is not zero
  return word * 0xFF;
}

// Codes [begin, begin + count) of an unmasked stream; the first is written at out[begin % 8].
template <int b>
void unpack_all(const BitSource& codes, std::uint64_t stream, std::uint64_t begin, std::uint64_t count, std::uint8_t* out) {
  const std::uint64_t last = (begin + count + 7) / 8;
  std::uint64_t eight = begin / 8, at = stream + eight * b;
  // Eight bytes are loaded for the b that count, so the last few words take the careful way.
  const std::uint64_t whole = codes.size >= at + 8 ? std::min(last, eight + (codes.size - at - 8) / b) : eight;
  const std::uint8_t* from = codes.data + at;
  for (; eight < whole; ++eight, from += b, out += 8) {
    std::uint64_t word;
    std::memcpy(&word, from, 8);
    word = spread<b>(word);
    std::memcpy(out, &word, 8);
  }
  for (; eight < last; ++eight, out += 8) {
    const std::uint64_t word = spread<b>(codes.word(stream + eight * b));
    std::memcpy(out, &word, 8);
  }
}

struct MaskedRun {
  std::uint64_t code_bit, mask_bit, count;  // where the codes and the mask bits begin, weights to write
};

// Eight weights at a time; Place puts the kept codes of a word into their bytes. Inlined into functions
// for different instruction sets.
template <int b, typename Place>
[[gnu::always_inline]] inline std::uint64_t unpack_masked(const BitSource& codes, const BitSource& mask, const MaskedRun& run,
                                                          std::uint8_t* out, std::uint8_t* mask_out) {
  std::uint64_t code_bit = run.code_bit;
  for (std::uint64_t i = 0; i < run.count; i += 8) {
    std::uint64_t bits = mask.bits(run.mask_bit + i) & 0xFF;
    if (run.count - i < 8) bits &= (1u << (run.count - i)) - 1;
    const std::uint64_t kept = bytes_of_bits(bits), word = Place::place(codes.bits(code_bit), kept);
    code_bit += static_cast<std::uint64_t>(std::popcount(bits)) * b;
    std::memcpy(out + i, &word, 8);
    std::memcpy(mask_out + i, &kept, 8);
  }
  return code_bit;
}

template <int b>
struct PlacePlain {
  static std::uint64_t place(std::uint64_t word, std::uint64_t kept) {
    word = spread<b>(word);
    std::uint64_t placed = 0;
    for (int j = 0; j < 8; ++j) {
      const std::uint64_t here = (kept >> (8 * j)) & 0xFF;
      placed |= (word & here) << (8 * j);
      word >>= here & 8;  // 8 when kept
    }
    return placed;
  }
};

template <int b>
std::uint64_t unpack_masked_plain(const BitSource& codes, const BitSource& mask, const MaskedRun& run, std::uint8_t* out,
                                  std::uint8_t* mask_out) {
  return unpack_masked<b, PlacePlain<b>>(codes, mask, run, out, mask_out);
}

#if defined(__x86_64__)
template <int b>
struct PlaceByDeposit {
  __attribute__((target("bmi2"))) static std::uint64_t place(std::uint64_t word, std::uint64_t kept) {
    return _pdep_u64(word, kept & (((std::uint64_t{1} << b) - 1) * kEveryByte));
  }
};

template <int b>
__attribute__((target("bmi2,popcnt"))) std::uint64_t unpack_masked_deposit(const BitSource& codes, const BitSource& mask,
                                                                           const MaskedRun& run, std::uint8_t* out,
                                                                           std::uint8_t* mask_out) {
  return unpack_masked<b, PlaceByDeposit<b>>(codes, mask, run, out, mask_out);
}
#endif

// Calls f with the width as a constant.
template <typename F>
auto with_width(int bits, F f) {
  switch (bits) {
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 6: return f(std::integral_constant<int, 6>{});
    default: return f(std::integral_constant<int, 8>{});
  }
}

}  // namespace

bool has_bit_deposit() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
#else
  return false;
#endif
}

std::int64_t PackedLayout::unpack(std::int64_t group, std::int64_t row, std::int64_t count, std::uint64_t& first_kept,
                                  std::uint8_t* codes_out, std::uint8_t* mask_out) const {
  const Group& g = groups[static_cast<std::size_t>(group)];
  const auto begin = static_cast<std::uint64_t>(row * g.columns), weights = static_cast<std::uint64_t>(count * g.columns);
  const auto width = static_cast<std::uint64_t>(g.bits);
  if (!masked) {
    with_width(g.bits, [&](auto b) { unpack_all<b>(codes, g.codes_at, begin, weights, codes_out); });
    first_kept = begin + weights;
    return static_cast<std::int64_t>(begin % 8);
  }
  const MaskedRun run{g.codes_at * 8 + first_kept * width, g.mask_at + begin, weights};
  const std::uint64_t end = with_width(g.bits, [&](auto b) {
#if defined(__x86_64__)
    if (bit_deposit) return unpack_masked_deposit<b>(codes, mask, run, codes_out, mask_out);
#endif
    return unpack_masked_plain<b>(codes, mask, run, codes_out, mask_out);
  });
  first_kept = (end - g.codes_at * 8) / width;
  return 0;
}

}  // namespace miq
