// Which input channels share a scale and a bit width, and in what order the solver meets them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/base/thread_pool.h"
#include "miq/compress/compute_device.h"

namespace miq {

enum class Grouping {
  Contiguous,              // runs of group_size channels in their own order
  Sensitivity,             // sorted by H_jj, largest first, cut every group_size
  MutualInformation,       // clusters as they are, of whatever sizes
  MutualInformationEqual,  // within bands of similar energy: clusters laid end to end and cut into equal groups
  Random,                  // a seeded permutation cut every group_size: the null against which the others are measured
};

// How channels are clustered by mutual information: spectral.h, hierarchical.h.
enum class Clustering { Spectral, Hierarchical };

std::string_view grouping_name(Grouping grouping);  // "contiguous", "sensitivity", "mi", "mi-equal", "random"
inline bool needs_mutual_information(Grouping grouping) {
  return grouping == Grouping::MutualInformation || grouping == Grouping::MutualInformationEqual;
}

struct GroupingOptions {
  Grouping grouping = Grouping::Sensitivity;
  std::int64_t group_size = 64;  // channels a group; 0: one group of all
  std::int64_t groups = 0;       // > 0: this many groups instead (the size is then ceil(n / groups))
  std::uint64_t seed = 0;        // random permutation and k-means; add the site's number to decorrelate sites
  // MutualInformationEqual: channels are sorted by H_jj and cut into bands of this many groups; information decides inside a band. 1 is
  // Sensitivity; 0 is one band of all. Bands keep large channels at the front of the sweep, which counts for more than who shares a
  // scale once there are zeros (SmolLM2 at 50 % and 4 bits: 1 band 60.9, bands of two groups 46.9, sorted alone 48.3).
  std::int64_t band_groups = 2;
  Clustering clustering = Clustering::Spectral;  // the two mutual-information groupings
  // This many stored channels stay together, so that an n:m pattern of them is valid in any order: each run is treated as one channel
  // with their mean energy and mean information. Must divide the number of channels, and group_size.
  std::int64_t run = 1;
};

// One distinct input's channels. Groups are runs in the processing order, numbered from 0 in that order.
struct ChannelGroups {
  std::vector<std::int64_t> order;     // [n] order[k]: the channel processed k-th (a permutation)
  std::vector<std::int32_t> group_of;  // [n] group_of[k]: group of the k-th processed channel; 0, 0, …, 1, …: never falls
  std::vector<std::int64_t> starts;    // [groups + 1] starts[g] … starts[g+1]-1: the steps of group g

  std::int64_t channels() const { return static_cast<std::int64_t>(order.size()); }
  std::int64_t groups() const { return static_cast<std::int64_t>(starts.size()) - 1; }
  bool natural_order() const;  // order is 0, 1, 2, …: no permutation need be stored
  std::vector<std::int32_t> group_of_channel() const;  // [n] by the channel's own number
};

// Clusters of many channels are computed on the device `where`; all tensors are on the CPU.
//
// `energy` [n]: H_jj, the second moment of each channel (>= 0). `mutual_information` [n, n] is read by the two
// mutual-information groupings only and may be undefined for the others. In all groupings but Contiguous, groups come in order of
// falling mean energy and channels inside one in order of falling energy; ties by channel number.
// Throws UsageError when group_size or groups is negative, groups > n, or the run does not divide.
ChannelGroups group_channels(const GroupingOptions& options, std::span<const double> energy, const at::Tensor& mutual_information,
                             ThreadPool& pool, const ComputeDevice& where = {});

// Runs of `run` stored channels (which divides their number) by falling mean energy, equal ones as stored; 1: channels.
std::vector<std::int64_t> runs_by_falling(std::span<const double> energy, std::int64_t run);

// Cuts of the processing order into blocks of whole groups, each block the fewest groups that make at least `columns`
// columns (the last may be shorter): {0, …, n}. The solver's blocks and the sparsity plan's are these.
std::vector<std::int64_t> column_blocks(const ChannelGroups& groups, std::int64_t columns = 128);

}  // namespace miq
