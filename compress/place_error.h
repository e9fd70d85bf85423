// Which part of the model an error is about: measurements and solvers know a matrix or a sum, not where it is from.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "miq/base/error.h"
#include "miq/compress/not_finite.h"
#include "miq/model/architecture.h"

namespace miq {

// The first linear of the layer that reads at the place: "model.layers.3.mlp.down_proj.weight".
inline std::string place_name(const Config& config, std::int64_t layer, InputPlace place) {
  for (const LayerTensor& tensor : layer_tensors(config, layer)) {
    if (tensor.linear() && tensor.place() == place) return layer_tensor_name(architecture(config.architecture), layer, tensor.name);
  }
  return "layer " + std::to_string(layer);
}

// Runs `work`; an Error of it gets where() in front, and NotFinite a remedy behind. UsageError and FormatError name what they are about themselves.
// A name is made when it is needed: this runs for every place and batch of windows.
template <typename Where, typename Work>
decltype(auto) naming(const Where& where, const Work& work) {
  try {
    return work();
  } catch (const UsageError&) {
    throw;
  } catch (const FormatError&) {
    throw;
  } catch (const NotFinite& error) {
    throw Error(where() + ": " + error.what() +
                ". The model's activations or their gradients are not finite or leave the range of float32 here: check its weights and the calibration text; "
                "rtn and magnitude need no calibration");
  } catch (const Error& error) {
    throw Error(where() + ": " + error.what());
  }
}

}  // namespace miq
