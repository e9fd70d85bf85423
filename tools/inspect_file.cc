// Kinds are told by the first bytes, as the converters do it.
#include "miq/tools/inspect_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "miq/base/error.h"
#include "miq/evaluate/report.h"
#include "miq/formats/gguf.h"
#include "miq/formats/pickle_globals.h"
#include "miq/formats/pickle_objects.h"
#include "miq/formats/safetensors.h"
#include "miq/formats/torch_file.h"
#include "miq/tools/inspect_model.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

std::vector<std::uint8_t> start_of(const std::string& path) {
  std::vector<std::uint8_t> start(64);
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(start.data()), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<std::size_t>(std::max<std::streamsize>(0, file.gcount())));
  return start;
}

bool is_torch_file(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return false;
  const auto start = start_of(path.string());
  return looks_like_torch_file(start);
}

std::vector<std::string> torch_files(const std::string& path) {
  if (!fs::is_directory(path)) return is_torch_file(path) ? std::vector<std::string>{path} : std::vector<std::string>{};
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors")) return {};
    if ((name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth")) && is_torch_file(entry.path())) files.push_back(entry.path().string());
  }
  std::ranges::sort(files);
  return files;
}

const char* container_name(TorchContainer container) {
  switch (container) {
    case TorchContainer::Zip: return "zip";
    case TorchContainer::Legacy: return "legacy";
    case TorchContainer::BarePickle: return "pickle";
  }
  return "";
}

Json facts_of(const std::string& path) {
  Json facts{{"file", fs::path(path).filename().string()}};
  try {
    const TorchFile file = open_torch_file(path);
    Json globals = Json::array();
    std::uint64_t risky = 0;
    for (const PickleGlobal& global : file.tree().globals()) {
      const GlobalRisk risk = global_risk(global.module, global.name);
      risky += risk != GlobalRisk::Harmless;
      globals.push_back({{"name", global.full_name()},
                         {"risk", risk_name(risk)},
                         {"named", global.named},
                         {"called", global.called},
                         {"instantiated", global.instantiated},
                         {"offset", global.first_offset}});
    }
    facts.update({{"container", container_name(file.container())},
                  {"storages", file.storage_count()},
                  {"storage_bytes", file.storage_bytes()},
                  {"globals", std::move(globals)},
                  {"would_run_code", risky},
                  {"indirect_calls", file.tree().indirect_calls()}});
  } catch (const Error& error) {
    facts["error"] = error.what();
  }
  return facts;
}

Json tensor_json(const std::string& name, const std::string& dtype, const Shape& shape, std::uint64_t bytes) {
  return {{"name", name}, {"dtype", dtype}, {"shape", shape}, {"bytes", bytes}};
}

Json safetensors_listing(const std::string& path) {
  const SafetensorsFile file = open_safetensors(path);
  Json tensors = Json::array(), metadata = Json::object();
  for (const auto& [name, entry] : file.entries) tensors.push_back(tensor_json(name, std::string(dtype_name(entry.dtype)), entry.shape, entry.end - entry.begin));
  for (const auto& [key, value] : file.metadata) metadata[key] = value;
  return {{"kind", "safetensors file"}, {"tensors", std::move(tensors)}, {"metadata", std::move(metadata)}};
}

Json gguf_listing(const std::string& path) {
  const GgufFile file = open_gguf(path);
  Json tensors = Json::array(), metadata = Json::object();
  for (const auto& [name, tensor] : file.tensors) tensors.push_back(tensor_json(name, ggml_type_name(tensor.type), tensor.shape, tensor.data.size()));
  for (const auto& [key, value] : file.metadata) {
    metadata[key] = std::visit(
        [](const auto& content) -> Json {
          using T = std::decay_t<decltype(content)>;
          if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) return content;
          else return "list of " + std::to_string(content.size());
        },
        value);
  }
  return {{"kind", "GGUF file of llama.cpp"}, {"tensors", std::move(tensors)}, {"metadata", std::move(metadata)}};
}

// A pickle's objects for people: tensors as type and shape, dicts and attributes a few levels deep.
class Outline {
 public:
  explicit Outline(const TorchFile& file) : file_(file), tree_(file.tree()) {}

  Json of(NodeId node, int depth = 8) {
    if (budget_ == 0) return "…";
    --budget_;
    if (file_.is_tensor(node)) return tensor(node);
    const auto entries = dict_items(tree_, node);
    const std::string type = class_of(tree_, node);
    const auto members = attributes(tree_, node);
    if (entries.empty() && members.empty()) return plain(node, type, depth);
    if (depth == 0) return type.empty() ? std::to_string(entries.size()) + " entries" : type;
    Json json = Json::object();
    if (!type.empty() && !is_dict(tree_, node)) json["__class__"] = type;
    for (const auto& [key, value] : entries) {
      const auto name = as_string(tree_, key);
      json[name ? std::string(*name) : to_json(tree_, key, {2, 10, 200}).dump(-1, ' ', false, Json::error_handler_t::replace)] = of(value, depth - 1);
    }
    for (const auto& [name, value] : members) {
      // Hooks and torch's own notes say nothing about the model.
      if (name.find("hook") != name.npos || name == "_metadata" || name == "_non_persistent_buffers_set") continue;
      Json entry = of(value, depth - 1);
      if (!entry.is_null() && !(entry.is_object() && entry.empty())) json[std::string(name)] = std::move(entry);
    }
    return json;
  }

 private:
  Json tensor(NodeId node) const {
    try {
      const auto found = file_.tensor(node);
      if (found) return "tensor " + std::string(dtype_name(found->dtype)) + " " + shape_text(found->shape);
    } catch (const Error& error) {
      return std::string("tensor that is not read: ") + error.what();
    }
    return "tensor";
  }
  Json plain(NodeId node, const std::string& type, int depth) {
    const auto items = elements(tree_, node);
    if (items.empty() || depth == 0) return type.empty() ? to_json(tree_, node, {2, 50, 2000}) : Json(type);
    Json list = Json::array();
    for (const NodeId item : items) {
      if (list.size() == 20) return list.push_back("…"), list;
      list.push_back(of(item, depth - 1));
    }
    return list;
  }

  const TorchFile& file_;
  const PickleTree& tree_;
  int budget_ = 5000;
};

Json torch_listing(const std::string& path) {
  const TorchFile file = open_torch_file(path);
  return {{"kind", std::string("PyTorch file (") + container_name(file.container()) + ")"},
          {"contents", Outline(file).of(file.root())}};
}

}  // namespace

Json pickle_facts(const std::string& path) {
  Json list = Json::array();
  for (const std::string& file : torch_files(path)) list.push_back(facts_of(file));
  return list;
}

std::string pickle_text(const Json& facts) {
  std::string text;
  for (const Json& file : facts) {
    const std::string name = printable(file.at("file").get<std::string>());
    if (file.contains("error")) {
      text += "\n" + row("pickle", name + ": " + file["error"].get<std::string>());
      continue;
    }
    const auto risky = file.at("would_run_code").get<std::uint64_t>();
    text += "\n" + row("pickle", name + ": " + file.at("container").get<std::string>() + ", " + file.at("storages").dump() + " storages of " +
                                     bytes_text(file.at("storage_bytes").get<std::uint64_t>()) + ", names " + std::to_string(file.at("globals").size()) + " globals; " +
                                     (risky == 0 ? "none would have run code" : std::to_string(risky) + " would have run code in Python; none ran here"));
    if (file.at("indirect_calls") != 0) text += row("", file["indirect_calls"].dump() + " calls of results of other calls");
    for (const Json& global : file.at("globals")) {
      const std::string risk = global.at("risk");
      const std::string mark = risk == "harmless" ? "  " : risk == "dangerous" ? "!!" : "! ";
      const auto calls = global.at("called").get<std::uint64_t>() + global.at("instantiated").get<std::uint64_t>();
      text += "  " + mark + " " + printable(global.at("name").get<std::string>()) + (calls == 0 ? "  named only" : calls == 1 ? "  called once" : "  called " + std::to_string(calls) + " times") +
              (risk == "harmless" ? "" : "  (" + risk + ", first at byte " + global.at("offset").dump() + ")") + "\n";
    }
  }
  return text;
}

Json file_listing(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return nullptr;
  const auto start = start_of(path);
  if (start.size() >= 4 && std::equal(start.begin(), start.begin() + 4, "GGUF")) return gguf_listing(path);
  if (looks_like_torch_file(start)) return torch_listing(path);
  if (start.size() >= 9 && (start[8] == '{' || start[8] == ' ')) return safetensors_listing(path);
  return nullptr;
}

std::string listing_text(const Json& listing, bool all_tensors) {
  std::string text = row("kind", listing.at("kind").get<std::string>());
  const auto dump = [](const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); };
  if (listing.contains("contents")) {
    text += "contents\n";
    const std::string contents = listing["contents"].dump(1, ' ', false, Json::error_handler_t::replace);
    std::size_t end = 0, lines = 0;
    while (end < contents.size() && (all_tensors || lines < 200)) {
      const std::size_t next = std::min(contents.find('\n', end), contents.size());
      text += printable(contents.substr(end, next - end)).substr(0, 200) + "\n";
      end = next + 1;
      ++lines;
    }
    return text + (end < contents.size() ? "… (--tensors shows the rest)\n" : "");
  }
  std::uint64_t bytes = 0;
  for (const Json& tensor : listing.at("tensors")) bytes += tensor.at("bytes").get<std::uint64_t>();
  text += row("tensors", std::to_string(listing.at("tensors").size()) + ", " + bytes_text(bytes));
  for (const auto& [key, value] : listing.at("metadata").items()) text += row("  " + printable(key), dump(value).substr(0, 200));
  std::size_t shown = 0;
  for (const Json& tensor : listing.at("tensors")) {
    if (!all_tensors && shown++ == 40) return text + "… (--tensors shows all)\n";
    text += "  " + printable(tensor.at("name").get<std::string>()) + "  " + tensor.at("dtype").get<std::string>() + " " + dump(tensor.at("shape")) + "  " +
            bytes_text(tensor.at("bytes").get<std::uint64_t>()) + "\n";
  }
  return text;
}

}  // namespace miq
