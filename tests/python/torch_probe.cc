// What our reader makes of files of torch.save. Only for tests.
//
//   torch_probe dump FILE OUT.json OUT.bin   the tree as JSON, one kind of object a kind of node; the tensors' bytes one
//                                            after another in OUT.bin
//   torch_probe open FILE                    opens the file and says how long that took
//   torch_probe read FILE                    the same, and reads every tensor
//   torch_probe globals FILE                 what the file names, with what unpickling would have done
#include <bit>
#include <chrono>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/pickle_globals.h"
#include "miq/formats/pickle_objects.h"
#include "miq/formats/torch_file.h"

namespace miq {
namespace {

class Dump {
 public:
  Dump(const TorchFile& file, std::ostream& bytes) : file_(file), tree_(file.tree()), bytes_(bytes) {}

  Json value(NodeId node) {
    switch (tree_.kind(node)) {
      case NodeKind::None: return nullptr;
      case NodeKind::Bool: return tree_.boolean(node);
      case NodeKind::Int: return {{"int", tree_.integer(node)}};
      case NodeKind::BigInt: return {{"bigint", tree_.real(node)}};
      case NodeKind::Float: return {{"float", std::to_string(std::bit_cast<std::uint64_t>(tree_.real(node)))}};
      case NodeKind::String: return {{"str", std::string(tree_.text(node))}};
      case NodeKind::Global: return {{"global", tree_.global(node)->full_name()}};
      case NodeKind::Persistent: return {{"storage", true}};
      default: break;
    }
    if (const auto bytes = as_bytes(tree_, node)) return {{"bytes", hex(*bytes)}};
    for (const NodeId open : path_) {
      if (open == node) return {{"cycle", true}};
    }
    path_.push_back(node);
    Json result = composed(node);
    path_.pop_back();
    return result;
  }

 private:
  static std::string hex(std::string_view bytes) {
    std::string text;
    for (const char c : bytes) {
      text += "0123456789abcdef"[static_cast<std::uint8_t>(c) >> 4];
      text += "0123456789abcdef"[c & 15];
    }
    return text;
  }

  Json array(std::span<const NodeId> items) {
    Json result = Json::array();
    for (const NodeId item : items) result.push_back(value(item));
    return result;
  }

  Json pairs(const std::vector<std::pair<NodeId, NodeId>>& items) {
    Json result = Json::array();
    for (const auto& [key, item] : items) result.push_back({value(key), value(item)});
    return result;
  }

  Json tensor(const TorchTensor& tensor) {
    const Tensor read = file_.read(tensor, "t");
    const Blob data = decode(read, "t");
    Json result{{"tensor", dtype_name(tensor.dtype)}, {"shape", tensor.shape},        {"key", tensor.key}, {"offset", tensor.offset},
                {"parameter", tensor.parameter},      {"grad", tensor.requires_grad}, {"begin", at_},      {"bytes", data.size()}};
    bytes_.write(data.text().data(), static_cast<std::streamsize>(data.size()));
    at_ += data.size();
    return result;
  }

  Json composed(NodeId node) {
    if (const auto found = file_.tensor(node)) return tensor(*found);
    switch (tree_.kind(node)) {
      case NodeKind::Tuple: return {{"tuple", array(tree_.items(node))}};
      case NodeKind::List: return {{"list", array(tree_.items(node))}};
      case NodeKind::Set: return {{"set", array(tree_.items(node))}};
      default: break;
    }
    if (is_dict(tree_, node)) return {{"dict", pairs(dict_items(tree_, node))}};
    if (is_call_of(tree_, node, "torch", "Size")) return {{"tuple", array(elements(tree_, node))}};
    if (is_call_of(tree_, node, "builtins", "set") || is_call_of(tree_, node, "builtins", "frozenset"))
      return {{"set", array(elements(tree_, node))}};
    Json attributes_of = Json::object();
    for (const auto& [name, item] : attributes(tree_, node)) attributes_of[std::string(name)] = value(item);
    return {{"object", class_of(tree_, node)}, {"attributes", attributes_of}, {"args", array(tree_.items(tree_.args(node)))}};
  }

  const TorchFile& file_;
  const PickleTree& tree_;
  std::ostream& bytes_;
  std::uint64_t at_ = 0;
  std::vector<NodeId> path_;
};

int dump(const std::string& path, const std::string& json, const std::string& bytes) {
  const TorchFile file = open_torch_file(path);
  std::ofstream data(bytes, std::ios::binary), text(json);
  text << Dump(file, data).value(file.root());
  return data.flush() && text.flush() ? 0 : 1;
}

int time_open(const std::string& path, bool read) {
  const auto start = std::chrono::steady_clock::now();
  const TorchFile file = open_torch_file(path);
  std::uint64_t tensors = 0, bytes = 0, sum = 0;
  for (NodeId node = 0; node < file.tree().size() && read; ++node) {
    if (const auto tensor = file.tensor(node)) {
      const Blob data = decode(file.read(*tensor, "t"), "t");
      ++tensors;
      bytes += data.size();
      for (std::size_t i = 0; i < data.size(); i += 4096) sum += data.bytes()[i];
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::cout << seconds.count() << " s, " << file.tree().size() << " nodes, " << file.storage_count() << " storages of "
            << file.storage_bytes() << " bytes, " << tensors << " tensors of " << bytes << " bytes, " << sum << '\n';
  return 0;
}

int globals(const std::string& path) {
  const TorchFile file = open_torch_file(path);
  for (const PickleGlobal& global : file.tree().globals()) {
    std::cout << global.full_name() << ": " << risk_name(global_risk(global.module, global.name)) << ", named " << global.named
              << ", called " << global.called << ", instantiated " << global.instantiated << ", first at " << global.first_offset << '\n';
  }
  return 0;
}

}  // namespace
}  // namespace miq

int main(int count, char** words) {
  const std::string mode = count > 1 ? words[1] : "";
  try {
    if (mode == "dump" && count == 5) return miq::dump(words[2], words[3], words[4]);
    if ((mode == "open" || mode == "read") && count == 3) return miq::time_open(words[2], mode == "read");
    if (mode == "globals" && count == 3) return miq::globals(words[2]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  std::cerr << "usage: torch_probe dump FILE OUT.json OUT.bin | open FILE | read FILE | globals FILE\n";
  return 2;
}
