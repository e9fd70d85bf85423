// What torch_file.cc and torch_tensor.cc share. Within this room only.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "miq/formats/torch_file.h"
#include "miq/formats/zip.h"

namespace miq {

// A storage class of torch, or a dtype's name: "FloatStorage", "float32".
struct TorchType {
  std::string_view storage, dtype;  // storage: empty where the dtype has no class of its own
  std::uint8_t bytes;               // of one element
  std::optional<DType> type;        // nothing: known, but not read
};
const TorchType* torch_storage_type(std::string_view class_name);
const TorchType* torch_dtype(std::string_view name);

struct TorchStorage {
  std::string key;
  const TorchType* type = nullptr;
  std::uint64_t elements = 0;  // of `type`
  Blob data;
  const ZipEntry* record = nullptr;  // zip only
};

// What a Persistent node stands for: a storage, or a part of it (legacy files only).
struct TorchStorageView {
  std::uint32_t storage = 0;
  std::uint64_t begin = 0, bytes = 0;  // within the storage
};

struct TorchFile::Parts {
  std::string name;
  TorchContainer container = TorchContainer::BarePickle;
  bool big_endian = false;
  Blob file;
  std::optional<ZipFile> zip;
  PickleTree tree;
  std::vector<TorchStorage> storages;
  std::map<std::string, std::uint32_t, std::less<>> by_key;           // into storages
  std::vector<std::pair<NodeId, TorchStorageView>> views;  // of every Persistent node, ordered
  const TorchStorageView* view(NodeId node) const;

  // Bytes that living copies may still take; outlives the file as long as a copy lives.
  std::shared_ptr<std::atomic<std::uint64_t>> budget;
  mutable std::unique_ptr<std::atomic<bool>[]> verified;  // one for each storage

  [[noreturn]] void fail(NodeId node, std::string_view problem, std::string_view remedy = {}) const;
};

}  // namespace miq
