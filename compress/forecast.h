// What a run is going to take, before it starts: memory, disk, the size of the result, and an estimate of the time from
// counts of operations and rates measured on the spot.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "miq/base/thread_pool.h"
#include "miq/compress/calibration.h"
#include "miq/compress/methods.h"
#include "miq/model/model.h"

namespace miq {

// Operations per second of the whole pool.
struct Rates {
  double forward = 0;   // products of a layer's forward pass, in the compute type
  double hessian = 0;   // sums of x x^T
  double factor = 0;    // factorisation in float64
  double sweep = 0;     // the solver's compensation, rounding included
  double rounding = 0;  // (weight, level, clip) triples tried by the plan
  int threads = 1;
};
// Times small pieces of the work itself: a fraction of a second.
Rates measure_rates(const Model& model, std::int64_t seqlen, const Recipe& recipe, ThreadPool& pool);

struct Forecast {
  std::int64_t layers = 0;
  std::uint64_t weights = 0, compressed_weights = 0;

  // Bytes of memory of its own at the peak; mapped files are not counted.
  struct {
    std::uint64_t process = 0;      // libraries, and the threads' own buffers
    std::uint64_t embedding = 0;    // embedding and head, decoded
    std::uint64_t layer = 0;        // the largest layer, decoded, and its matrices while they are solved
    std::uint64_t hessians = 0;     // of the largest layer
    std::uint64_t largest_hessian = 0, factor = 0;  // of one input; the first is part of `hessians`
    std::uint64_t activations = 0;  // hidden states of all windows
    std::uint64_t inputs = 0;       // what the linears of a layer read, a batch of windows
    std::uint64_t plan = 0;         // inputs of all layers for the windows that are walked back
    std::uint64_t result = 0;       // compressed layers
    std::uint64_t tuning = 0;       // after the last layer: states of a batch, what one layer's gradients need, logits
    std::uint64_t scaled = 0;       // dense layers with other channel scales
    // What cannot go to the disk: while layers are solved, with so many bytes of Hessians at once, or while the result is tuned.
    std::uint64_t base() const { return process + embedding + layer; }
    std::uint64_t solving() const { return base() + factor + inputs; }  // without Hessians
    std::uint64_t held(std::uint64_t summed) const { return std::max(solving() + summed, base() + tuning); }
    std::uint64_t least() const { return held(0); }
    std::uint64_t on_disk() const { return activations + std::max(plan, result) + scaled; }  // what can
    std::uint64_t peak() const {
      return scaled + std::max(solving() + hessians + activations + std::max(plan, result), base() + result + tuning);
    }
  } memory;

  // Sections of all tensors; the container adds its header, manifest and files.
  struct {
    std::uint64_t codes = 0, scales = 0, zeros = 0, masks = 0, groups = 0, values = 0;  // of the compressed matrices
    std::uint64_t other = 0;                                                           // embedding, norms, …
    std::uint64_t total() const { return codes + scales + zeros + masks + groups + values + other; }
    bool exact = false;  // the recipe alone decides every section's size
  } output;
  std::uint64_t journal_bytes = 0;  // at most, while the run lasts

  struct Part {
    std::string name;
    double operations = 0, seconds = 0;
  };
  std::vector<Part> parts;
  double seconds() const;
};

Forecast forecast(const Model& model, const Calibration& calibration, const Recipe& recipe, const Rates& rates);

// How a run fits into `cap` bytes of memory of its own.
struct MemoryFit {
  bool disk = false;            // what outlives a layer goes to the disk
  std::uint64_t hessians = 0;   // WorkingMemory::hessians
  std::uint64_t peak = 0, disk_bytes = 0;
};
// Throws UsageError with what is needed where nothing helps.
MemoryFit fit_memory(const Forecast& forecast, std::uint64_t cap);
std::string fit_text(const MemoryFit& fit, std::uint64_t cap, const std::string& folder);  // one line

// Several lines for people; without the last newline.
std::string forecast_text(const Forecast& forecast, const Calibration& calibration, const Recipe& recipe);

}  // namespace miq
