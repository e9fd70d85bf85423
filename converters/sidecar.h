// What a Hugging Face folder cannot say about a model of ours, in one file beside its weights: miq.sidecar.
//
// The folder's weights are floats, whole and readable by everyone; method, statistics, calibration, source,
// and how each tensor was encoded would be lost. The sidecar is a container (formats/container.h) whose
// manifest holds them, and whose tensors are the packed matrices, section by section: scales and zero points
// do not always follow from the floats (a row that uses two of its sixteen codes lies on many lattices), so
// they are kept rather than guessed, at about a quarter of a float16 folder. Bitmasks and zstd frames are
// made again from the floats and not kept; frames of another version of the zstd library may differ in
// their bytes, never in what they decode to.
//
// A sidecar is believed only as far as the folder bears it out: the digest of the folder's weights must be
// the one it states, its configuration must be that of config.json, and every packed matrix must decode to
// the folder's floats, bit by bit. Otherwise the folder stands for itself. The name does not end in
// .safetensors because some loaders read every such file in a folder.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "miq/base/thread_pool.h"
#include "miq/model/model.h"

namespace miq {

inline constexpr std::string_view kSidecarName = "miq.sidecar";

// `digest` is that of the folder's weights; `generated` names files of the folder that are not the model's.
void write_sidecar(const std::string& folder, const Model& model, const std::string& digest, const std::set<std::string>& generated);

struct Restored {
  bool done = false;
  std::string note;  // why a sidecar that is there was not believed
};
// Gives `model`, as it was read from `folder`, what the folder's sidecar says. Never throws for what a
// sidecar holds; leaves the model alone where it does not fit.
Restored restore_from_sidecar(Model& model, const std::string& folder, ThreadPool& pool);

}  // namespace miq
