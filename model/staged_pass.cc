// What a stage's linears read is kept beside the residual stream until the next stage is reached. Experts keep nothing: their inputs follow from
// the stream behind attention, and are made anew when they are asked for.
#include "miq/model/staged_pass.h"

#include <ATen/core/grad_mode.h>

#include "miq/model/bf16_layer.h"
#include "miq/model/decoder.h"

namespace miq {
namespace {

// The same steps by our own kernels and by LibTorch's.
class Steps {
 public:
  Steps(const LayerContext& context, const LayerWeights& layer) : context_(context), plain_{context, layer}, packed_(layer.packed.get()) {}

  void reach(InputSite stage, StagedWindow& window) const {
    switch (stage) {
      case InputSite::Attention:
        window.stream = window.stream.contiguous();
        window.input = packed_ ? packed_->attention_input(context_, window.stream) : plain_.attention_input(window.stream);
        return;
      case InputSite::AttentionOutput:
        window.input = packed_ ? packed_->attention_inside(context_, window.input) : plain_.attention_inside(window.input);
        return;
      case InputSite::Mlp:
        window.stream = packed_ ? packed_->behind_attention(context_, window.stream, window.input) : plain_.behind_attention(window.stream, window.input);
        window.input = at::Tensor();
        if (!experts()) window.input = packed_ ? packed_->mlp_input(context_, window.stream) : plain_.mlp_input(window.stream);
        return;
      case InputSite::MlpOutput:
        if (!experts()) window.input = packed_ ? packed_->mlp_inside(context_, window.input) : plain_.mlp_inside(window.input);
        return;
    }
  }

  void show(InputSite stage, const StagedWindow& window, const InputObserver& observer) const {
    if (window.input.defined()) return observer({stage}, window.input);
    plain_.feed(window.stream, [&](InputPlace place, const at::Tensor& input) {
      if (place.site == stage) observer(place, input);
    }, stage);
  }

  void finish(StagedWindow& window) const {
    if (experts()) {
      window.stream = plain_.feed(window.stream, {});
    } else {
      window.stream = packed_ ? packed_->behind_mlp(context_, window.stream, window.input) : plain_.behind_mlp(window.stream, window.input);
    }
    window.input = at::Tensor();
  }

 private:
  bool experts() const { return context_.sizes.experts > 0; }

  const LayerContext& context_;
  const LayerSequence plain_;
  const Bf16Layer* packed_;
};

}  // namespace

LayerContext StagedPass::context(const LayerWeights& layer, const StagedWindow& window) const {
  const Config& config = forward_.model().config;
  const LayerConfig& sizes = config.layers.at(static_cast<std::size_t>(layer.index));
  const bool rotary = config.positions == Positions::Rotary;
  return {config, sizes, forward_.type(), rotary ? rope_.table(sizes.head_dim, window.stream.size(0)) : RopeTable{}};
}

void StagedPass::reach(const LayerWeights& layer, InputSite stage, StagedWindow& window) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  const LayerContext around = context(layer, window);
  Steps(around, layer).reach(stage, window);
}

void StagedPass::show(const LayerWeights& layer, InputSite stage, const StagedWindow& window, const InputObserver& observer) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  const LayerContext around = context(layer, window);
  Steps(around, layer).show(stage, window, observer);
}

void StagedPass::finish(const LayerWeights& layer, StagedWindow& window) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  const LayerContext around = context(layer, window);
  Steps(around, layer).finish(window);
}

}  // namespace miq
