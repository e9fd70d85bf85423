// Sums are of float64 numbers whose additions are exact (exact_sums.h): the library that adds them may take any order.
#include "miq/compress/rank_sums.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "miq/base/error.h"
#include "miq/compress/channel_statistics.h"
#include "miq/compress/hessian.h"

namespace miq {
namespace {

std::span<std::uint8_t> bytes_of(at::Tensor& tensor) {
  return {static_cast<std::uint8_t*>(tensor.mutable_data_ptr()), static_cast<std::size_t>(tensor.nbytes())};
}

void check_states(const std::vector<at::Tensor>& states) {
  for (const at::Tensor& state : states) {
    if (state.scalar_type() != at::kFloat || state.dim() != 2) throw Error("states between processes are not float32 matrices");
  }
}

}  // namespace

void HessianSum::sum_over(Ranks& ranks, int to) {
  if (ranks.alone()) return;
  double tokens = static_cast<double>(tokens_);
  ranks.sum(std::span(&tokens, 1), to);
  tokens_ = static_cast<std::int64_t>(tokens);
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
  statistics.tokens = static_cast<std::int64_t>(all.front());
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

std::vector<at::Tensor> on_host(std::vector<at::Tensor> tensors) {
  for (at::Tensor& tensor : tensors) tensor = tensor.to(at::kCPU);
  return tensors;
}

std::vector<at::Tensor> gather_windows(Ranks& ranks, const std::vector<at::Tensor>& own) {
  if (ranks.alone()) return own;
  check_states(own);
  double count = static_cast<double>(own.size());
  ranks.sum(std::span(&count, 1));
  std::vector<at::Tensor> all;
  for (std::int64_t w = 0; w < static_cast<std::int64_t>(count); ++w) {
    const int owner = owner_of(ranks, w);
    const auto place = static_cast<std::size_t>(w / ranks.size());
    if (owner == ranks.rank() && !ranks.first()) {
      at::Tensor state = own[place].contiguous();
      ranks.send(bytes_of(state), Ranks::kFirst);
    } else if (ranks.first()) {
      all.push_back(owner == 0 ? own[place] : at::empty(own.front().sizes(), at::kFloat));
      if (owner != 0) ranks.receive(bytes_of(all.back()), owner);
    }
  }
  return all;
}

std::vector<at::Tensor> scatter_windows(Ranks& ranks, std::vector<at::Tensor> all) {
  if (ranks.alone()) return all;
  check_states(all);
  const std::uint64_t count = ranks.broadcast(static_cast<std::uint64_t>(all.size()));
  if (count == 0) return {};
  const auto rows = static_cast<std::int64_t>(ranks.broadcast(ranks.first() ? static_cast<std::uint64_t>(all.front().size(0)) : 0));
  const auto columns = static_cast<std::int64_t>(ranks.broadcast(ranks.first() ? static_cast<std::uint64_t>(all.front().size(1)) : 0));
  std::vector<at::Tensor> own;
  for (std::int64_t w = 0; w < static_cast<std::int64_t>(count); ++w) {
    const int owner = owner_of(ranks, w);
    if (ranks.first()) {
      at::Tensor state = std::exchange(all[static_cast<std::size_t>(w)], {});
      if (owner == 0) {
        own.push_back(std::move(state));
      } else {
        state = state.contiguous();
        ranks.send(bytes_of(state), owner);
      }
    } else if (owner == ranks.rank()) {
      own.push_back(at::empty({rows, columns}, at::kFloat));
      ranks.receive(bytes_of(own.back()), 0);
    }
  }
  return own;
}

}  // namespace miq
