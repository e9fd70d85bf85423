// Writes the state dicts that torch.load reads: what torch.save(model.state_dict(), path) leaves, as a zip
// file of stored entries with protocol 2. Facts: torch/serialization.py (_save),
// caffe2/serialize/inline_container.cc (padding, records) of torch 2.11; PKWARE's APPNOTE 6.3.9.
#pragma once

#include <string>
#include <vector>

#include "miq/formats/safetensors_writer.h"

namespace miq {

// Every tensor gets a storage of its own, aligned to 64 bytes, with its CRC-32; zip64 where sizes ask for
// it. The order of `items` is that of the dict. One tensor's elements are held at a time. The same items
// give the same bytes. torch.load(path, weights_only=True) reads the file.
// Atomic (atomic_file.h). Throws Error naming the path for types that torch has no storage class of, names
// given twice, data of the wrong length, and when the file cannot be written.
void write_torch_state_dict(const std::string& path, const std::vector<SafetensorsItem>& items);

}  // namespace miq
