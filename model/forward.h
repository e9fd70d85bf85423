// The forward pass, one decoder layer at a time over many windows: all windows through layer 0, then all
// through layer 1, …. One layer of weights is resident, a packed layer is decoded once per pass, and
// calibration and evaluation are the same walk.
//
// Every call works on one window and on one thread, and its result depends on that window alone:
// losses are the same bits for any number of windows in flight and any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "miq/model/architecture.h"
#include "miq/model/layer_loader.h"
#include "miq/model/model.h"
#include "miq/model/norm.h"

namespace miq {

// Float32: everything in float32. BFloat16: products of bfloat16 values with float32 sums; the residual
// stream, norms and the loss in float32.
enum class ComputeType { Float32, BFloat16 };
std::string_view compute_type_name(ComputeType type);  // "float32", "bfloat16"

class Bf16Layer;
struct LayerContext;
class PackedBf16;
class RopeTables;

// Which kernels run_layer() and losses() use. Best: our own for bfloat16 on CPUs with AVX512-BF16,
// LibTorch's elsewhere and for float32. Portable: LibTorch's everywhere; for tests and comparisons. Device: LibTorch's in the form that
// GPUs run, with its fused operations; what a GPU always has, and the processor in tests.
enum class Kernels { Best, Portable, Device };

// One decoder layer: linears decoded to the compute type, norms to float32. Keys are rule names
// ("self_attn.q_proj.weight"). An entry may be replaced by another tensor of its shape and type, or
// changed by a LibTorch operation; call ForwardPass::prepare() afterwards (run_layer() notices anyway,
// but then repeats the work for every window). Never write through an entry's data pointer: it may be
// the mapped file.
struct LayerWeights {
  std::int64_t index = 0;
  std::map<std::string, at::Tensor, std::less<>> tensors;
  std::shared_ptr<const Bf16Layer> packed;  // the linears as the kernels want them; may be null

  const at::Tensor& tensor(std::string_view name) const;  // throws Error naming the layer and the tensor
};

// Sees the input [tokens, in] (compute type) of every linear of a layer, once per place, in forward order.
// The tokens of an expert are those routed to it, in their own order; one that gets none is not shown.
using InputObserver = std::function<void(InputPlace place, const at::Tensor& input)>;

// What a walk takes for itself, in bytes of anonymous memory: nothing for what is read where the file is mapped.
struct WalkMemory {
  std::uint64_t head = 0;     // the head as the loss wants it, where it is not made yet
  std::uint64_t kept = 0;     // a layer while windows pass through it, the largest
  std::uint64_t loading = 0;  // more than that while it is loaded; on a device: packed bytes that are decoded there
  std::uint64_t work = 0;     // of each thread: buffers of one window within a layer, or of its losses; an upper bound
  std::uint64_t window = 0;   // hidden states of one window between layers
};

class ForwardPass {
 public:
  // Keeps a reference to `model`, and decodes embedding, final norm and head. On a GPU (device.h; load_cuda() first) everything that goes in
  // and comes out as a tensor lies on it: weights of a layer, hidden states, logits. `decoder`: our kernels for that device, which decode packed linears
  // there (layer_loader.h); null: the processor does.
  ForwardPass(const Model& model, ComputeType type, Kernels kernels = Kernels::Best, at::Device device = at::kCPU, const MiqCudaTable* decoder = nullptr);
  ~ForwardPass();
  ForwardPass(const ForwardPass&) = delete;
  ForwardPass& operator=(const ForwardPass&) = delete;

  const Model& model() const { return model_; }
  ComputeType type() const { return type_; }
  at::Device device() const { return device_; }
  // Whether windows go one after another, as a GPU wants them: it is busy with one.
  bool device_form() const { return kernels_ == Kernels::Device; }
  std::int64_t layers() const { return static_cast<std::int64_t>(model_.config.layers.size()); }

  // On a GPU: read by this thread, copied by a stream of its own, and there when the call returns. What runs on the GPU meanwhile goes on.
  LayerWeights load_layer(std::int64_t index) const;
  // For run_layer() alone: a layer whose linears the kernels pack keeps nothing else of them.
  LayerWeights load_layer_to_run(std::int64_t index) const;
  // As the model has them now: the linears of a layer that read at `site`, by rule name.
  LayerLoader::Tensors load_linears(std::int64_t index, InputSite site) const { return loader_->load(index, site); }
  // What became of packed linears so far; nothing is counted without a decoder.
  PackedLoads packed_loads() const { return loader_->packed_loads(); }
  // For windows of `tokens`.
  WalkMemory walk_memory(std::int64_t tokens) const;
  // Packs the layer's linears anew where the kernels want that and they have changed.
  void prepare(LayerWeights& layer) const;

  // [tokens, hidden] float32. Throws Error on an id outside the embedding, and on more tokens than a table
  // of learned positions has rows.
  at::Tensor embed(std::span<const std::int32_t> ids) const;
  // The same for tokens at any positions, one for each id.
  at::Tensor embed(std::span<const std::int32_t> ids, std::span<const std::int64_t> positions) const;
  // The next hidden states, [tokens, width] float32; positions are 0 … tokens-1.
  at::Tensor run_layer(const LayerWeights& layer, const at::Tensor& hidden, const InputObserver& observer = {}) const;
  // The same, for its inputs alone: stops when the observer has seen the last one, a product short of the end.
  void observe_layer(const LayerWeights& layer, const at::Tensor& hidden, const InputObserver& observer) const;
  // The halves of run_layer(), by LibTorch's kernels: the residual stream behind attention, and from there the layer's output.
  // REQUIRES: the layer is not deleted.
  at::Tensor run_attention(const LayerWeights& layer, const at::Tensor& hidden) const;
  at::Tensor run_mlp(const LayerWeights& layer, const at::Tensor& middle) const;

  // Negative log-likelihoods in nats, one for each position p in [first, tokens-1): of ids[p + 1] given
  // ids[0 … p]. Computed in blocks: no logits tensor larger than a block of positions exists.
  std::vector<float> losses(const at::Tensor& hidden, std::span<const std::int32_t> ids, std::int64_t first = 0) const;
  // Logits [positions, vocabulary] float32 of chosen positions; for divergence measures and tests.
  at::Tensor logits(const at::Tensor& hidden) const;
  // d(sum of losses)/d hidden: [tokens, hidden] float32. Where gradients start.
  at::Tensor loss_gradient(const at::Tensor& hidden, std::span<const std::int32_t> ids) const;

  // What the head reads: the final norm of hidden states, [tokens, width] in the compute type; and the logits of that, float32.
  at::Tensor head_input(const at::Tensor& hidden) const;
  at::Tensor project(const at::Tensor& head_input) const;
  // The same logits, not rounded to the compute type on the way: for differences that the rounding would drown.
  at::Tensor exact_logits(const at::Tensor& head_input) const;
  // The head's matrix [vocabulary, head width] in the compute type; its bias [vocabulary] float32, undefined where the model has none.
  const at::Tensor& head() const { return head_; }
  const at::Tensor& head_bias() const { return head_bias_; }
  // Bytes of the whole model's tensors as they lie in memory, a tied head once; mapped ones included.
  std::uint64_t global_bytes() const;
  // d loss/d hidden, given d loss/d logits(hidden). Where `norm_gradient` is given it becomes d loss/d (the final norm's weight), [hidden]
  // float32, or stays undefined where the model has no such weight.
  at::Tensor head_backward(const at::Tensor& hidden, const at::Tensor& logits_gradient, at::Tensor* norm_gradient = nullptr) const;
  // Takes another weight for the final norm than the model's, float32 [hidden]. Not while another thread computes.
  void replace_final_norm(const at::Tensor& weight);

  // One layer backwards. `gradient` is d loss/d (the layer's output); returns d loss/d (its input), and
  // calls `output_gradient` with d loss/d (the linear's output), [tokens, out], of every linear.
  using GradientObserver = std::function<void(std::string_view rule_name, const at::Tensor& gradient)>;
  // `inputs` sees what the linears read, before any gradient is shown.
  at::Tensor backward_layer(const LayerWeights& layer, const at::Tensor& hidden, const at::Tensor& gradient, const GradientObserver& output_gradient,
                            const InputObserver& inputs = {}) const;
  // The same for some of the layer's tensors: calls `tensor_gradient` with d loss/d (the tensor), of its shape and type, for each name in
  // `tensors` (rule names) in their order; an expert's that no token reached are left out.
  at::Tensor backward_tensors(const LayerWeights& layer, const at::Tensor& hidden, const at::Tensor& gradient, std::span<const std::string> tensors,
                              const GradientObserver& tensor_gradient) const;

 private:
  at::Tensor walk_layer(const LayerWeights& layer, const at::Tensor& hidden, const InputObserver& observer, bool inputs_only) const;
  const Model& model_;
  ComputeType type_;
  bool own_kernels(std::int64_t layer) const;
  // Whether our own kernels know the way back through a layer, which they have packed then.
  bool own_way_back(LayerWeights& layer, const LayerContext& context) const;

  Kernels kernels_;
  at::Device device_;
  std::unique_ptr<const LayerLoader> loader_;
  at::Tensor targets(std::span<const std::int32_t> ids) const;  // [ids, 1] int64; throws Error on one outside the vocabulary
  std::vector<float> gather_losses(const at::Tensor& hidden, std::span<const std::int32_t> ids, std::int64_t first) const;
  std::unique_ptr<RopeTables> rope_;
  LayerContext layer_context(const LayerConfig& sizes, std::int64_t tokens) const;

  at::Tensor embedding_, head_, head_bias_;
  at::Tensor positions_, embedding_projection_, output_projection_;  // undefined where the model has none
  Norm final_norm_;
  bool packs_head_ = false;  // false: LibTorch's kernels
  mutable std::once_flag packing_head_;
  mutable std::unique_ptr<PackedBf16> packed_head_;  // made when the first losses are asked for: calibration asks for none
};

// Makes LibTorch run each operation in the thread that calls it: the suite's threads are those of
// ThreadPool. Programs call it once at start. OpenMP keeps its own count for every thread that the
// program makes, so a unit of a ThreadPool that calls LibTorch directly calls it too; it costs nothing
// when repeated, and ForwardPass does so itself.
void use_single_threaded_torch();

}  // namespace miq
