// A language model in memory: what every reader makes, every method changes, every metric measures and
// every writer stores. Tensors are shared, immutable and lazily read (they point into mapped files).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "miq/formats/tensor.h"
#include "miq/model/config.h"
#include "miq/model/tokenizer.h"

namespace miq {

struct Model {
  std::string name;    // for people: "SmolLM2-135M-Instruct"; a file or folder name without its path
  Config config;
  std::map<std::string, Tensor> tensors;  // by the names of architecture.h; the head is absent when tied
  std::map<std::string, Blob> files;      // the source's small files, verbatim
  std::shared_ptr<const Tokenizer> tokenizer;  // may be null

  // How the weights came to be, as it goes into the container and every report. Empty objects for a
  // model as its makers left it.
  //   method:      {"name": "mi", "sparsity": 0.5, …every parameter…}
  //   statistics:  {"matrices": [{"name", "error", "bits", …}], …} what the method measured
  //   calibration: {"text": digest, "windows", "seqlen", "sampling", "documents"}
  //   source:      {"format": "gguf", "digest": of the source model's tensors}
  Json method = Json::object(), statistics = Json::object(), calibration = Json::object(), source = Json::object();

  // What whoever opened the model should know: whole sentences, shown on stderr by programs and stored nowhere.
  std::vector<std::string> warnings;
};

// Every invariant: the tensors are exactly those that the architecture expects, with the expected shapes; the
// tokenizer's ids fit the embedding; special ids exist; records are of the kinds that are read (method_record.h).
// Throws Error naming the tensor or key, what was found and expected, and what to do.
// In messages the model is `where`, or its name where that is empty.
void validate(const Model& model, const std::string& where = {});
// Part of it: throws Error when there are more layers than tensors. For readers, before they make anything for each of the layers
// that a config claims.
void check_layer_count(const Model& model, const std::string& where);

// XXH3-128 over all tensors in name order: name, dtype, shape and decoded bytes. The same weights have
// the same digest in every format and encoding.
std::string weights_digest(const Model& model, ThreadPool& pool);
// The same where digest_of() each tensor's decoded bytes is known already; `digests` has every tensor's name.
std::string weights_digest(const std::map<std::string, Tensor>& tensors, const std::map<std::string, std::string>& digests);

// The .miq container (formats/spec/miq.md): Model <-> bytes, without loss.
// `digest` is weights_digest() where it is known already, else empty; `pool` may be null: one is made.
void save_model(const Model& model, const std::string& path, ThreadPool* pool = nullptr, std::string digest = {});
Model load_model(const std::string& path);

}  // namespace miq
