// Files that torch.save wrote: zip files (torch 1.6 and later), legacy streams (earlier, or asked for), and bare pickles.
// The kind is found by content; nothing in the file is executed (see pickle.h). Tensors stay in the mapped file.
// Facts: torch/serialization.py, torch/_utils.py, caffe2/serialize/inline_container.cc of torch 2.11.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "miq/base/blob.h"
#include "miq/formats/pickle.h"
#include "miq/formats/tensor.h"

namespace miq {

enum class TorchContainer : std::uint8_t { Zip, Legacy, BarePickle };

// A tensor as the file describes it: a view of a storage. All checks are done: the view lies inside its storage.
struct TorchTensor {
  DType dtype = DType::F32;
  Shape shape;
  std::vector<std::int64_t> stride;  // in elements, as many as shape; never negative; 0 for expanded dimensions
  std::int64_t offset = 0;           // first element, in elements of `dtype` from the start of the storage
  std::string key;                   // the storage: tensors with equal keys share memory
  bool parameter = false;            // came as torch.nn.Parameter
  bool requires_grad = false;
  NodeId node = kNoNode;
  bool contiguous() const;           // row-major without gaps (dimensions of size 1 and empty tensors do not matter)
  // The same elements of the same storage: tied, whatever node describes them.
  bool same_view(const TorchTensor& other) const;
};

class TorchFile {
 public:
  const std::string& name() const;  // path, for messages
  TorchContainer container() const;
  bool big_endian() const;
  const PickleTree& tree() const;
  NodeId root() const { return tree().root(); }
  std::uint64_t file_bytes() const;
  std::uint64_t storage_count() const;
  std::uint64_t storage_bytes() const;  // of all storages that the stream names, each once

  // True for calls of torch's rebuild functions, also of those that tensor() refuses. Cheap, does not throw.
  bool is_tensor(NodeId node) const;
  // Nothing when the node is no tensor. Throws FormatError naming the file and the offset for a tensor whose parts
  // contradict each other or its storage, and for kinds that are not read: quantized, sparse, nested, meta and wrapper
  // tensors, complex and sub-byte types, conjugated or negated views, tensors pickled without torch.save.
  std::optional<TorchTensor> tensor(NodeId node) const;

  // The tensor's elements, dense, row-major, little-endian. A contiguous tensor of a little-endian file is a view of the
  // mapped file, at whatever alignment it has there; any other one is copied. All living copies of one file together may
  // take at most twice its size and 64 MiB: beyond that (a small storage expanded enormously) FormatError. The first read
  // of a zip's storage checks its CRC-32. `tensor_name` is used in messages. Thread-safe.
  Tensor read(const TorchTensor& tensor, std::string_view tensor_name) const;

  // Checks the CRC-32 of every record (zip; the other kinds have none). Throws FormatError.
  void verify() const;

  struct Parts;  // torch_parts.h; of this room only

 private:
  friend class TorchFileReader;
  std::shared_ptr<const Parts> parts_;  // copies share it
};

// Throws FormatError. Everything is checked but the contents of tensors and what tensor() checks: the archive, the
// stream, each storage's class, its record and size. Refused by name: TorchScript, tar files (torch 0.1.x), PYTORCH1.
TorchFile open_torch_file(const std::string& path);
TorchFile read_torch_file(Blob file, const std::string& name);
// True when the bytes begin like a zip file or a pickle of protocol 2 to 5.
bool looks_like_torch_file(Bytes start_of_file);

}  // namespace miq
