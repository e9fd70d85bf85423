// Sums of outer products, block by block of H on and above its diagonal. A block's part is computed in the cache and added to the sums from there, window
// after window.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/mm.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <string>

#include "miq/base/error.h"
#include "miq/compress/bfloat16_products.h"
#include "miq/compress/column_squares.h"
#include "miq/compress/hessian.h"
#include "miq/compress/not_finite.h"
#include "miq/compress/panel_rows.h"
#include "miq/compress/row_tile.h"
#include "miq/model/device.h"

namespace miq {
namespace {

constexpr std::int64_t kLeastRows = 16;  // of a panel at once, where a device's memory ends

std::vector<std::pair<std::int64_t, std::int64_t>> upper_blocks(std::int64_t n, std::int64_t edge) {
  std::vector<std::pair<std::int64_t, std::int64_t>> blocks;
  for (std::int64_t i = 0; i < n; i += edge)
    for (std::int64_t j = i; j < n; j += edge) blocks.emplace_back(i, j);
  return blocks;
}

[[noreturn]] void refuse_input(std::int64_t index) {
  throw NotFinite("Hessian: calibration input " + std::to_string(index) + " holds NaN or infinity");
}

std::vector<float> steps_of(const at::Tensor& input) {
  std::vector<double> energies = column_squares(input);
  raise_small_energies(energies, input.size(0));
  std::vector<float> steps;
  for (double energy : energies) steps.push_back(grid_step(static_cast<float>(energy)));
  return steps;
}

void add_float32(std::span<const at::Tensor> inputs, ThreadPool& pool, MomentSum& sum) {
  std::vector<at::Tensor> wide(inputs.size());
  std::vector<std::vector<float>> steps(inputs.size());
  pool.for_each(static_cast<std::int64_t>(inputs.size()), [&](std::int64_t unit) {
    const at::NoGradGuard no_grad;
    const auto w = static_cast<std::size_t>(unit);
    wide[w] = inputs[w].to(at::kFloat).contiguous();
    if (!all_finite(wide[w].const_data_ptr<float>(), wide[w].numel())) refuse_input(unit);
    steps[w] = steps_of(wide[w]);
  });
  const std::int64_t n = sum.size(), edge = MomentSum::edge(n);
  const auto blocks = upper_blocks(n, edge);
  pool.for_each(static_cast<std::int64_t>(blocks.size()), [&](std::int64_t unit) {
    const at::NoGradGuard no_grad;
    const auto [i, j] = blocks[static_cast<std::size_t>(unit)];
    const std::int64_t height = std::min(edge, n - i), width = std::min(edge, n - j);
    at::Tensor part = at::empty({height, width}, at::kFloat);
    for (std::size_t w = 0; w < wide.size(); ++w) {
      at::mm_out(part, wide[w].narrow(1, i, height).t(), wide[w].narrow(1, j, width));
      const float* row = part.const_data_ptr<float>();
      for (std::int64_t r = i; r < i + height; ++r, row += width) add_on_grid(row, steps[w][static_cast<std::size_t>(r)], steps[w].data() + j, width, sum.entry(r, j));
    }
  });
}

void add_bfloat16(std::span<const at::Tensor> inputs, ThreadPool& pool, MomentSum& sum) {
  constexpr std::int64_t kWidth = PairPanels::kWidth;
  std::vector<PairPanels> panels(inputs.size());
  std::vector<std::vector<float>> steps(inputs.size());
  pool.for_each(static_cast<std::int64_t>(inputs.size()), [&](std::int64_t unit) {
    const at::NoGradGuard no_grad;
    const auto w = static_cast<std::size_t>(unit);
    const at::Tensor input = inputs[w].contiguous();
    bool finite = true;
    panels[w] = pair_panels(static_cast<const std::uint16_t*>(input.const_data_ptr()), input.size(0), input.size(1), input.size(1), &finite);
    if (!finite) refuse_input(unit);
    steps[w] = steps_of(input);
  });
  const std::int64_t n = sum.size(), count = (n + kWidth - 1) / kWidth, edge = 4;
  const auto blocks = upper_blocks(count, edge);
  pool.for_each(static_cast<std::int64_t>(blocks.size()), [&](std::int64_t unit) {
    const auto [first, second] = blocks[static_cast<std::size_t>(unit)];
    float part[kWidth * kWidth];
    for (std::size_t w = 0; w < panels.size(); ++w) {
      for (std::int64_t b = second; b < std::min(count, second + edge); ++b) {
        const std::int64_t column = b * kWidth, width = std::min(kWidth, n - column);
        for (std::int64_t a = first; a <= std::min(b, first + edge - 1); ++a) {
          panel_products(panels[w], a, b, part);
          const std::int64_t height = std::min(kWidth, n - a * kWidth);
          for (std::int64_t r = 0; r < height; ++r) {
            const std::int64_t row = a * kWidth + r;
            add_on_grid(part + r * kWidth, steps[w][static_cast<std::size_t>(row)], steps[w].data() + column, width, sum.entry(row, column));
          }
        }
      }
    }
  });
}

// Work on `rows` rows, or on fewer where memory ends: on half as many as were tried, down to kLeastRows. Returns how many they were. `work` changes
// nothing before it has all the memory that it needs; `most` remembers what fitted.
template <typename Work>
std::int64_t as_many_as_fit(std::int64_t rows, std::int64_t& most, at::Device device, const Work& work) {
  for (;;) {
    const std::int64_t count = std::min(rows, most);
    try {
      work(count);
      return count;
    } catch (const c10::OutOfMemoryError&) {
      if (count <= kLeastRows) throw;
    }
    most = std::max(kLeastRows, count / 2);
    empty_device_cache(device);
  }
}

// Energies of all channels of a part [tokens, n], [n] float32.
at::Tensor device_energies(const at::Tensor& input, std::int64_t& most) {
  std::vector<at::Tensor> pieces;
  for (std::int64_t first = 0; first < input.size(1);) {
    first += as_many_as_fit(input.size(1) - first, most, input.device(),
                            [&](std::int64_t count) { pieces.push_back(input.narrow(1, first, count).to(at::kFloat).square().sum(0)); });
  }
  return pieces.size() == 1 ? pieces.front() : at::cat(pieces);
}

// A GPU multiplies bfloat16 and sums in float32; the processor's LibTorch widens first, which gives the same products.
at::Tensor device_products(const at::Tensor& input, const MomentSum::Panel& panel, std::int64_t row, std::int64_t count) {
  const bool narrow = input.scalar_type() == at::kBFloat16;
  at::Tensor part;
  for (std::int64_t first = 0; first < input.size(0); first += kDeviceTokens) {
    const at::Tensor some = input.narrow(0, first, std::min(kDeviceTokens, input.size(0) - first)).narrow(1, panel.first, panel.values.size(1));
    const at::Tensor left = some.narrow(1, row, count).t();
    const at::Tensor product = narrow ? at::mm(left, some, at::kFloat) : at::mm(left, some);
    part = part.defined() ? part.add_(product) : product;
  }
  return part;
}

}  // namespace

// With memory enough a panel is one product and one addition. Else fewer of its rows go at once, additions first: those give the same bits, products those
// that LibTorch's kernel for fewer rows gives.
void HessianSum::add_panel_on_device(const at::Tensor& input, const at::Tensor& steps, MomentSum::Panel& panel) {
  const at::Device device = where_.device;
  const std::int64_t rows = panel.values.size(0);
  while (reached_.row < rows) {
    const std::int64_t row = reached_.row;
    at::Tensor part;
    const std::int64_t height = as_many_as_fit(rows - row, at_once_.products, device, [&](std::int64_t count) { part = device_products(input, panel, row, count); });
    try {
      while (reached_.row < row + height) {
        const std::int64_t made = reached_.row - row;
        reached_.row += as_many_as_fit(height - made, at_once_.sums, device,
                                       [&](std::int64_t count) { add_panel_rows(panel, part.narrow(0, made, count), steps, row + made); });
      }
    } catch (const c10::OutOfMemoryError&) {
      if (height <= kLeastRows) throw;
      // The product left no room; what is added stays.
      at_once_.products = std::max(kLeastRows, height / 2);
      at_once_.sums = INT64_MAX;
    }
  }
}

void HessianSum::add_on_device(std::span<const at::Tensor> inputs) try {
  std::vector<MomentSum::Panel>& panels = sum_.panels();
  for (; reached_.input < inputs.size(); ++reached_.input) {
    const at::Tensor& input = inputs[reached_.input];
    if (input.numel() == 0) continue;
    const bool narrow = input.scalar_type() == at::kBFloat16 && input.is_cuda();
    const at::Tensor wide = narrow ? input : input.to(at::kFloat);
    at::Tensor energies = device_energies(input, at_once_.channels);
    if (input.size(0) < kFewTokens) energies = energies.maximum(energies.mean().div(256.0));  // raise_small_energies()
    const at::Tensor steps = grid_steps(energies).to(at::kDouble);
    for (; reached_.panel < panels.size(); ++reached_.panel) {
      add_panel_on_device(wide, steps, panels[reached_.panel]);
      reached_.row = 0;
    }
    reached_.panel = 0;
  }
  reached_ = {};
} catch (const c10::OutOfMemoryError&) {
  at_once_ = {};  // when it is called again there will be more
  throw;
}

void HessianSum::add(std::span<const at::Tensor> inputs, ThreadPool& pool) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor& input = inputs[i];
    if (input.dim() != 2 || input.size(1) != channels() || (input.scalar_type() != at::kFloat && input.scalar_type() != at::kBFloat16)) {
      throw Error("Hessian: calibration input " + std::to_string(i) + " is no [tokens, " + std::to_string(channels()) +
                  "] float32 or bfloat16 matrix");
    }
  }
  const bool narrow =
      !where_.used() && !inputs.empty() && bfloat16_products_available() &&
      std::all_of(inputs.begin(), inputs.end(), [](const at::Tensor& input) { return input.scalar_type() == at::kBFloat16; });
  if (where_.used()) {
    add_on_device(inputs);
  } else if (narrow) {
    add_bfloat16(inputs, pool, sum_);
  } else {
    add_float32(inputs, pool, sum_);
  }
  for (const at::Tensor& input : inputs) tokens_ += input.size(0);
}

at::Tensor HessianSum::mean() const {
  if (tokens_ == 0) throw Error("Hessian: no calibration tokens were seen");
  if (where_.used()) {
    for (const MomentSum::Panel& panel : sum_.panels()) {
      if (!at::isfinite(panel.values.diagonal()).all().item<bool>()) throw NotFinite("Hessian: the calibration inputs hold NaN or infinity");
    }
  }
  return sum_.mean(static_cast<double>(tokens_));
}

}  // namespace miq
