// Calibration windows on their way through the layers of a model: what every pass of the driver steps on.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/base/thread_pool.h"
#include "miq/compress/calibration.h"
#include "miq/compress/working_memory.h"
#include "miq/model/forward.h"
#include "miq/model/staged_pass.h"

namespace miq {

// "measuring layer 3 of 30", for progress; `layer` counts from 0.
std::string layer_stage(std::string_view doing, std::int64_t layer, std::int64_t layers);

// Hidden states of all windows in front of one layer. A unit of work is a window; inputs of the linears
// are handed over in batches of whole windows (observed_windows()); what is summed from them window by window is the same
// at any number of threads.
class Walk {
 public:
  // Sees what the linears at a place read, one tensor [tokens, in] of the compute type for each window of a batch
  // that has tokens there (an expert may get none); called from the calling thread, in rising order of places,
  // batch after batch. Places that no linear reads are left out. On a GPU it sees one window a call; where it throws c10::OutOfMemoryError it sees the same
  // window again, with fewer windows in flight, and what it had done of it before must not be done twice (once.h).
  using BatchObserver = std::function<void(InputPlace place, std::span<const at::Tensor> inputs)>;

  Walk(const ForwardPass& forward, const Calibration& calibration, ThreadPool& pool, const WorkingMemory& memory = {});

  // Runs the windows through `layer` and shows the inputs. `advance`: the hidden states become the layer's outputs.
  // On a GPU windows go one after another, and what some of them show waits for the observer; where layer or observer run out of memory, half as many are
  // in flight from then on, down to one: then c10::OutOfMemoryError.
  void observe(const LayerWeights& layer, const BatchObserver& observer, bool advance);
  void advance(const LayerWeights& layer);

  // A layer in stages (staged_pass.h), its linears replaced between them: to the inputs of a site, what is seen there, and to the layer's outputs.
  // All sites in rising order; hidden() has no meaning in between.
  void reach(const LayerWeights& layer, InputSite stage);
  void show(const LayerWeights& layer, InputSite stage, const BatchObserver& observer);
  void finish(const LayerWeights& layer);

  std::int64_t windows() const { return static_cast<std::int64_t>(hidden_.size()); }
  std::int64_t tokens() const { return windows() * seqlen_; }
  const std::vector<at::Tensor>& hidden() const { return hidden_; }
  // Goes on with what hidden(window) once gave.
  void restore(std::int64_t window, const at::Tensor& state);
  const at::Tensor& hidden(std::int64_t window) const { return hidden_[static_cast<std::size_t>(window)]; }

 private:
  // Calls `window(w, keep)` for each window of each batch, then `observer` with what they kept. What `window` returns replaces the hidden state, unless it
  // is undefined. A batch may begin again, so `window` changes nothing.
  using WindowObserver = std::function<at::Tensor(std::size_t window, const InputObserver& keep)>;
  void observe_batches(std::int64_t layer, const WindowObserver& window, const BatchObserver& observer);
  void observe_on_device(std::span<const InputPlace> places, const WindowObserver& window, const BatchObserver& observer);
  // Windows from `first` on, at most as many as `next` has room for; their next states. `shown`: of each place, the windows that its observer is done with.
  // False where memory did not do for so many.
  bool show_batch(std::int64_t first, std::span<const InputPlace> places, const WindowObserver& window, const BatchObserver& observer,
                  std::vector<std::int64_t>& shown, std::vector<at::Tensor>& next);
  void for_windows(std::int64_t count, const std::function<void(std::int64_t)>& work);
  // Where the layers run: the window's state, or a copy there.
  at::Tensor state_of(std::size_t window) const { return hidden_[window].to(forward_.device()); }
  at::Tensor input_of(std::size_t window) const { return inputs_[window].defined() ? inputs_[window].to(forward_.device()) : at::Tensor(); }

  const ForwardPass& forward_;
  const StagedPass staged_;
  ThreadPool& pool_;
  const WorkingMemory memory_;
  std::int64_t seqlen_;
  std::int64_t most_in_flight_ = 0;  // on a GPU; 0: not tried yet
  std::vector<at::Tensor> hidden_;  // [seqlen, hidden] float32 each
  std::vector<at::Tensor> inputs_;  // of a stage, [seqlen, in] compute type each; empty between layers
};

}  // namespace miq
