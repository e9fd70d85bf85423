// The invariants of a model and the digest of its weights.
#include "miq/model/model.h"

#include <algorithm>
#include <set>

#include "miq/base/error.h"
#include "miq/formats/digest.h"
#include "miq/model/architecture.h"
#include "miq/model/method_record.h"

namespace miq {
namespace {

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

void check_id(const Model& model, const std::string& where, const char* what, std::optional<std::int64_t> id) {
  if (id && *id >= model.config.vocabulary) {
    throw Error(where + ": the " + what + " token id " + std::to_string(*id) + " lies outside the embedding of " +
                std::to_string(model.config.vocabulary) + " rows. The config belongs to another checkpoint");
  }
}

}  // namespace

void check_layer_count(const Model& model, const std::string& where) {
  const auto layers = std::ranges::count_if(model.config.layers, [](const LayerConfig& layer) { return !layer.identity; });
  if (static_cast<std::size_t>(layers) > model.tensors.size()) {
    throw Error(where + ": the config has " + std::to_string(layers) + " layers, more than the " + std::to_string(model.tensors.size()) +
                " tensors can fill. The checkpoint is incomplete or its config belongs to another one");
  }
}

void validate(const Model& model, const std::string& place) {
  const std::string& where = place.empty() ? model.name : place;
  check_layer_count(model, where);  // before the names of all layers are put together
  std::set<std::string_view> expected_names;
  const auto expected = expected_tensors(model.config);
  for (const ExpectedTensor& tensor : expected) {
    expected_names.insert(tensor.name);
    const auto found = model.tensors.find(tensor.name);
    if (found == model.tensors.end()) {
      throw Error(where + ": tensor '" + tensor.name + "' " + shape_text(tensor.shape) + " is missing. The checkpoint is incomplete or its config belongs to another one");
    }
    if (found->second.shape != tensor.shape) {
      throw Error(where + ": tensor '" + tensor.name + "' has shape " + shape_text(found->second.shape) + ", but the config asks for " +
                  shape_text(tensor.shape) + ". The weights and the config belong to different checkpoints");
    }
    if (!is_floating(found->second.dtype)) {
      throw Error(where + ": tensor '" + tensor.name + "' holds " + std::string(dtype_name(found->second.dtype)) + " elements; weights must be floating point");
    }
  }
  for (const auto& [name, tensor] : model.tensors) {
    if (!expected_names.contains(name)) {
      throw Error(where + ": tensor '" + name + "' " + shape_text(tensor.shape) + " has no place in a " + model.config.architecture +
                  " model of this config. It would be ignored silently by others; miq refuses");
    }
  }
  if (model.tokenizer && model.tokenizer->vocabulary() > model.config.vocabulary) {
    throw Error(where + ": the tokenizer has ids up to " + std::to_string(model.tokenizer->vocabulary() - 1) + ", but the embedding has only " +
                std::to_string(model.config.vocabulary) + " rows. Give the tokenizer that belongs to the checkpoint");
  }
  check_id(model, where, "begin-of-text", model.config.bos_id);
  check_id(model, where, "end-of-text", model.config.eos_id);
  check_records(model, where);
}

std::string weights_digest(const std::map<std::string, Tensor>& tensors, const std::map<std::string, std::string>& digests) {
  Digest digest;
  for (const auto& [name, tensor] : tensors) {
    digest.add(name);
    digest.add(dtype_name(tensor.dtype));
    digest.add(shape_text(tensor.shape));
    digest.add(std::string_view(digests.at(name)));
  }
  return digest.hex();
}

std::string weights_digest(const Model& model, ThreadPool& pool) {
  std::map<std::string, std::string> digests;
  std::vector<std::pair<const Tensor*, std::pair<const std::string, std::string>*>> jobs;
  for (const auto& [name, tensor] : model.tensors) jobs.emplace_back(&tensor, &*digests.emplace(name, std::string()).first);
  pool.for_each(static_cast<std::int64_t>(jobs.size()), [&](std::int64_t i) {
    const auto& [tensor, entry] = jobs[static_cast<std::size_t>(i)];
    entry->second = digest_of(decode(*tensor, entry->first).bytes());
  });
  return weights_digest(model.tensors, digests);
}

}  // namespace miq
