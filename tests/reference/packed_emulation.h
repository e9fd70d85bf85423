// The kernels for packed matrices (cuda/packed.cu), a warp at a time on the CPU.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "miq/base/cuda_table.h"
#include "miq/formats/packed_octets.h"

namespace miq::reference {

// One row, as a warp goes through it: calls use(octet, codes, kept).
template <class Use>
void for_octets(const PackedView& view, std::int64_t row, const Use& use) {
  for (std::int64_t begin = 0; begin < view.octets; begin += kWarpOctets) {
    const std::int64_t lanes = std::min<std::int64_t>(kWarpOctets, view.octets - begin);
    std::uint32_t kept[kWarpOctets] = {}, before[kWarpOctets] = {}, sum = 0;
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      kept[lane] = kept_bits(view, view.octet[begin + lane], row);
      before[lane] = sum;
      sum += count_ones(kept[lane]);
    }
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      const PackedOctet& octet = view.octet[begin + lane];
      use(octet, octet_codes(view, octet, row, before[lane] - before[octet.first_lane]), kept[lane]);
    }
  }
}

// A row of the matrix times `x` [cols] in storage order.
inline float packed_row_product(const PackedView& view, std::int64_t row, const float* x) {
  float sum = 0;
  for_octets(view, row, [&](const PackedOctet& octet, std::uint64_t codes, std::uint32_t kept) {
    const PackedGroupView& group = view.group[octet.group];
    float inputs[kOctet] = {};
    for (int i = 0; i < octet.count; ++i) inputs[i] = x[octet.column + static_cast<std::uint32_t>(i)];
    sum += view.scales[octet.group * view.rows + row] * octet_product(view, codes, kept, group.bits, zero_point(view, group, row), inputs);
  });
  return sum;
}

// The matrix, `to` [rows][cols] in the columns' own order.
template <class Number>
void packed_decode(const PackedView& view, int rounding, Number* to) {
  for (std::int64_t row = 0; row < view.rows; ++row, to += view.cols) {
    for_octets(view, row, [&](const PackedOctet& octet, std::uint64_t codes, std::uint32_t kept) {
      const PackedGroupView& group = view.group[octet.group];
      Number values[kOctet];
      octet_decode(codes, kept, group.bits, zero_point(view, group, row), view.scales[octet.group * view.rows + row], rounding, values);
      for (std::uint32_t i = 0; i < octet.count; ++i) to[view.column_of_place ? view.column_of_place[octet.column + i] : octet.column + i] = values[i];
    });
  }
}

inline std::atomic<int>& packed_products_made() {
  static std::atomic<int> count{0};
  return count;
}
inline std::atomic<int>& packed_decodes_made() {
  static std::atomic<int> count{0};
  return count;
}

// A table with the functions for packed matrices alone.
inline const MiqCudaTable& packed_table() {
  static const MiqCudaTable table = [] {
    MiqCudaTable t{};
    t.version = kMiqCudaVersion;
    t.problem = [] { return "none"; };
    t.packed_product = [](int, const PackedView* view, const float* x, float* y) {
      if (reinterpret_cast<std::uintptr_t>(x) % 16 != 0) return -1;
      ++packed_products_made();
      for (std::int64_t row = 0; row < view->rows; ++row) y[row] = packed_row_product(*view, row, x);
      return 0;
    };
    t.packed_decode = [](int, const PackedView* view, int rounding, int wide, void* out) {
      if (reinterpret_cast<std::uintptr_t>(out) % 16 != 0) return -1;
      ++packed_decodes_made();
      if (wide) {
        packed_decode(*view, rounding, static_cast<float*>(out));
      } else {
        packed_decode(*view, rounding, static_cast<std::uint16_t*>(out));
      }
      return 0;
    };
    return t;
  }();
  return table;
}

}  // namespace miq::reference
