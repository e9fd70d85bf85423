// Sums are of float64 numbers whose additions are exact (exact_sums.h): the library that adds them may take any order.
#include "miq/compress/rank_sums.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "miq/base/error.h"
#include "miq/compress/channel_statistics.h"
#include "miq/compress/hessian.h"

namespace miq {
namespace {

std::span<std::uint8_t> bytes_of(at::Tensor& tensor) {
  return {static_cast<std::uint8_t*>(tensor.mutable_data_ptr()), static_cast<std::size_t>(tensor.nbytes())};
}

at::Tensor checked_state(const at::Tensor& state) {
  if (state.scalar_type() != at::kFloat || state.dim() != 2 || !state.is_cpu()) throw Error("states between processes are not float32 matrices in host memory");
  return state.contiguous();
}

// The count of tokens that went through ranks.sum() as a double: where the sum is unspecified it may be NaN, which no integer can be;
// there the rank's own stays.
std::int64_t summed_tokens(const Ranks& ranks, int to, double sum, std::int64_t own) {
  return to == Ranks::kAll || ranks.rank() == to ? static_cast<std::int64_t>(sum) : own;
}

}  // namespace

void HessianSum::sum_over(Ranks& ranks, int to) {
  if (ranks.alone()) return;
  double tokens = static_cast<double>(tokens_);
  ranks.sum(std::span(&tokens, 1), to);
  tokens_ = summed_tokens(ranks, to, tokens, tokens_);
  sum_.sum_over(ranks, to);
}

void sum_over(Ranks& ranks, ChannelStatistics& statistics, std::int64_t channels, int to) {
  if (ranks.alone()) return;
  const std::array<std::vector<double>*, 4> lists{&statistics.sum, &statistics.sum_abs, &statistics.sum_squares, &statistics.sum_fourths};
  const auto width = static_cast<std::size_t>(channels);
  std::vector<double> all(1 + lists.size() * width);
  all.front() = static_cast<double>(statistics.tokens);
  for (std::size_t i = 0; i < lists.size(); ++i) {
    lists[i]->resize(width);
    std::copy(lists[i]->begin(), lists[i]->end(), all.begin() + static_cast<std::ptrdiff_t>(1 + i * width));
  }
  ranks.sum(all, to);
  statistics.tokens = summed_tokens(ranks, to, all.front(), statistics.tokens);
  auto next = all.begin() + 1;
  for (std::vector<double>* list : lists) {
    std::copy_n(next, list->size(), list->begin());
    next += static_cast<std::ptrdiff_t>(list->size());
  }
}

Calibration own_windows(const Ranks& ranks, const Calibration& calibration) {
  if (ranks.alone()) return {calibration.windows, {}};
  const auto count = static_cast<std::int64_t>(calibration.windows.size());
  if (count < ranks.size()) {
    throw UsageError(std::to_string(ranks.size()) + " processes for " + std::to_string(count) +
                     " calibration windows: each needs one. Start fewer, or give a larger --nsamples");
  }
  Calibration own;
  for (std::int64_t w = ranks.rank(); w < count; w += ranks.size()) own.windows.push_back(calibration.windows[static_cast<std::size_t>(w)]);
  return own;
}

void share_calibration(Ranks& ranks, Calibration& calibration) {
  if (ranks.alone()) return;
  calibration.description = Json::parse(ranks.broadcast(calibration.description.dump()));
  calibration.windows.resize(ranks.broadcast(static_cast<std::uint64_t>(calibration.windows.size())));
  for (auto& window : calibration.windows) {
    window.resize(ranks.broadcast(static_cast<std::uint64_t>(window.size())));
    ranks.broadcast(std::span(reinterpret_cast<std::uint8_t*>(window.data()), window.size() * sizeof(std::int32_t)));
  }
}

at::Tensor gather_rows(Ranks& ranks, const at::Tensor& rows, std::int64_t columns, int to) {
  if (ranks.alone()) return rows;
  std::vector<double> counts(static_cast<std::size_t>(ranks.size()));
  counts[static_cast<std::size_t>(ranks.rank())] = rows.defined() ? static_cast<double>(rows.size(0)) : 0;
  ranks.sum(counts);
  if (ranks.rank() != to) {
    if (rows.defined()) {
      at::Tensor own = rows.contiguous();
      ranks.send(bytes_of(own), to);
    }
    return {};
  }
  double all = 0;
  for (double count : counts) all += count;
  if (all == 0) return {};
  at::Tensor together = at::empty({static_cast<std::int64_t>(all), columns}, at::kFloat);
  std::int64_t at = 0;
  for (int r = 0; r < ranks.size(); ++r) {
    const auto count = static_cast<std::int64_t>(counts[static_cast<std::size_t>(r)]);
    if (count == 0) continue;
    at::Tensor piece = together.narrow(0, at, count);
    at += count;
    if (r == to) {
      piece.copy_(rows);
    } else {
      ranks.receive(bytes_of(piece), r);
    }
  }
  return together;
}

void gather_windows(Ranks& ranks, const StateSource& own, const std::function<void(const StateSource& all)>& use) {
  double count = static_cast<double>(own.windows);
  ranks.sum(std::span(&count, 1));
  if (!ranks.first()) {
    for (std::int64_t w = 0; w < own.windows; ++w) {
      at::Tensor state = checked_state(own.state(w));
      ranks.send(bytes_of(state), Ranks::kFirst);
    }
    return;
  }
  std::vector<std::int64_t> shape;  // of window 0, which is this rank's
  use({static_cast<std::int64_t>(count), [&](std::int64_t window) {
         const int owner = owner_of(ranks, window);
         if (owner == Ranks::kFirst) {
           at::Tensor state = checked_state(own.state(window / ranks.size()));
           shape = state.sizes().vec();
           return state;
         }
         at::Tensor state = at::empty(shape, at::kFloat);
         ranks.receive(bytes_of(state), owner);
         return state;
       }});
}

void scatter_windows(Ranks& ranks, StateShape shape, const std::function<void(const StateSink& all)>& give, const StateSink& take) {
  for (std::int64_t* size : {&shape.windows, &shape.tokens, &shape.width}) *size = static_cast<std::int64_t>(ranks.broadcast(static_cast<std::uint64_t>(*size)));
  if (ranks.first()) {
    return give([&](std::int64_t window, at::Tensor state) {
      const int owner = owner_of(ranks, window);
      if (owner == Ranks::kFirst) return take(window / ranks.size(), std::move(state));
      state = checked_state(state);
      ranks.send(bytes_of(state), owner);
    });
  }
  for (std::int64_t w = 0; w < share_of(ranks, shape.windows); ++w) {
    at::Tensor state = at::empty({shape.tokens, shape.width}, at::kFloat);
    ranks.receive(bytes_of(state), Ranks::kFirst);
    take(w, std::move(state));
  }
}

}  // namespace miq
