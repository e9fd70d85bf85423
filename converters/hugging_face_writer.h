// A model as a folder that transformers' AutoModelForCausalLM.from_pretrained loads: config.json, the
// tokenizer's files, weights as floats in safetensors; and miq.sidecar for what such a folder cannot say.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "miq/base/progress.h"
#include "miq/base/thread_pool.h"
#include "miq/model/model.h"

namespace miq {

struct HuggingFaceOptions {
  std::optional<DType> dtype;                   // F32, F16 or BF16; without it every tensor keeps its own
  std::uint64_t shard_bytes = 5'000'000'000;    // of tensors in one file; one tensor is never cut
  bool force = false;                           // replace a folder that holds a model of someone else's
};

struct HuggingFaceExport {
  std::uint64_t tensors = 0, bytes = 0, shards = 0;
  std::vector<std::string> notes;  // what the folder lacks or says differently, a sentence each
};

// Every tensor decoded, with its zeros, under its own name: model.safetensors, or
// model-0000i-of-0000n.safetensors with model.safetensors.index.json. The model's small files go in
// verbatim; config.json too where it still describes the model (its dtype key follows a cast), otherwise it
// is generated. One decoded tensor is held at a time.
//
// The folder appears under `path` only when it is whole and synced (atomic_folder.h). An existing folder is
// replaced where it is one of ours, or with `force`, and in either case only where it holds nothing but the
// files of a model; otherwise Error names what is in the way.
//
// Throws Error for models that no config.json can describe (layers of different sizes), naming the layer.
HuggingFaceExport write_hugging_face_folder(const Model& model, const std::string& path, const HuggingFaceOptions& options, ThreadPool& pool,
                                            const ProgressFunction& progress = {});

// Cheap: throws what write_hugging_face_folder() would throw before it writes weights. For commands that
// work for hours before they write.
void check_hugging_face_folder(const Model& model, const std::string& path, const HuggingFaceOptions& options);

// config.json for a model that came without one.
Json hugging_face_config(const Config& config);

}  // namespace miq
