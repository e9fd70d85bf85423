// Names are changed only where the result is certain: every tensor must carry the wrapper's prefix, or the
// embedding must be there under its name without the base model's prefix, as AutoModel saves it.
// Facts: transformers modeling_utils.py (base_model_prefix, tied weights), torch DataParallel ("module."),
// torch.compile ("_orig_mod.").
#include "miq/converters/assemble.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "miq/base/error.h"
#include "miq/model/architecture.h"

namespace miq {
namespace {

void rename_all(std::map<std::string, Tensor>& tensors, const auto& new_name) {
  std::map<std::string, Tensor> renamed;
  for (auto& [name, tensor] : tensors) renamed.emplace(new_name(name), std::move(tensor));
  tensors = std::move(renamed);
}

void take_wrappers_off(std::map<std::string, Tensor>& tensors) {
  static constexpr std::array<std::string_view, 2> kWrappers{"module.", "_orig_mod."};
  for (std::string_view wrapper : kWrappers) {
    const bool everywhere = !tensors.empty() && std::ranges::all_of(tensors, [&](const auto& entry) { return entry.first.starts_with(wrapper); });
    if (everywhere) rename_all(tensors, [&](const std::string& name) { return name.substr(wrapper.size()); });
  }
}

void put_base_prefix_on(const Architecture& row, std::map<std::string, Tensor>& tensors) {
  const std::string_view embedding = global_name(row, Role::Embedding);
  const std::string_view prefix = embedding.substr(0, embedding.find('.') + 1);
  const bool bare = !prefix.empty() && tensors.contains(std::string(embedding.substr(prefix.size()))) &&
                    std::ranges::none_of(tensors, [&](const auto& entry) { return entry.first.starts_with(prefix); });
  if (!bare) return;
  rename_all(tensors, [&](const std::string& name) {
    const bool of_head = name == global_name(row, Role::Head) || name == global_name(row, Role::Head, true);
    return of_head ? name : std::string(prefix) + name;
  });
}

bool same_elements(const Tensor& a, const Tensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && std::ranges::equal(decode(a, "").bytes(), decode(b, "").bytes());
}

// A tied head may be stored all the same, or in place of the embedding (safetensors' save_model keeps one of
// two shared tensors): once is enough, but two must really be the same.
void drop_tied_head(Model& model, const std::string& where) {
  const Architecture& row = architecture(model.config.architecture);
  if (!model.config.tied_head) return;
  const auto head = model.tensors.find(std::string(global_name(row, Role::Head)));
  if (head == model.tensors.end()) return;
  const std::string embedding_name(global_name(row, Role::Embedding));
  const auto embedding = model.tensors.find(embedding_name);
  if (embedding == model.tensors.end()) {
    model.tensors.emplace(embedding_name, head->second);
  } else if (!same_elements(head->second, embedding->second)) {
    throw FormatError(where, "the config ties the head to the embedding, but '" + head->first + "' differs from it", "Set tie_word_embeddings to false in a copy of config.json to use the stored head");
  }
  model.tensors.erase(head);
}

// Rows of the layer's tensor with this role (of its first expert, where there are experts); 0 where there is none.
std::int64_t rows_of(const Model& model, const Architecture& row, std::int64_t layer, Role role) {
  const std::string_view name = rule_name(row, role);
  if (name.empty()) return 0;
  const auto found = model.tensors.find(layer_tensor_name(row, layer, expert_name(name, 0)));
  return found == model.tensors.end() || found->second.shape.size() != 2 ? 0 : found->second.shape[0];
}

void set_sizes_from_tensors(Model& model, const std::string& where) {
  const Architecture& row = architecture(model.config.architecture);
  for (std::size_t i = 0; i < model.config.layers.size(); ++i) {
    LayerConfig& layer = model.config.layers[i];
    const auto number = static_cast<std::int64_t>(i);
    const auto set_heads = [&](std::int64_t& heads, Role role, const char* what) {
      const std::int64_t rows = rows_of(model, row, number, role);
      if (rows % layer.head_dim != 0) {
        throw FormatError(where, "layer " + std::to_string(i) + ": the " + what + " projection has " + std::to_string(rows) +
                                     " rows, no multiple of the head dimension " + std::to_string(layer.head_dim));
      }
      if (rows > 0) heads = rows / layer.head_dim;
    };
    set_heads(layer.heads, Role::Query, "query");
    set_heads(layer.kv_heads, Role::Key, "key");
    if (const std::int64_t rows = rows_of(model, row, number, layer.experts > 0 ? Role::ExpertUp : Role::Up)) layer.mlp_width = rows;
    check_layer(model.config, layer, where + " (layer " + std::to_string(i) + ")");
  }
}

void apply_stated_layers(Model& model, const CheckpointParts& parts) {
  for (const auto& [number, layer] : parts.layers) {
    if (number < 0 || number >= static_cast<std::int64_t>(model.config.layers.size())) {
      throw FormatError(parts.where, "layer " + std::to_string(number) + " is described, but the config has " + std::to_string(model.config.layers.size()) + " layers");
    }
    model.config.layers[static_cast<std::size_t>(number)] = layer;
  }
}

}  // namespace

Model assemble_model(CheckpointParts parts) {
  Model model;
  model.name = std::move(parts.name);
  model.config = config_from_hugging_face(parts.config, parts.config_where, &model.warnings);
  const bool read_as_llama = !model.warnings.empty();
  model.files = std::move(parts.files);
  model.tokenizer = load_tokenizer(model.files, parts.where);
  model.tensors = std::move(parts.tensors);
  model.source = std::move(parts.source);

  const Architecture& row = architecture(model.config.architecture);
  take_wrappers_off(model.tensors);
  std::erase_if(model.tensors, [&](const auto& entry) {
    return std::ranges::any_of(row.ignored, [&](std::string_view suffix) { return entry.first.ends_with(suffix); });
  });
  put_base_prefix_on(row, model.tensors);
  if (parts.adjust) parts.adjust(model.config, model.tensors);
  drop_tied_head(model, parts.where);
  if (parts.sizes_from_tensors) set_sizes_from_tensors(model, parts.where);
  apply_stated_layers(model, parts);
  try {
    validate(model, parts.where);
  } catch (const Error& error) {
    if (!read_as_llama) throw;
    throw Error("The model type '" + parts.config.value("model_type", "") + "' is not known, and its tensors are not llama's: " + error.what());
  }
  return model;
}

}  // namespace miq
