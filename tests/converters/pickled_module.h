// Whole modules as torch.save leaves them, assembled by hand: nested nn.Modules from dotted tensor names.
#pragma once

#include <fstream>
#include <map>
#include <string>

#include "miq/formats/json.h"
#include "miq/formats/tensor.h"
#include "tests/formats/pickle_assembler.h"

namespace miq::test {

// Op-codes that put one value on the stack.
using Ops = std::string;

inline Ops text_ops(const std::string& value) { return Pickle::bare().str(value).text; }

inline Ops dict_ops(const std::vector<std::pair<std::string, Ops>>& entries) {
  Ops ops = "}(";
  for (const auto& [key, value] : entries) ops += text_ops(key) + value;
  return ops + "u";
}

inline Ops object_ops(const std::string& module, const std::string& name, const Ops& state) {
  return Pickle::bare().global(module, name).text + ")\x81" + state + "b";
}

inline Ops json_ops(const Json& value) {
  if (value.is_null()) return "N";
  if (value.is_boolean()) return value.get<bool>() ? "\x88" : "\x89";
  if (value.is_number_integer()) return Pickle::bare().wide(value.get<std::int64_t>()).text;
  if (value.is_string()) return text_ops(value.get<std::string>());
  if (value.is_number()) {
    const double number = value.get<double>();
    std::uint64_t bits = 0;
    std::memcpy(&bits, &number, 8);
    std::string big = little(bits, 8);
    return "G" + std::string(big.rbegin(), big.rend());
  }
  std::vector<std::pair<std::string, Ops>> entries;
  for (const auto& [key, entry] : value.items()) entries.emplace_back(key, json_ops(entry));
  return dict_ops(entries);
}

class TorchSketch {
 public:
  std::map<std::string, std::string> classes;                                  // module name -> "package.Class"
  std::map<std::string, std::vector<std::pair<std::string, Ops>>> attributes;  // module name -> further attributes
  std::map<std::string, std::vector<std::pair<std::string, Ops>>> buffers;
  std::map<std::string, std::vector<std::string>> transient;  // non-persistent buffers
  std::vector<std::string> empty_modules;                     // modules without tensors, by name

  // A tensor with a storage of its own; the same data twice shares it.
  Ops tensor(const Tensor& tensor) {
    const Blob data = decode(tensor, "");
    const auto [place, added] = keys_.emplace(data.bytes().data(), storages_.size());
    if (added) storages_.emplace_back(data.text());
    kept_.push_back(data);
    std::vector<std::int64_t> stride(tensor.shape.size());
    std::int64_t elements = 1;
    for (std::size_t d = stride.size(); d-- > 0; elements *= tensor.shape[d]) stride[d] = elements;
    const char* type = tensor.dtype == DType::F16 ? "HalfStorage" : "FloatStorage";
    return Pickle::bare().tensor(type, std::to_string(place->second), elements, 0, tensor.shape, stride).text;
  }

  Ops module(const std::map<std::string, Tensor>& tensors) {
    Node root;
    for (const auto& [name, value] : tensors) {
      root.at(name.substr(0, name.rfind('.'))).parameters.emplace_back(name.substr(name.rfind('.') + 1), tensor(value));
    }
    for (const auto& [name, list] : buffers) root.at(name).buffers = list;
    for (const std::string& name : empty_modules) root.at(name);
    return emit(root, "");
  }

  Ops state_dict(const std::map<std::string, Tensor>& tensors) {
    std::vector<std::pair<std::string, Ops>> entries;
    for (const auto& [name, value] : tensors) entries.emplace_back(name, tensor(value));
    return dict_ops(entries);
  }

  void save(const std::string& path, const Ops& value) const {
    ZipMaker zip;
    zip.add("a/data.pkl", Pickle(3).raw(value).stop()).add("a/version", "3\n");
    for (std::size_t i = 0; i < storages_.size(); ++i) zip.add("a/data/" + std::to_string(i), storages_[i]);
    std::ofstream(path, std::ios::binary) << zip.make();
  }

 private:
  struct Node {
    std::vector<std::pair<std::string, Ops>> parameters, buffers;
    std::map<std::string, Node> children;
    Node& at(const std::string& name) {
      if (name.empty()) return *this;
      const auto dot = name.find('.');
      Node& child = children[name.substr(0, dot)];
      return dot == std::string::npos ? child : child.at(name.substr(dot + 1));
    }
  };

  Ops emit(const Node& node, const std::string& name) const {
    std::vector<std::pair<std::string, Ops>> children;
    for (const auto& [child, sub] : node.children) children.emplace_back(child, emit(sub, name.empty() ? child : name + "." + child));
    Ops names = "](";
    if (const auto found = transient.find(name); found != transient.end()) {
      for (const std::string& buffer : found->second) names += text_ops(buffer);
    }
    std::vector<std::pair<std::string, Ops>> state{
        {"training", "\x89"},
        {"_parameters", dict_ops(node.parameters)},
        {"_buffers", dict_ops(node.buffers)},
        {"_non_persistent_buffers_set", Pickle::bare().global("__builtin__", "set").text + names + "e\x85R"},
        {"_modules", dict_ops(children)}};
    if (const auto more = attributes.find(name); more != attributes.end()) {
      state.insert(state.end(), more->second.begin(), more->second.end());
    }
    const auto known = classes.find(name);
    const std::string full = known == classes.end() ? "some.package.Module" : known->second;
    return object_ops(full.substr(0, full.rfind('.')), full.substr(full.rfind('.') + 1), dict_ops(state));
  }

  std::map<const std::uint8_t*, std::size_t> keys_;
  std::vector<std::string> storages_;
  std::vector<Blob> kept_;
};

}  // namespace miq::test
