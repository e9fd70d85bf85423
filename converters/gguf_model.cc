// The metadata keys and tensor names are those of llama.cpp's gguf-py (constants.py) for architecture
// "llama". Its converter reorders the rows of every head of q and k so that the pairs of the rotation
// lie side by side (convert_hf_to_gguf.py, LlamaModel.permute): pair j of a head is rows 2j and 2j+1
// there, rows j and j + head_dim/2 here.
#include "miq/converters/gguf_model.h"

#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "miq/base/error.h"
#include "miq/formats/gguf.h"
#include "miq/formats/mapped_file.h"
#include "miq/model/architecture.h"
#include "miq/model/gguf_tokenizer.h"

namespace miq {
namespace {

static_assert(std::endian::native == std::endian::little, "stored tensors are little-endian and used in place");

// Typed access to the metadata, with errors that name the file and the key.
class Metadata {
 public:
  Metadata(const GgufFile& file, const std::string& path) : values_(file.metadata), path_(path) {}

  bool has(const std::string& key) const { return values_.contains(key); }
  std::string text(const std::string& key) const {
    if (const auto* value = std::get_if<std::string>(&at(key))) return *value;
    throw FormatError(path_, "metadata key '" + key + "' is not a string");
  }
  std::int64_t size(const std::string& key) const {
    const GgufValue& value = at(key);
    std::uint64_t number = 0;
    if (const auto* whole = std::get_if<std::uint64_t>(&value)) number = *whole;
    if (const auto* whole = std::get_if<std::int64_t>(&value)) number = *whole > 0 ? static_cast<std::uint64_t>(*whole) : 0;
    if (number == 0 || number > std::uint64_t{1} << 32) throw FormatError(path_, "metadata key '" + key + "' is not a size between 1 and 2^32");
    return static_cast<std::int64_t>(number);
  }
  double number(const std::string& key) const {
    const GgufValue& value = at(key);
    if (const auto* real = std::get_if<double>(&value); real && *real > 0 && *real < std::numeric_limits<double>::infinity()) return *real;
    throw FormatError(path_, "metadata key '" + key + "' is not a positive number");
  }
  std::optional<std::int64_t> id(const std::string& key) const {
    if (!has(key)) return std::nullopt;
    if (const auto* whole = std::get_if<std::uint64_t>(&at(key)); whole && *whole < std::uint64_t{1} << 31) return static_cast<std::int64_t>(*whole);
    return std::nullopt;
  }

 private:
  const GgufValue& at(const std::string& key) const {
    const auto found = values_.find(key);
    if (found == values_.end()) throw FormatError(path_, "metadata key '" + key + "' is missing");
    return found->second;
  }
  const std::map<std::string, GgufValue>& values_;
  const std::string& path_;
};

Config read_config(const Metadata& metadata, const GgufFile& file, const std::string& path) {
  const std::string type = metadata.text("general.architecture");
  if (type != "llama") throw FormatError(path, "GGUF architecture '" + type + "' is not supported; supported: llama");
  if (metadata.has("llama.expert_count") && metadata.size("llama.expert_count") > 1) throw FormatError(path, "mixtures of experts are not supported");
  if (file.tensors.contains("rope_freqs.weight")) {
    throw FormatError(path, "the file scales its rotary positions by a table (rope_freqs.weight), which is not supported", "Convert the original Hugging Face folder instead");
  }
  Config config;
  config.architecture = "llama";
  config.hidden = metadata.size("llama.embedding_length");
  config.max_positions = metadata.size("llama.context_length");
  config.norm_epsilon = metadata.number("llama.attention.layer_norm_rms_epsilon");
  if (metadata.has("llama.rope.freq_base")) config.rope_theta = metadata.number("llama.rope.freq_base");
  if (metadata.has("llama.rope.scaling.type")) {
    const std::string scaling = metadata.text("llama.rope.scaling.type");
    if (scaling == "linear") {
      config.rope_scaling.kind = RopeScaling::Kind::Linear;
      config.rope_scaling.factor = metadata.number("llama.rope.scaling.factor");
    } else if (scaling != "none") {
      throw FormatError(path, "rope scaling '" + scaling + "' is not supported; supported: none, linear");
    }
  }
  LayerConfig layer;
  layer.heads = metadata.size("llama.attention.head_count");
  layer.kv_heads = metadata.has("llama.attention.head_count_kv") ? metadata.size("llama.attention.head_count_kv") : layer.heads;
  layer.head_dim = metadata.has("llama.attention.key_length") ? metadata.size("llama.attention.key_length") : config.hidden / layer.heads;
  layer.mlp_width = metadata.size("llama.feed_forward_length");
  if (layer.head_dim % 2 != 0 || layer.head_dim == 0 || layer.heads % layer.kv_heads != 0) throw FormatError(path, "odd head dimension, or heads no multiple of key/value heads");
  if (metadata.has("llama.rope.dimension_count") && metadata.size("llama.rope.dimension_count") != layer.head_dim) {
    throw FormatError(path, "only a part of each head is rotated (llama.rope.dimension_count), which is not supported");
  }
  const std::int64_t layers = metadata.size("llama.block_count");
  if (layers > 100'000) throw FormatError(path, std::to_string(layers) + " layers are more than any model has");
  config.layers.assign(static_cast<std::size_t>(layers), layer);

  const auto embedding = file.tensors.find("token_embd.weight");
  if (embedding == file.tensors.end() || embedding->second.shape.size() != 2) throw FormatError(path, "tensor 'token_embd.weight' is missing or no matrix");
  config.vocabulary = embedding->second.shape[0];
  config.tied_head = !file.tensors.contains("output.weight");
  config.bos_id = metadata.id("tokenizer.ggml.bos_token_id");
  config.eos_id = metadata.id("tokenizer.ggml.eos_token_id");
  return config;
}

struct NamePair {
  std::string_view gguf, ours;
};
constexpr NamePair kGlobalNames[] = {
    {"token_embd.weight", "model.embed_tokens.weight"}, {"output_norm.weight", "model.norm.weight"}, {"output.weight", "lm_head.weight"}};
constexpr NamePair kLayerNames[] = {
    {"attn_norm.weight", "input_layernorm.weight"},    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},      {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"}, {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},       {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"}};

// Our name for a GGUF tensor, or empty. Sets `heads` for tensors whose rows must be put back in order.
std::string our_name(const std::string& name, const Config& config, std::int64_t& heads) {
  heads = 0;
  for (const NamePair& pair : kGlobalNames) {
    if (name == pair.gguf) return std::string(pair.ours);
  }
  const auto dot = name.find('.', 4);
  if (!name.starts_with("blk.") || dot == std::string::npos || dot == 4 || dot > 10) return {};
  std::size_t layer = 0;
  for (char digit : name.substr(4, dot - 4)) {
    if (digit < '0' || digit > '9') return {};
    layer = layer * 10 + static_cast<std::size_t>(digit - '0');
  }
  if (layer >= config.layers.size()) return {};
  for (const NamePair& pair : kLayerNames) {
    if (name.substr(dot + 1) != pair.gguf) continue;
    if (pair.gguf == "attn_q.weight") heads = config.layers[layer].heads;
    if (pair.gguf == "attn_k.weight") heads = config.layers[layer].kv_heads;
    return layer_tensor_name(architecture(config.architecture), static_cast<std::int64_t>(layer), pair.ours);
  }
  return {};
}

// Rows of each head from interleaved pairs to halves. REQUIRES rows % (2 * heads) == 0.
std::vector<float> rows_by_halves(const std::vector<float>& values, std::int64_t rows, std::int64_t columns, std::int64_t heads) {
  std::vector<float> ordered(values.size());
  const std::int64_t dim = rows / heads, half = dim / 2;
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t j = 0; j < dim; ++j) {
      const std::int64_t from = head * dim + (j % half) * 2 + j / half;
      std::memcpy(&ordered[static_cast<std::size_t>((head * dim + j) * columns)], &values[static_cast<std::size_t>(from * columns)],
                  static_cast<std::size_t>(columns) * sizeof(float));
    }
  }
  return ordered;
}

Tensor decode_tensor(const GgufTensor& tensor, const std::string& label, std::int64_t heads) {
  auto values = std::make_shared<std::vector<float>>(dequantize_gguf(tensor, label));
  if (heads > 0) {
    if (tensor.shape.size() != 2 || tensor.shape[0] % (2 * heads) != 0) throw Error(label + ": rows do not divide into " + std::to_string(heads) + " heads");
    *values = rows_by_halves(*values, tensor.shape[0], tensor.shape[1], heads);
  }
  const Bytes bytes(reinterpret_cast<const std::uint8_t*>(values->data()), values->size() * sizeof(float));
  return dense_tensor(DType::F32, tensor.shape, Blob(std::move(values), bytes));
}

}  // namespace

bool is_gguf(const std::string& path) {
  if (!std::filesystem::is_regular_file(path)) return false;
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, 4);
  return std::string_view(magic, 4) == "GGUF";
}

Model open_gguf_model(const std::string& path) {
  const GgufFile file = open_gguf(path);
  const Metadata metadata(file, path);
  Model model;
  model.name = metadata.has("general.name") ? metadata.text("general.name") : std::filesystem::path(path).stem().string();
  model.config = read_config(metadata, file, path);
  model.files["tokenizer.gguf.json"] = Blob(gguf_tokenizer_json(file.metadata));
  model.tokenizer = load_tokenizer(model.files, path);

  struct Job {
    const GgufTensor* source;
    std::string label;
    std::int64_t heads;
    Tensor* target;
  };
  std::vector<Job> jobs;
  for (const auto& [name, tensor] : file.tensors) {
    std::int64_t heads = 0;
    const std::string ours = our_name(name, model.config, heads);
    if (ours.empty()) throw FormatError(path, "tensor '" + name + "' has no place in a llama model");
    jobs.push_back({&tensor, path + ": tensor '" + name + "'", heads, &model.tensors[ours]});
  }
  ThreadPool pool;
  pool.for_each(static_cast<std::int64_t>(jobs.size()), [&](std::int64_t i) {
    const Job& job = jobs[static_cast<std::size_t>(i)];
    *job.target = decode_tensor(*job.source, job.label, job.heads);
  });
  model.source = {{"format", "gguf"}};
  return model;
}

}  // namespace miq
