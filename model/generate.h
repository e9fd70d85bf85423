// Generation of text, token by token, with a key-value cache: the layers of decoder.h on new tokens alone. Weights stay decoded in
// memory; where they are stored as the compute type needs them, they stay in the mapped file.
//
// A sequence's logits depend on that sequence alone: neither on others that are advanced in the same step nor on the number
// of threads. They are those of the forward pass over the whole sequence, but for the order of sums.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "miq/base/thread_pool.h"
#include "miq/model/generate_layer.h"
#include "miq/model/kv_cache.h"
#include "miq/model/packed_products.h"
#include "miq/model/rope.h"
#include "miq/model/sampling.h"

namespace miq {

class Generator {
 public:
  // Decodes all weights. Keeps references to `model` and `pool`. On a GPU (device.h), and with Kernels::Device on the processor, every step
  // is LibTorch's; weights, keys and values lie on the device. Logits are always in the host's memory. `packed`: with that form, our kernels, which
  // decode matrices that are stored packed, and multiply them without decoding where a step has few tokens (packed_products.h); they lie on the device
  // beside the decoded ones, as far as there is room. Sums then differ, in float32, with the number of sequences that go together.
  Generator(const Model& model, ComputeType type, ThreadPool& pool, at::Device device = at::kCPU, Kernels kernels = Kernels::Portable,
            const MiqCudaTable* packed = nullptr);
  ~Generator();
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  struct Sequence {
    std::vector<std::int32_t> ids;
    KvCache cache;
  };
  // Room for `capacity` tokens.
  Sequence start(std::int64_t capacity) const;

  // Takes in further tokens of a sequence; logits [vocabulary] float32 of what follows the last. Throws Error on ids outside the
  // embedding, and where the sequence's room or the model's learned positions end. REQUIRES ids not empty.
  at::Tensor extend(Sequence& sequence, std::span<const std::int32_t> ids) const;
  // One further token for each of several sequences: logits [sequences, vocabulary]. The weights are read once for all.
  // Where rotary angles depend on the length of the text (dynamic scaling beyond the original length), a length with other angles
  // makes all of the sequence anew, as the forward pass does.
  at::Tensor step(std::span<Sequence* const> sequences, std::span<const std::int32_t> ids) const;

  const Model& model() const { return model_; }
  std::uint64_t weight_bytes() const;  // of all weights as they lie in memory, mapped ones included
  std::int64_t packed_matrices() const;  // that steps read as they are stored

 private:
  struct Row {  // a token on its way
    Sequence* sequence;
    std::int64_t position;
    std::int32_t id;
  };
  class Steps;
  void add_packed();
  at::Tensor run(std::span<const Row> rows, std::int64_t length, bool together) const;
  at::Tensor run_sequence(Sequence& sequence, std::span<const std::int32_t> ids, std::int64_t first) const;
  at::Tensor logits(const at::Tensor& hidden) const;
  RopeTable rope_rows(std::span<const Row> rows, std::int64_t head_dim, std::int64_t length) const;
  bool turns(std::int64_t before, std::int64_t after) const;  // whether the angles differ between these lengths

  const Model& model_;
  ThreadPool& pool_;
  ComputeType type_;
  at::Device device_;
  std::unique_ptr<ForwardPass> pass_;
  std::unique_ptr<RopeTables> rope_;
  std::vector<LayerWeights> layers_;
  std::vector<PackedProducts> packed_;  // of each layer
  std::vector<std::unique_ptr<const StepLayer>> step_layers_;  // null where a layer is none that it knows
};

struct GenerateOptions {
  std::int64_t max_new_tokens = 128;
  Sampling sampling = {};
  std::vector<std::int32_t> stop_ids = {};  // a sequence ends before one of these
};

// The ids that end a text: the config's, and generation_config.json's "eos_token_id" where the model carries that file.
std::vector<std::int32_t> end_ids(const Model& model);

// New ids for every prompt; `on_token` sees each as it is chosen. A sequence ends at a stop id, after max_new_tokens, or at the
// model's maximum length. Throws Error on a prompt that is empty or leaves no room below that length.
std::vector<std::vector<std::int32_t>> generate(const Generator& generator, std::span<const std::vector<std::int32_t>> prompts,
                                                const GenerateOptions& options,
                                                const std::function<void(std::size_t sequence, std::int32_t id)>& on_token = {});

}  // namespace miq
