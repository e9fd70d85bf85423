// Tensor names are those of llama.cpp's gguf-py (constants.py); they say what a tensor does, and the row of
// architecture.h that has this role says its name here. The converter of "llama" models reorders the rows of
// every head of q and k so that the pairs of the rotation lie side by side (convert_hf_to_gguf.py,
// LlamaModel.permute): pair j of a head is rows 2j and 2j+1 there, rows j and j + head_dim/2 here. The
// matrices of all experts lie in one tensor [experts, out, in], or in older files each in its own.
#include "miq/converters/gguf_model.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "miq/base/error.h"
#include "miq/converters/gguf_config.h"
#include "miq/formats/gguf.h"
#include "miq/formats/mapped_file.h"
#include "miq/model/architecture.h"
#include "miq/model/gguf_tokenizer.h"

namespace miq {
namespace {

static_assert(std::endian::native == std::endian::little, "stored tensors are little-endian and used in place");

struct RoleName {
  std::string_view gguf;
  Role role;
  bool bias = false;
};
constexpr RoleName kGlobalNames[] = {
    {"token_embd.weight", Role::Embedding}, {"output_norm.weight", Role::FinalNorm}, {"output.weight", Role::Head}};
constexpr RoleName kLayerNames[] = {
    {"attn_norm.weight", Role::InputNorm},          {"attn_q.weight", Role::Query},
    {"attn_q.bias", Role::Query, true},             {"attn_k.weight", Role::Key},
    {"attn_k.bias", Role::Key, true},               {"attn_v.weight", Role::Value},
    {"attn_v.bias", Role::Value, true},             {"attn_q_norm.weight", Role::QueryNorm},
    {"attn_k_norm.weight", Role::KeyNorm},          {"attn_output.weight", Role::AttentionOutput},
    {"attn_output.bias", Role::AttentionOutput, true}, {"ffn_norm.weight", Role::MlpNorm},
    {"ffn_gate.weight", Role::Gate},                {"ffn_up.weight", Role::Up},
    {"ffn_down.weight", Role::Down},                {"ffn_gate_inp.weight", Role::Router},
    {"ffn_gate_exps.weight", Role::ExpertGate},     {"ffn_up_exps.weight", Role::ExpertUp},
    {"ffn_down_exps.weight", Role::ExpertDown},     {"ffn_gate_inp_shexp.weight", Role::SharedRouter},
    {"ffn_gate_shexp.weight", Role::SharedGate},    {"ffn_up_shexp.weight", Role::SharedUp},
    {"ffn_down_shexp.weight", Role::SharedDown}};

// Used up by the config.
constexpr std::string_view kNotWeights[] = {"rope_freqs.weight"};

// Where a GGUF tensor belongs.
struct Place {
  std::int64_t layer = -1;
  Role role = Role::Embedding;
  bool bias = false;
  std::int64_t expert = -1;  // of a tensor for one expert
  std::string name;          // ours, "{}" left in
  bool merged() const { return expert < 0 && name.find("{}") != std::string::npos; }
};

// The number between `from` and the next dot, which `end` then is; -1 where there is none below `limit`.
std::int64_t number_at(const std::string& name, std::size_t from, std::size_t& end, std::int64_t limit) {
  end = name.find('.', from);
  if (end == std::string::npos || end == from || end - from > 6) return -1;
  std::int64_t number = 0;
  for (std::size_t i = from; i < end; ++i) {
    if (name[i] < '0' || name[i] > '9') return -1;
    number = number * 10 + (name[i] - '0');
  }
  return number < limit ? number : -1;
}

std::optional<Place> place_of(const std::string& name, const Config& config) {
  const Architecture& row = architecture(config.architecture);
  Place place;
  for (const RoleName& known : kGlobalNames) {
    if (name != known.gguf) continue;
    place.role = known.role;
    place.name = global_name(row, known.role);
    return place;
  }
  std::size_t dot = 0;
  if (!name.starts_with("blk.")) return std::nullopt;
  place.layer = number_at(name, 4, dot, static_cast<std::int64_t>(config.layers.size()));
  if (place.layer < 0) return std::nullopt;
  std::string rest = name.substr(dot + 1);
  for (const std::string_view old : {"ffn_gate.", "ffn_up.", "ffn_down."}) {  // "ffn_gate.3.weight": expert 3
    std::size_t end = 0;
    if (!rest.starts_with(old)) continue;
    place.expert = number_at(rest, old.size(), end, config.layers[static_cast<std::size_t>(place.layer)].experts);
    if (place.expert >= 0) rest = rest.substr(0, old.size() - 1) + "_exps" + rest.substr(end);
    break;
  }
  for (const RoleName& known : kLayerNames) {
    if (rest != known.gguf) continue;
    place.role = known.role;
    place.bias = known.bias;
    place.name = rule_name(row, known.role, known.bias);
    if (place.name.empty()) return std::nullopt;
    return place;
  }
  return std::nullopt;
}

// Rows of each head from interleaved pairs to halves. REQUIRES rows % (2 * heads) == 0.
std::vector<std::uint8_t> rows_by_halves(Bytes bytes, std::int64_t rows, std::int64_t heads) {
  std::vector<std::uint8_t> ordered(bytes.size());
  const std::size_t row = bytes.size() / static_cast<std::size_t>(rows);
  const std::int64_t dim = rows / heads, half = dim / 2;
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t j = 0; j < dim; ++j) {
      const std::int64_t from = head * dim + (j % half) * 2 + j / half;
      std::memcpy(&ordered[static_cast<std::size_t>(head * dim + j) * row], &bytes[static_cast<std::size_t>(from) * row], row);
    }
  }
  return ordered;
}

// Rows are whole blocks, so both of these move bytes only. A GGUF tensor has one section.
Tensor in_our_order(Tensor tensor, std::int64_t heads, const std::string& label) {
  if (heads == 0) return tensor;
  const std::int64_t rows = tensor.shape.empty() ? 0 : tensor.shape[0];
  if (rows == 0 || rows % (2 * heads) != 0) throw Error(label + ": rows do not divide into " + std::to_string(heads) + " heads");
  Blob& data = tensor.sections.begin()->second;
  data = Blob(rows_by_halves(data.bytes(), rows, heads));
  return tensor;
}

// One expert's matrix of [experts, out, in].
Tensor expert_of(const Tensor& all, std::int64_t expert) {
  Tensor tensor = all;
  Blob& data = tensor.sections.begin()->second;
  const std::size_t bytes = data.size() / static_cast<std::size_t>(all.shape[0]);
  data = data.slice(static_cast<std::size_t>(expert) * bytes, bytes);
  tensor.shape.erase(tensor.shape.begin());
  return tensor;
}

// Parts are NAME-00001-of-00003.gguf; any of them may be given.
GgufFile open_all_parts(const std::string& path) {
  GgufFile file = open_gguf(path);
  const auto count_of = [](const GgufFile& part) -> std::uint64_t {
    const auto found = part.metadata.find("split.count");
    if (found == part.metadata.end()) return 1;
    if (const auto* whole = std::get_if<std::uint64_t>(&found->second)) return *whole;
    if (const auto* whole = std::get_if<std::int64_t>(&found->second)) return *whole < 0 ? 0 : static_cast<std::uint64_t>(*whole);
    return 0;
  };
  const std::uint64_t count = count_of(file);
  if (count == 1) return file;
  if (count == 0 || count > 99'999) throw FormatError(path, "metadata key 'split.count' is not a number of parts");
  const auto digits = [](std::uint64_t number) { return std::string(5 - std::to_string(number).size(), '0') + std::to_string(number); };
  const std::string ending = "-of-" + digits(count) + ".gguf";
  if (!path.ends_with(ending) || path.size() < ending.size() + 6) {
    throw FormatError(path, "the file is one of " + std::to_string(count) + " parts, but its name does not end in -NNNNN" + ending,
                      "Give all parts the names that llama.cpp gave them");
  }
  const std::string stem = path.substr(0, path.size() - ending.size() - 5);
  GgufFile all;
  for (std::uint64_t number = 1; number <= count; ++number) {
    const std::string name = stem + digits(number) + ending;
    if (!std::filesystem::is_regular_file(name)) throw FormatError(path, "part '" + std::filesystem::path(name).filename().string() + "' is missing beside it", "Download all parts");
    GgufFile part = open_gguf(name);
    if (count_of(part) != count) throw FormatError(name, "the part says that there are " + std::to_string(count_of(part)) + " parts, its name says " + std::to_string(count));
    if (number == 1) all.metadata = std::move(part.metadata);
    for (auto& [tensor_name, tensor] : part.tensors) {
      if (!all.tensors.emplace(tensor_name, std::move(tensor)).second) throw FormatError(name, "tensor '" + tensor_name + "' is in another part too");
    }
  }
  return all;
}

struct Job {
  const GgufTensor* source;
  std::string label;
  std::int64_t heads;            // 0: rows are in order
  bool merged;                   // one target for each expert
  std::vector<Tensor*> targets;
};

Job make_job(const std::string& name, const GgufTensor& tensor, bool interleaved, const std::string& path, Model& model) {
  const auto place = place_of(name, model.config);
  if (!place) throw FormatError(path, "tensor '" + name + "' has no place in a " + model.config.architecture + " model");
  Job job{&tensor, path + ": tensor '" + name + "'", 0, place->merged(), {}};
  if (place->layer < 0) {
    job.targets = {&model.tensors[place->name]};
    return job;
  }
  const Architecture& row = architecture(model.config.architecture);
  const LayerConfig& layer = model.config.layers[static_cast<std::size_t>(place->layer)];
  if (interleaved && place->role == Role::Query) job.heads = layer.heads;
  if (interleaved && place->role == Role::Key) job.heads = layer.kv_heads;
  if (job.merged && (tensor.shape.size() != 3 || tensor.shape[0] != layer.experts || layer.experts == 0)) {
    throw Error(job.label + ": expected the matrices of " + std::to_string(layer.experts) + " experts");
  }
  for (std::int64_t expert = job.merged ? 0 : place->expert; expert < (job.merged ? layer.experts : place->expert + 1); ++expert) {
    job.targets.push_back(&model.tensors[layer_tensor_name(row, place->layer, expert_name(place->name, expert))]);
  }
  return job;
}

}  // namespace

bool is_gguf(const std::string& path) {
  if (!std::filesystem::is_regular_file(path)) return false;
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, 4);
  return std::string_view(magic, 4) == "GGUF";
}

Model open_gguf_model(const std::string& path, const ScratchFolder* scratch) {
  const GgufFile file = open_all_parts(path);
  Model model;
  const auto name = file.metadata.find("general.name");
  const auto* text = name == file.metadata.end() ? nullptr : std::get_if<std::string>(&name->second);
  model.name = text ? *text : std::filesystem::path(path).stem().string();
  model.config = gguf_config(file, path);
  if (const std::string tokenizer = gguf_tokenizer_json(file.metadata, path); !tokenizer.empty()) {
    model.files[std::string(kGgufTokenizerFile)] = Blob(std::string_view(tokenizer));
  }
  model.tokenizer = load_tokenizer(model.files, path);

  const bool interleaved = gguf_interleaves_rotary_rows(file);
  std::vector<Job> jobs;
  for (const auto& [tensor_name, tensor] : file.tensors) {
    if (std::ranges::find(kNotWeights, tensor_name) == std::end(kNotWeights)) jobs.push_back(make_job(tensor_name, tensor, interleaved, path, model));
  }
  ThreadPool pool;
  pool.for_each(static_cast<std::int64_t>(jobs.size()), [&](std::int64_t i) {
    const Job& job = jobs[static_cast<std::size_t>(i)];
    Tensor tensor = in_our_order(gguf_stored(*job.source, job.label), job.heads, job.label);
    if (scratch && job.heads > 0) tensor = moved_to(*scratch, std::move(tensor));
    if (!job.merged) {
      *job.targets.front() = std::move(tensor);
      return;
    }
    for (std::size_t expert = 0; expert < job.targets.size(); ++expert) *job.targets[expert] = expert_of(tensor, static_cast<std::int64_t>(expert));
  });
  check_layer_count(model, path);
  // The shared expert's router is one row, which llama.cpp stores as a vector.
  for (const ExpectedTensor& expected : expected_tensors(model.config)) {
    const auto found = model.tensors.find(expected.name);
    if (expected.role == Role::SharedRouter && found != model.tensors.end() && found->second.shape == Shape{model.config.hidden}) found->second.shape = expected.shape;
  }
  model.source = {{"format", "gguf"}};
  return model;
}

}  // namespace miq
