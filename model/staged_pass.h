// One decoder layer in stages, for who replaces its linears as it goes: each stage's inputs are made by the linears of the stages before it as
// they stand then, and a layer is computed once. (GPTQ calls compressing in this order "true sequential": github.com/IST-DASLab/gptq.)
#pragma once

#include <ATen/core/Tensor.h>

#include "miq/model/forward.h"
#include "miq/model/rope.h"

namespace miq {

// One window within a layer.
struct StagedWindow {
  at::Tensor stream;  // [tokens, width] float32: the layer's input; from stage Mlp on, behind attention; its output in the end
  at::Tensor input;   // [tokens, in] compute type: what the linears of the stage read; undefined at the two stages of a mixture's experts
};

// A stage is a site. The methods are called stage after stage in rising order, for each window; with all stages' linears left as they were
// the result is run_layer()'s, bit for bit. Any number of threads may call them, each for windows of its own.
class StagedPass {
 public:
  explicit StagedPass(const ForwardPass& forward) : forward_(forward), rope_(forward.model().config, forward.device()) {}

  // To the inputs of `stage`, by the linears of the stage before it. `layer` as load_layer() or prepare() left it.
  void reach(const LayerWeights& layer, InputSite stage, StagedWindow& window) const;
  // Shows the inputs of a stage that was reached; as often as one likes.
  void show(const LayerWeights& layer, InputSite stage, const StagedWindow& window, const InputObserver& observer) const;
  // From stage MlpOutput to the layer's output.
  void finish(const LayerWeights& layer, StagedWindow& window) const;

 private:
  LayerContext context(const LayerWeights& layer, const StagedWindow& window) const;
  const ForwardPass& forward_;
  mutable RopeTables rope_;
};

}  // namespace miq
