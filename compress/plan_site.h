// What a plan (plan.h) knows of one place of a layer: sums while the windows pass, and what is measured from them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>

#include <ATen/core/Tensor.h>

#include "miq/base/ranks.h"
#include "miq/base/thread_pool.h"
#include "miq/compress/channel_statistics.h"
#include "miq/compress/compute_device.h"
#include "miq/compress/hessian.h"
#include "miq/compress/methods.h"
#include "miq/compress/mutual_information.h"
#include "miq/compress/once.h"
#include "miq/compress/plan.h"

namespace miq {

// Products of channels are summed only where the plan reads them.
struct SiteSums {
  std::optional<HessianSum> hessian;
  ChannelStatistics channels;
  std::optional<TokenSample> sample;
  at::Tensor rows;                    // sampled by all ranks
  std::int64_t tokens = 0, seen = 0;  // and windows
  Once once;                          // on a device: steps of add()

  // `all`: how many tokens may come, in all ranks. Which tokens are sampled does not depend on the ranks. Where a device's memory ends
  // (c10::OutOfMemoryError) add() of the same window goes on, nothing is added twice.
  void add(InputPlace place, std::span<const at::Tensor> inputs, const Recipe& recipe, std::int64_t all, const Ranks& ranks, ThreadPool& pool,
           const ComputeDevice& where);
};

// The rank that measures each place: what its Hessian costs there.
std::map<InputPlace, int> owners_of(const Ranks& ranks, std::span<const InputPlace> places, const std::map<InputPlace, std::int64_t>& widths);

// Sums of all ranks, in the rank that measures the place. What is left in `sums` are places that any token reached.
void sum_places(Ranks& ranks, std::span<const InputPlace> places, const std::map<InputPlace, int>& owners, const std::map<InputPlace, std::int64_t>& widths,
                const Recipe& recipe, std::map<InputPlace, SiteSums>& sums, const ComputeDevice& where);

// What is known of a site whatever its groups; its information too, which a plan does not keep.
struct SiteFacts {
  SitePlan site;
  at::Tensor information;
};

SiteFacts measure_site(const SiteSums& sums, const Recipe& recipe, ThreadPool& pool, const ComputeDevice& where);
SitePlan group_site(const SiteFacts& facts, const Recipe& recipe, std::uint64_t site_number, ThreadPool& pool, const ComputeDevice& where);
// A place that no token reached, in the plan as an average expert of its layer: equal channels in their own order.
void plan_unseen(LayerPlan& layer, InputPlace place, std::int64_t channels, const Recipe& recipe, ThreadPool& pool);
// Decorrelates the seeds of places.
std::uint64_t place_number(std::int64_t layer, InputPlace place);

}  // namespace miq
