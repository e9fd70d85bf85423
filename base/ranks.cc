// Alone nothing is to be done, and the form for several processes overrides each operation. Floats go through float64 a piece at a time.
#include "miq/base/ranks.h"

#include <algorithm>
#include <numeric>

#include "miq/base/error.h"

namespace miq {
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 20;  // floats summed at once: 8 MiB of doubles

}  // namespace

void Ranks::sum(std::span<double>, int) {}
void Ranks::broadcast(std::span<std::uint8_t>, int) {}
void Ranks::send(std::span<const std::uint8_t>, int) { throw Error("there is no other process to send to"); }
void Ranks::receive(std::span<std::uint8_t>, int) { throw Error("there is no other process to receive from"); }
void Ranks::barrier() {}

void Ranks::sum(std::span<float> values, int to) {
  if (alone()) return;
  std::vector<double> wide(std::min(kPiece, values.size()));
  for (std::size_t first = 0; first < values.size(); first += kPiece) {
    const std::span<float> piece = values.subspan(first, std::min(kPiece, values.size() - first));
    const std::span<double> sums(wide.data(), piece.size());
    std::copy(piece.begin(), piece.end(), sums.begin());
    sum(sums, to);
    if (to == kAll || to == rank()) std::transform(sums.begin(), sums.end(), piece.begin(), [](double value) { return static_cast<float>(value); });
  }
}

std::uint64_t Ranks::broadcast(std::uint64_t value, int from) {
  broadcast(std::span(reinterpret_cast<std::uint8_t*>(&value), sizeof value), from);
  return value;
}

void Ranks::broadcast(std::vector<std::uint8_t>& bytes, int from) {
  if (alone()) return;
  bytes.resize(broadcast(static_cast<std::uint64_t>(bytes.size()), from));
  broadcast(std::span(bytes), from);
}

std::string Ranks::broadcast(std::string text, int from) {
  if (alone()) return text;
  text.resize(broadcast(static_cast<std::uint64_t>(text.size()), from));
  broadcast(std::span(reinterpret_cast<std::uint8_t*>(text.data()), text.size()), from);
  return text;
}

Ranks& no_other_ranks() {
  static Ranks alone;
  return alone;
}

std::vector<std::vector<std::uint8_t>> exchange(Ranks& ranks, std::vector<std::uint8_t> own) {
  std::vector<std::vector<std::uint8_t>> all(static_cast<std::size_t>(ranks.size()));
  std::vector<double> sizes(all.size());
  sizes[static_cast<std::size_t>(ranks.rank())] = static_cast<double>(own.size());
  ranks.sum(sizes);
  std::vector<std::uint8_t> together;
  for (double size : sizes) together.resize(together.size() + static_cast<std::size_t>(size));
  std::size_t at = 0;
  if (!ranks.first()) ranks.send(own, Ranks::kFirst);
  for (int r = 0; ranks.first() && r < ranks.size(); ++r) {
    const std::span<std::uint8_t> piece = std::span(together).subspan(at, static_cast<std::size_t>(sizes[static_cast<std::size_t>(r)]));
    at += piece.size();
    if (r == 0) {
      std::copy(own.begin(), own.end(), piece.begin());
    } else {
      ranks.receive(piece, r);
    }
  }
  ranks.broadcast(std::span(together));
  at = 0;
  for (std::size_t r = 0; r < all.size(); ++r) {
    const auto first = together.begin() + static_cast<std::ptrdiff_t>(at);
    at += static_cast<std::size_t>(sizes[r]);
    all[r].assign(first, together.begin() + static_cast<std::ptrdiff_t>(at));
  }
  return all;
}

std::vector<int> spread_jobs(std::span<const double> costs, int ranks) {
  std::vector<std::size_t> order(costs.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return costs[a] > costs[b]; });
  std::vector<double> load(static_cast<std::size_t>(ranks));
  std::vector<int> owner(costs.size());
  for (std::size_t job : order) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += costs[job];
    owner[job] = static_cast<int>(least - load.begin());
  }
  return owner;
}

}  // namespace miq
