// What differs between two checkpoints, whatever they were read from and however they are encoded.
#pragma once

#include "miq/base/thread_pool.h"
#include "miq/model/model.h"

namespace miq {

// {"schema": "miq.diff/1",
//  "equal": no difference below,
//  "config":  [{"key", "a", "b"}, …],                     keys of Config::to_json() that differ; null: absent; "layers.3.heads"
//  "method":  [{"key", "a", "b"}, …],                     of Model::method
//  "tokenizer": {"a": kind, "b": kind},                    only where the kinds differ
//  "only_in_a": [{"name", "shape", "dtype", "zeros"}, …], "only_in_b": …,
//  "different": [{"name", "shape": [a, b], "dtype": [a, b], "zeros": [a, b], "elements",
//                 "changed", "max_abs", "rms_relative"}, …],
//  "same": {"tensors": bit by bit, "values_alone": equal in value but not in type}}
//
// The last three keys of a different tensor are there where the shapes are equal: elements with another value,
// the largest |a - b|, and sqrt(sum (a - b)^2 / sum a^2), computed from the values as float32; null where they
// are not finite. -0 equals 0 in value. Method and tokenizer do not count towards "equal".
// At most two decoded tensors a thread are held. The same at any number of threads.
Json compare_models(const Model& a, const Model& b, ThreadPool& pool);

// For people; a line each, `most` tensors at most in each list (0: all).
std::string compare_text(const Json& comparison, std::size_t most = 0);

}  // namespace miq
