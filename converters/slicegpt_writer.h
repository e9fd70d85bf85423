// A sliced model as the original tool keeps it: the pair NAME_SPARSITY.pt and NAME_SPARSITY.json beside the
// base model's config.json and tokenizer. slicegpt/hf_utils.py load_sliced_model(NAME, FOLDER,
// sparsity=SPARSITY) reads it.
#pragma once

#include "miq/converters/hugging_face_writer.h"

namespace miq {

// As write_hugging_face_folder(), which calls it for sliced models; shard_bytes has no meaning here. NAME is
// the base model's name, SPARSITY the pruning ratio, or the measured one where none was stated.
HuggingFaceExport write_slicegpt_folder(const Model& model, const std::string& path, const HuggingFaceOptions& options, ThreadPool& pool,
                                        const ProgressFunction& progress = {});
// Throws what write_slicegpt_folder() would throw before it writes weights.
void check_slicegpt_folder(const Model& model, const std::string& path, const HuggingFaceOptions& options);

}  // namespace miq
