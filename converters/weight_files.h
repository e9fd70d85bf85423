// The weights of a Hugging Face folder: one file or shards with an index, safetensors or PyTorch's.
#pragma once

#include <map>
#include <string>

#include "miq/formats/tensor.h"

namespace miq {

// In transformers' order of preference: model.safetensors(.index.json), then pytorch_model.bin(.index.json).
// Tensors stay in the mapped files (formats/torch_file.h says which are copied); nothing in a .bin is executed.
//
// With shards, the index and the files are checked both ways: every name in exactly the shard that the index
// names, every shard's tensor in the index, no shard missing and none left over, shard names plain base names
// inside the folder. Throws FormatError naming the file and the tensor.
std::map<std::string, Tensor> read_weight_files(const std::string& folder);

}  // namespace miq
