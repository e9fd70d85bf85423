// Puts the tensors of a model into the encodings that keep them in the fewest bytes, without changing one
// bit of what they decode to: quantized matrices that were saved as floats become packed codes again
// (lattice.h), the others a bit mask or zstd where that pays.
#pragma once

#include "miq/base/progress.h"
#include "miq/base/thread_pool.h"
#include "miq/model/model.h"

namespace miq {

enum class EncodePolicy {
  Auto,      // the linears of the decoder layers as lattices where they are, else by bit mask where that
             // saves 5 %; the rest as Lossless
  Dense,     // every tensor as the source has it
  Lossless,  // bit mask, zstd or dense, whichever is smallest (encode_best)
};
// "auto", "dense", "lossless"; throws UsageError for another name.
EncodePolicy encode_policy(std::string_view name);

// Replaces tensors of `model` and returns a report. Tensors that are packed already stay as they are, and so
// do those in another encoding unless a lattice is found in them. Every new tensor is decoded and compared
// with the old one, byte by byte, before it takes its place (Error naming it otherwise). The same model and
// policy give the same bytes and the same report at any number of threads.
//
//   {"policy": "auto",
//    "summary": {"tensors", "bytes_before", "bytes_after", "by_encoding": {"packed": {"tensors", "bytes_before", "bytes_after"}, …},
//                "lattices": {"found", "of", "tensors_by_bits": {"4": 14, "3+4+6+8": 2}, "kinds": {"row": 14},
//                             "scales", "proven_scales", "bytes_saved", "note"}},       lattices: policy Auto only
//    "tensors": [{"name", "encoding", "dtype", "bytes_before", "bytes_after",
//                 "lattice": {"kind", "bits", "group_size", "columns_by_bits", "masked", "zeros", "scale_dtype", "scales", "proven_scales"}
//                 or "no_lattice": reason}, …]}
//
// The summary goes into model.source["encoding"] too (with "policy"), so that the container and
// inspect-checkpoint show it, and the entries of the decoder linears into model.statistics["encoding"], but
// nothing is written there when no tensor changed its encoding.
Json encode_model(Model& model, EncodePolicy policy, ThreadPool& pool, const ProgressFunction& progress = {});

// The report's summary as a few lines for people, each ended by a newline; empty for policy Dense.
std::string encode_text(const Json& report);

}  // namespace miq
