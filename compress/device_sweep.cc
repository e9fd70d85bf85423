// The front end of sweep.cc around kernels (cuda/sweep.cu): jobs are copied to the device as tensors of LibTorch's, whose allocator keeps the
// memory for the next ones, swept up to kMostSweepJobs at once, and copied back.
#include "miq/compress/device_sweep.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "miq/base/cuda_library.h"
#include "miq/compress/sweep_engine.h"
#include "miq/compress/sweep_steps.h"

namespace miq {
namespace {

// Tensors on the device that hold a job while it is swept. Types are of the size alone: bytes are what kernels see.
class DeviceJob {
 public:
  DeviceJob(const SweepJob& job, const at::Tensor& lower, const ComputeDevice& where) : device_(where.device) {
    const std::int64_t blocks = static_cast<std::int64_t>(job.blocks.size()) - 1;
    view.rows = job.rows;
    view.cols = job.cols;
    view.groups = job.groups;
    view.clips = static_cast<std::int64_t>(job.clips.size());
    for (std::int64_t b = 0; b < blocks; ++b) view.stride = std::max(view.stride, job.blocks[b + 1] - job.blocks[b]);
    view.dynamic = job.dynamic;
    view.half = job.half;
    view.prune_ties = job.prune_ties;
    view.n = job.n;
    view.m = job.m;
    view.scale_bits = job.scale_bits;
    view.lower = lower.const_data_ptr<float>();
    view.weights = copied(job.weights);
    view.scales = copied(job.scales);
    view.zeros = copied(job.zeros);
    view.max_codes = copied(job.max_codes);
    view.clip_ratios = copied(job.clips);
    view.column_weights = copied(job.column_weights);
    view.row_weights = copied(job.row_weights);
    view.exponents = copied(job.exponents);
    view.codes = copied(job.codes);
    view.kept = copied(job.kept);
    view.group_of = copied(job.group_of);
    view.group_start = copied(starts_of_groups(job));
    const std::int64_t work = job.tiles * view.stride * kTileRows;
    view.errors = made<float>(work, false);
    view.losses = made<double>(job.tiles * kTileRows, true);
    if (job.rank_of_block.empty()) return;
    view.scores = made<float>(work, false);
    view.rank_of_block = copied(job.rank_of_block);
    view.counts = made<std::uint32_t>(256, true);
    view.threshold = made<SweepThreshold>(1, true);
    view.ties = made<std::int64_t>(job.tiles, true);
    view.quota = made<std::int64_t>(job.tiles, true);
  }
  DeviceJob(const DeviceJob&) = delete;
  DeviceJob& operator=(const DeviceJob&) = delete;

  void collect(SweepJob& job) const {
    fetch(view.weights, job.weights);
    fetch(view.kept, job.kept);
    fetch(view.codes, job.codes);
    fetch(view.scales, job.scales);
    fetch(view.zeros, job.zeros);
    std::vector<double> losses(static_cast<std::size_t>(job.tiles * kTileRows));
    fetch(view.losses, losses);
    // As half_of_squares() of sweep_cpu.cc adds them up, but for the order of blocks and rows.
    for (std::int64_t row = 0; row < job.rows; ++row) job.losses[static_cast<std::size_t>(row / kTileRows)] += losses[static_cast<std::size_t>(row)] / 2;
  }

  SweepView view{};

 private:
  static std::vector<std::int64_t> starts_of_groups(const SweepJob& job) {
    std::vector<std::int64_t> starts(job.dynamic ? static_cast<std::size_t>(job.cols) : 0);
    for (std::size_t k = 1; k < starts.size(); ++k) starts[k] = job.group_of[k] == job.group_of[k - 1] ? starts[k - 1] : static_cast<std::int64_t>(k);
    return starts;
  }

  template <typename T>
  T* made(std::int64_t count, bool zero) {
    const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(T));
    const at::TensorOptions options = at::TensorOptions(at::kByte).device(device_);
    held_.push_back(zero ? at::zeros({bytes}, options) : at::empty({bytes}, options));
    return static_cast<T*>(held_.back().mutable_data_ptr());
  }
  template <typename T>
  T* copied(const std::vector<T>& values) {
    if (values.empty()) return nullptr;
    T* place = made<T>(static_cast<std::int64_t>(values.size()), false);
    held_.back().copy_(bytes_of(values));
    return place;
  }
  template <typename T>
  void fetch(const T* place, std::vector<T>& values) const {
    if (values.empty()) return;
    for (const at::Tensor& tensor : held_) {
      if (tensor.const_data_ptr() == place) bytes_of(values).copy_(tensor);
    }
  }
  template <typename T>
  static at::Tensor bytes_of(const std::vector<T>& values) {
    return at::from_blob(const_cast<T*>(values.data()), {static_cast<std::int64_t>(values.size() * sizeof(T))}, at::TensorOptions(at::kByte));
  }

  const at::Device device_;
  std::vector<at::Tensor> held_;
};

}  // namespace

std::vector<SweepResult> sweep_on(const ComputeDevice& where, std::span<const SweepMatrix> matrices, const InverseFactor& factor,
                                  const SweepOptions& options, ThreadPool& pool) {
  if (!where.used()) return sweep(matrices, factor, options, pool);
  const auto engine = [&](std::vector<SweepJob>& jobs, ThreadPool&) {
    if (jobs.empty() || jobs.front().cols == 0) return;
    const at::Tensor lower = factor.upper.to(where.device).t().contiguous();
    std::vector<bool> done(jobs.size());
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      if (done[i]) continue;
      // This one, and those that go with it.
      SweepLaunch launch{};
      std::vector<std::unique_ptr<DeviceJob>> held;
      std::vector<std::size_t> members;
      for (std::size_t k = i; k < jobs.size() && launch.jobs < kMostSweepJobs; ++k) {
        if (done[k] || jobs[k].blocks != jobs[i].blocks) continue;
        done[k] = true;
        if (jobs[k].rows == 0) continue;
        held.push_back(std::make_unique<DeviceJob>(jobs[k], lower, where));
        members.push_back(k);
        launch.thresholds = launch.thresholds || !jobs[k].rank_of_block.empty();
        launch.views[launch.jobs] = held.back()->view;
        launch.first_tile[launch.jobs + 1] = launch.first_tile[launch.jobs] + jobs[k].tiles;
        ++launch.jobs;
      }
      if (launch.jobs == 0) continue;
      const std::vector<std::int64_t>& blocks = jobs[i].blocks;
      check_cuda(*where.kernels, where.kernels->sweep(where.index(), &launch, blocks.data(), static_cast<std::int64_t>(blocks.size()) - 1),
                 "the solver");
      for (std::size_t k = 0; k < members.size(); ++k) held[k]->collect(jobs[members[k]]);
    }
  };
  return sweep_with(engine, matrices, factor, options, pool);
}

}  // namespace miq
