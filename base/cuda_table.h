// What libmiq_cuda.so offers, as a table of C functions: the only thing that the suite and the kernels (folder cuda/) have in common
// besides the headers of their arithmetic. No function allocates: all pointers are to memory of the device (LibTorch's), unless they are
// called host. Work is queued on the device's default stream, behind what LibTorch queued there before.
//
// Every function returns 0, or -1 with problem(). The tests fill a table of their own that does the same with loops on the CPU
// (tests/reference/cuda_emulation.h).
#pragma once

#include <cstdint>

namespace miq {
struct SweepLaunch;  // compress/sweep_view.h
struct PackedView;   // formats/packed_octets.h
}

extern "C" {

struct MiqCudaTable {
  std::uint32_t version;  // kMiqCudaVersion
  const char* (*problem)(void);
  // How many devices there are, 0 and more, and what was found, for people.
  int (*devices)(int* count, char* found, std::uint64_t capacity);

  // The column sweep (compress/sweep_steps.h). `launch` and `blocks` are the host's: the first columns of all blocks, and the columns.
  int (*sweep)(int device, const miq::SweepLaunch* launch, const std::int64_t* blocks, std::int64_t count);

  // Mutual information by compress/information_math.h, [n][n] with both triangles. `second_moment` [n][n] float32, or float64 where `wide`.
  // `bad` becomes 1 where a correlation is not finite.
  int (*gaussian_information)(int device, const void* second_moment, int wide, const double* mean, const double* inverse_deviation,
                              std::int64_t n, float* out, std::int32_t* bad);
  // `bins` [n][tokens], `count_logs` [n], `occupied` [n], `log_table` [tokens + 1].
  int (*binned_information)(int device, const std::uint8_t* bins, std::int64_t tokens, std::int64_t n, const double* count_logs,
                            const std::int32_t* occupied, const double* log_table, float* out);

  // A packed matrix (formats/packed_octets.h; `view` is the host's, what it points to the device's) times one vector: `x` [cols] in storage
  // order, 16-byte aligned, `y` [rows], float32. And decoded, `out` [rows][cols] in the columns' own order, 16-byte aligned: float32 where `wide`, else
  // bfloat16; `rounding`: a PackedRounding.
  int (*packed_product)(int device, const miq::PackedView* view, const float* x, float* y);
  int (*packed_decode)(int device, const miq::PackedView* view, int rounding, int wide, void* out);
};

// The library's one symbol.
typedef const MiqCudaTable* (*MiqCudaEntry)(void);
}

inline constexpr std::uint32_t kMiqCudaVersion = 3;
inline constexpr const char* kMiqCudaEntry = "miq_cuda_table";
