// A unit of work is one tile of 64 rows, [column][row] as in the sweep, columns in visiting order and those of a group
// together. It keeps the new weights Q and the errors E = W - Q. A visit to a group of m columns:
//
//   1. G = E H for the group's columns, from the errors of all n columns: n m operations a row, most of the work
//   2. a new grid: the best values given all other groups, Q + G A^-1 with A the group's part of H, are swept onto the grid that
//      fits them best; a row takes it where its error falls
//   3. the scale, by least squares given the codes; H P of the group's pattern P brings G up to date
//   4. column after column: subtract the moves of the group's earlier columns times H, move to the best point, keep the move
//
// and 3 and 4 again; 2 to 4 cost some m^2 a row. G is made anew at every visit, so rounding errors do not pile up.
#include "miq/compress/refine.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>

#include "miq/base/error.h"
#include "miq/compress/refine_job.h"
#include "miq/compress/row_tile.h"
#include "miq/compress/sweep_math.h"
#include "miq/compress/tile_columns.h"
#include "miq/formats/scale_code.h"

#define MIQ_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))

namespace miq {
namespace {

constexpr double kLittle = 0.01;  // of all gains: a pass that brings less is a tile's last

// One group's grids in a tile: [64] each. No grids: any value is allowed.
struct Grids {
  float* scale = nullptr;
  const float* zero = nullptr;
  float max_code = 0;
};

// Moves a column's 64 weights to their best values; what moved goes to `moves` and what it gained to `gains`.
// A gain that is no number comes from numbers near the limits of float32; such a weight stays.
MIQ_CLONES int move_column(const float* g, float h, const std::uint8_t* kept, const Grids& grids, float* values, float* errors, float* moves,
                           double* gains) {
  float best[kTileRows], gain[kTileRows];
  for (int r = 0; r < kTileRows; ++r) best[r] = values[r] + g[r] / h;
  if (grids.scale) {
    for (int r = 0; r < kTileRows; ++r)
      best[r] = code_value(nearest_code(best[r], grids.scale[r], grids.zero[r], grids.max_code), grids.scale[r], grids.zero[r]);
  }
  if (kept) {
    for (int r = 0; r < kTileRows; ++r) best[r] = kept[r] ? best[r] : 0.0f;
  }
  for (int r = 0; r < kTileRows; ++r) {
    const float move = best[r] - values[r];
    gain[r] = move * (2 * g[r] - move * h);
    const bool better = gain[r] > 0 && gain[r] < std::numeric_limits<float>::infinity();
    gain[r] = better ? gain[r] : 0.0f;
    moves[r] = better ? move : 0.0f;
    values[r] = better ? best[r] : values[r];
    errors[r] -= moves[r];
  }
  int moved = 0;
  for (int r = 0; r < kTileRows; ++r) moved += moves[r] != 0;
  for (int r = 0; r < kTileRows; ++r) gains[r] += gain[r];
  return moved;
}

MIQ_CLONES void find_pattern(const float* values, const float* scale, float* pattern) {
  for (int r = 0; r < kTileRows; ++r) pattern[r] = round_half_even(clamp_to(values[r] / scale[r], -4096.0f, 4096.0f));
}

MIQ_CLONES void add_dots(const float* pattern, const float* g, const float* hp, double* linear, double* square) {
  for (int r = 0; r < kTileRows; ++r) {
    linear[r] += static_cast<double>(pattern[r]) * g[r];
    square[r] += static_cast<double>(pattern[r]) * hp[r];
  }
}

MIQ_CLONES void rescale_column(const float* pattern, const float* hp, const float* scale, const float* change, float* values, float* errors,
                               float* g) {
  for (int r = 0; r < kTileRows; ++r) {
    const bool moves = change[r] != 0;
    const float value = scale[r] * pattern[r];
    errors[r] -= moves ? value - values[r] : 0.0f;
    values[r] = moves ? value : values[r];
    g[r] -= change[r] * hp[r];
  }
}

struct Tile {
  std::vector<float> values, errors;  // [cols][64]
  std::vector<std::uint8_t> kept;     // [cols][64] or empty
  std::vector<float> scales, zeros;   // [groups][64]
  std::vector<float> g, pattern, product, moves, wanted, swept, grid_search;
  std::uint32_t exponents[kTileRows];  // of coded scales
  double gains[kTileRows] = {};
  std::int64_t moved = 0, first_row = 0;
};

// 3 above.
void refine_scales(const RefineJob& job, std::size_t visited, const Grids& grids, Tile& tile) {
  const std::int64_t first = job.starts[visited], width = job.starts[visited + 1] - first, group = job.group_at[visited];
  double linear[kTileRows] = {}, square[kTileRows] = {};
  for (std::int64_t j = 0; j < width; ++j) find_pattern(&tile.values[(first + j) * kTileRows], grids.scale, &tile.pattern[j * kTileRows]);
  multiply_columns(tile.pattern.data(), width, job.h->data() + first * job.cols + first, job.cols, width, tile.product.data());
  for (std::int64_t j = 0; j < width; ++j)
    add_dots(&tile.pattern[j * kTileRows], &tile.g[j * kTileRows], &tile.product[j * kTileRows], linear, square);
  float change[kTileRows];
  bool any = false;
  for (std::int64_t r = 0; r < kTileRows; ++r) {
    change[r] = 0;
    if (tile.first_row + r >= job.rows) continue;
    const float old = grids.scale[r];
    const double best = old + linear[r] / square[r];
    if (!(square[r] > 0 && best > 0 && best < std::numeric_limits<float>::max())) continue;
    // Far from the old one the codes would not be those that the scale was chosen for.
    float scale = clamp_to(static_cast<float>(best), old / 2, old * 2);
    scale = nearest_scale(*job.packed, group, tile.first_row + r, scale);
    const double step = static_cast<double>(scale) - old, gain = step * (2 * linear[r] - step * square[r]);
    if (!(step != 0 && gain > 0)) continue;
    change[r] = static_cast<float>(step);
    grids.scale[r] = scale;
    tile.gains[r] += gain;
    any = true;
    ++tile.moved;
  }
  if (!any) return;
  for (std::int64_t j = 0; j < width; ++j) {
    rescale_column(&tile.pattern[j * kTileRows], &tile.product[j * kTileRows], grids.scale, change, &tile.values[(first + j) * kTileRows],
                   &tile.errors[(first + j) * kTileRows], &tile.g[j * kTileRows]);
  }
}

MIQ_CLONES void add_column(const float* from, float* to) {
  for (int r = 0; r < kTileRows; ++r) to[r] += from[r];
}

MIQ_CLONES void subtract_column(const float* a, const float* b, float* difference) {
  for (int r = 0; r < kTileRows; ++r) difference[r] = a[r] - b[r];
}

MIQ_CLONES void add_gains(const float* move, const float* g, const float* hm, double* gains) {
  for (int r = 0; r < kTileRows; ++r) gains[r] += static_cast<double>(move[r]) * (2.0 * g[r] - hm[r]);
}

MIQ_CLONES void accept_column(const float* accepted, const float* swept, const float* move, const float* hm, float* values, float* errors, float* g) {
  for (int r = 0; r < kTileRows; ++r) {
    values[r] = accepted[r] != 0 ? swept[r] : values[r];
    errors[r] -= accepted[r] != 0 ? move[r] : 0.0f;
    g[r] -= accepted[r] != 0 ? hm[r] : 0.0f;
  }
}

// 2 above. The best values without a grid, given all other groups, are Q + G A^-1; they are swept onto new grids.
void refine_grids(const RefineJob& job, std::size_t visited, const Grids& grids, std::span<const float> clips, Tile& tile) {
  const std::int64_t first = job.starts[visited], width = job.starts[visited + 1] - first;
  const GroupFactor& factor = (*job.factors)[visited];
  if (factor.inverse.empty()) return;
  multiply_columns(tile.g.data(), width, factor.inverse.data(), width, width, tile.wanted.data());
  std::vector<std::int64_t> columns(width);
  std::iota(columns.begin(), columns.end(), 0);
  for (std::int64_t j = 0; j < width; ++j) add_column(&tile.values[(first + j) * kTileRows], &tile.wanted[j * kTileRows]);
  const std::uint8_t* kept = tile.kept.empty() ? nullptr : &tile.kept[first * kTileRows];
  float scale[kTileRows], zero[kTileRows];
  const GridSearch search{grids.max_code, job.packed->scale_dtype == DType::F16, clips, factor.column_weights.data(), job.packed->scale_bits,
                          tile.exponents};
  find_grids(tile.wanted.data(), kept, columns, search, tile.grid_search, scale, zero);
  std::uint8_t codes[kTileRows];
  for (std::int64_t j = 0; j < width; ++j) {  // errors in `pattern`
    float* wanted = &tile.wanted[j * kTileRows];
    subtract_columns(tile.pattern.data(), &factor.lower[j * width], 0, j, wanted);
    round_column(wanted, kept ? kept + j * kTileRows : nullptr, scale, zero, grids.max_code, &tile.swept[j * kTileRows], codes);
    error_column(wanted, &tile.swept[j * kTileRows], factor.lower[j * width + j], &tile.pattern[j * kTileRows]);
    subtract_column(&tile.swept[j * kTileRows], &tile.values[(first + j) * kTileRows], &tile.moves[j * kTileRows]);
  }
  multiply_columns(tile.moves.data(), width, job.h->data() + first * job.cols + first, job.cols, width, tile.product.data());
  double gains[kTileRows] = {};
  for (std::int64_t j = 0; j < width; ++j)
    add_gains(&tile.moves[j * kTileRows], &tile.g[j * kTileRows], &tile.product[j * kTileRows], gains);
  float accepted[kTileRows];
  for (std::int64_t r = 0; r < kTileRows; ++r) {
    accepted[r] = tile.first_row + r < job.rows && gains[r] > 0 && gains[r] < std::numeric_limits<double>::infinity();
    if (accepted[r] == 0) continue;
    grids.scale[r] = scale[r];
    tile.zeros[visited * kTileRows + r] = zero[r];
    tile.gains[r] += gains[r];
    ++tile.moved;
  }
  for (std::int64_t j = 0; j < width; ++j) {
    accept_column(accepted, &tile.swept[j * kTileRows], &tile.moves[j * kTileRows], &tile.product[j * kTileRows],
                  &tile.values[(first + j) * kTileRows], &tile.errors[(first + j) * kTileRows], &tile.g[j * kTileRows]);
  }
}

// 4 above; `again`: G is wanted afterwards.
std::int64_t refine_values(const RefineJob& job, std::int64_t first, std::int64_t width, const Grids& grids, bool again, Tile& tile) {
  const float* h = job.h->data() + first * job.cols + first;  // the group's own part
  std::int64_t moved = 0;
  for (std::int64_t begin = 0; begin < width; begin += kRefineChunk) {
    const std::int64_t end = std::min(width, begin + kRefineChunk);
    for (std::int64_t j = begin; j < end; ++j) {
      subtract_columns(tile.moves.data(), h + j * job.cols, begin, j, &tile.g[j * kTileRows]);
      const std::int64_t at = (first + j) * kTileRows;
      moved += move_column(&tile.g[j * kTileRows], h[j * job.cols + j], tile.kept.empty() ? nullptr : &tile.kept[at], grids, &tile.values[at],
                           &tile.errors[at], &tile.moves[j * kTileRows], tile.gains);
    }
    subtract_product(&tile.moves[begin * kTileRows], end - begin, h + end * job.cols + begin, job.cols, width - end,
                     &tile.g[end * kTileRows]);
  }
  if (again && moved) {
    for (std::int64_t j = 0; j < width; ++j) subtract_columns(tile.moves.data(), h + j * job.cols, j, width, &tile.g[j * kTileRows]);
  }
  tile.moved += moved;
  return moved;
}

void multiply_errors(const RefineJob& job, std::size_t group, Tile& tile) {
  const std::int64_t first = job.starts[group], width = job.starts[group + 1] - first;
  multiply_columns(tile.errors.data(), job.cols, job.h->data() + first * job.cols, job.cols, width, tile.g.data());
}

// 2 to 4; 1 is done.
void visit_group(const RefineJob& job, std::size_t group, const RefineMatrix& matrix, const RefineOptions& options, Tile& tile) {
  const std::int64_t first = job.starts[group], width = job.starts[group + 1] - first;
  Grids grids;
  if (job.groups) {
    const auto max_code = static_cast<float>((1 << matrix.solution->packed.bits_of_group[job.group_at[group]]) - 1);
    grids = {&tile.scales[group * kTileRows], &tile.zeros[group * kTileRows], max_code};
  }
  for (int round = 0; round < options.rounds; ++round) {
    if (round == 0 && job.groups && !options.clips.empty()) refine_grids(job, group, grids, options.clips, tile);
    if (job.groups && options.scales) refine_scales(job, group, grids, tile);
    if (refine_values(job, first, width, grids, round + 1 < options.rounds, tile) == 0) break;
  }
}

void load_bytes(const std::uint8_t* matrix, std::int64_t cols, std::int64_t first, std::int64_t count, std::span<const std::int64_t> order,
                std::uint8_t* tile) {
  for (std::int64_t row = 0; row < count; ++row) {
    const std::uint8_t* in = matrix + (first + row) * cols;
    for (std::int64_t k = 0; k < cols; ++k) tile[k * kTileRows + row] = in[order[k]];
  }
}

void load(const RefineJob& job, const RefineMatrix& matrix, std::int64_t number, Tile& tile) {
  const std::int64_t first = number * kTileRows, count = std::min(kTileRows, job.rows - first), size = job.cols * kTileRows;
  const SweepResult& solution = *matrix.solution;
  tile.values.resize(size);
  tile.errors.resize(size);
  load_tile(solution.values.const_data_ptr<float>(), job.cols, first, count, job.order, tile.values.data());
  load_tile(matrix.target.const_data_ptr<float>(), job.cols, first, count, job.order, tile.errors.data());
  for (std::int64_t i = 0; i < size; ++i) tile.errors[i] -= tile.values[i];
  if (const auto& kept = job.groups ? solution.packed.kept : solution.kept; !kept.empty()) {
    tile.kept.assign(size, 0);
    load_bytes(kept.data(), job.cols, first, count, job.order, tile.kept.data());
  }
  tile.scales.assign(job.groups * kTileRows, 1);
  tile.zeros.assign(job.groups * kTileRows, 0);
  std::fill_n(tile.exponents, kTileRows, kLeastRowExponent);
  for (std::int64_t r = 0; r < count && solution.packed.scale_bits > 0; ++r) tile.exponents[r] = solution.packed.row_exponents[first + r];
  std::int64_t widest = 0;
  for (std::size_t g = 0; g + 1 < job.starts.size(); ++g) {
    widest = std::max(widest, job.starts[g + 1] - job.starts[g]);
    for (std::int64_t r = 0; r < count && job.groups; ++r) {
      const std::int64_t from = job.group_at[g] * job.rows + first + r;
      tile.scales[g * kTileRows + r] = solution.packed.scales[from];
      tile.zeros[g * kTileRows + r] = solution.packed.zeros[from];
    }
  }
  for (auto* buffer : {&tile.g, &tile.pattern, &tile.product, &tile.moves, &tile.wanted, &tile.swept}) buffer->resize(widest * kTileRows);
}

void store(const RefineJob& job, const RefineMatrix& matrix, std::int64_t number, Tile& tile) {
  const std::int64_t first = number * kTileRows, count = std::min(kTileRows, job.rows - first);
  SweepResult& solution = *matrix.solution;
  if (job.groups) {
    std::vector<std::uint8_t> codes(job.cols * kTileRows);
    for (std::size_t g = 0; g + 1 < job.starts.size(); ++g) {
      const auto max_code = static_cast<float>((1 << solution.packed.bits_of_group[job.group_at[g]]) - 1);
      for (std::int64_t k = job.starts[g]; k < job.starts[g + 1]; ++k) {
        float values[kTileRows];
        round_column(&tile.values[k * kTileRows], tile.kept.empty() ? nullptr : &tile.kept[k * kTileRows], &tile.scales[g * kTileRows],
                     &tile.zeros[g * kTileRows], max_code, values, &codes[k * kTileRows]);
        std::copy_n(values, kTileRows, &tile.values[k * kTileRows]);
      }
      for (std::int64_t r = 0; r < count; ++r) {
        const std::int64_t to = job.group_at[g] * job.rows + first + r;
        solution.packed.scales[to] = tile.scales[g * kTileRows + r];
        solution.packed.zeros[to] = static_cast<std::uint8_t>(tile.zeros[g * kTileRows + r]);
      }
    }
    store_tile(codes.data(), job.cols, first, count, job.order, solution.packed.codes.data());
  }
  store_tile(tile.values.data(), job.cols, first, count, job.order, solution.values.mutable_data_ptr<float>());
}

// Whether a pass that is over was the tile's last. `all`: its gains so far.
bool is_last_pass(const Tile& tile, double& all) {
  const double before = all;
  all = std::accumulate(std::begin(tile.gains), std::end(tile.gains), 0.0);
  return tile.moved == 0 || all - before < kLittle * all;
}

double refine_tile(const RefineJob& job, const RefineMatrix& matrix, const RefineOptions& options, std::int64_t number) {
  Tile tile;
  tile.first_row = number * kTileRows;
  load(job, matrix, number, tile);
  double all = 0;
  for (int pass = 0; pass < options.passes; ++pass) {
    tile.moved = 0;
    for (std::size_t g = 0; g + 1 < job.starts.size(); ++g) {
      multiply_errors(job, g, tile);
      visit_group(job, g, matrix, options, tile);
    }
    if (is_last_pass(tile, all)) break;
  }
  store(job, matrix, number, tile);
  return all;
}

// Columns first … first+width-1 of all tiles' errors as rows of [width][tiles * 64].
void copy_errors(const std::vector<Tile>& tiles, std::int64_t first, std::int64_t width, float* out, ThreadPool& pool) {
  const auto count = static_cast<std::int64_t>(tiles.size());
  pool.for_each(count, [&](std::int64_t t) {
    const float* errors = tiles[static_cast<std::size_t>(t)].errors.data() + first * kTileRows;
    for (std::int64_t j = 0; j < width; ++j) std::copy_n(errors + j * kTileRows, kTileRows, out + (j * count + t) * kTileRows);
  });
}

// A matrix of which the device multiplies the errors of all tiles, group after group; the rest of a visit stays with the tiles' threads. `h`: the job's, on
// the device.
void refine_on_device(RefineJob& job, const RefineMatrix& matrix, const RefineOptions& options, const at::Tensor& h, ThreadPool& pool) {
  const at::NoGradGuard no_grad;
  const std::int64_t count = job.tiles, rows = count * kTileRows;
  std::vector<Tile> tiles(static_cast<std::size_t>(count));
  pool.for_each(count, [&](std::int64_t t) {
    tiles[static_cast<std::size_t>(t)].first_row = t * kTileRows;
    load(job, matrix, t, tiles[static_cast<std::size_t>(t)]);
  });
  const auto buffer = [&](std::int64_t width) { return at::empty({width, rows}, at::TensorOptions(at::kFloat).pinned_memory(h.is_cuda())); };
  at::Tensor errors = at::empty({job.cols, rows}, h.options());
  std::int64_t widest = 0;
  for (std::size_t g = 0; g + 1 < job.starts.size(); ++g) widest = std::max(widest, job.starts[g + 1] - job.starts[g]);
  const at::Tensor out = buffer(widest), in = buffer(widest);
  const auto upload = [&](std::size_t g) {
    const std::int64_t first = job.starts[g], width = job.starts[g + 1] - first;
    copy_errors(tiles, first, width, out.mutable_data_ptr<float>(), pool);
    errors.narrow(0, first, width).copy_(out.narrow(0, 0, width));
  };
  for (std::size_t g = 0; g + 1 < job.starts.size(); ++g) upload(g);
  std::vector<std::uint8_t> done(tiles.size());
  for (int pass = 0; pass < options.passes && std::find(done.begin(), done.end(), 0) != done.end(); ++pass) {
    for (Tile& tile : tiles) tile.moved = 0;
    for (std::size_t g = 0; g + 1 < job.starts.size(); ++g) {
      const std::int64_t first = job.starts[g], width = job.starts[g + 1] - first;
      in.narrow(0, 0, width).copy_(at::mm(h.narrow(0, first, width), errors));
      const float* products = in.const_data_ptr<float>();
      pool.for_each(count, [&](std::int64_t t) {
        if (done[static_cast<std::size_t>(t)]) return;
        Tile& tile = tiles[static_cast<std::size_t>(t)];
        for (std::int64_t j = 0; j < width; ++j) std::copy_n(products + (j * count + t) * kTileRows, kTileRows, &tile.g[static_cast<std::size_t>(j * kTileRows)]);
        visit_group(job, g, matrix, options, tile);
      });
      upload(g);
    }
    for (std::size_t t = 0; t < tiles.size(); ++t) {
      if (!done[t]) done[t] = is_last_pass(tiles[t], job.gains[t]);
    }
  }
  pool.for_each(count, [&](std::int64_t t) { store(job, matrix, t, tiles[static_cast<std::size_t>(t)]); });
}

void check(const RefineMatrix& matrix, std::int64_t n) {
  const at::Tensor& target = matrix.target;
  if (target.dim() != 2 || target.size(1) != n || target.scalar_type() != at::kFloat || !target.is_contiguous() ||
      matrix.solution->values.sizes() != target.sizes() || !matrix.solution->values.is_contiguous())
    throw Error("refine: a matrix and its solution do not fit each other or the Hessian");
}

}  // namespace

std::vector<double> refine(std::span<const RefineMatrix> matrices, const at::Tensor& hessian, double damping,
                           std::span<const std::int64_t> order, const RefineOptions& options, ThreadPool& pool, const ComputeDevice& where) {
  const std::int64_t n = hessian.size(0);
  if (hessian.dim() != 2 || hessian.size(1) != n || hessian.scalar_type() != at::kFloat || !hessian.is_contiguous() ||
      static_cast<std::int64_t>(order.size()) != n)
    throw Error("refine: the Hessian or the order does not fit");
  std::vector<double> gains(matrices.size());
  if (options.passes <= 0 || n == 0) return gains;
  double scale = 0;
  for (std::int64_t j = 0; j < n; ++j) scale += std::max(0.0f, hessian.const_data_ptr<float>()[j * n + j]) / static_cast<double>(n);
  if (!(scale > 0)) return gains;
  std::vector<const SweepResult*> solutions;
  for (const RefineMatrix& matrix : matrices) {
    check(matrix, n);
    solutions.push_back(matrix.solution);
  }
  std::vector<RefineJob> jobs = make_refine_jobs(solutions, hessian, damping, scale, order, !options.clips.empty(), pool);
  std::vector<std::pair<std::size_t, std::int64_t>> units;
  const std::vector<float>* held = nullptr;
  at::Tensor h;  // on the device
  for (std::size_t i = 0; where.used() && i < jobs.size(); ++i) {
    if (jobs[i].h.get() != held) h = at::from_blob(const_cast<float*>(jobs[i].h->data()), {n, n}, at::TensorOptions(at::kFloat)).to(where.device);
    held = jobs[i].h.get();
    refine_on_device(jobs[i], matrices[i], options, h, pool);
  }
  for (std::size_t i = 0; !where.used() && i < jobs.size(); ++i)
    for (std::int64_t tile = 0; tile < jobs[i].tiles; ++tile) units.emplace_back(i, tile);
  pool.for_each(static_cast<std::int64_t>(units.size()), [&](std::int64_t unit) {
    const auto [i, tile] = units[unit];
    jobs[i].gains[tile] = refine_tile(jobs[i], matrices[i], options, tile);
  });
  for (std::size_t i = 0; i < jobs.size(); ++i) gains[i] = scale * std::accumulate(jobs[i].gains.begin(), jobs[i].gains.end(), 0.0);
  return gains;
}

}  // namespace miq
