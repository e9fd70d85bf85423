// Writes plain safetensors files, one tensor at a time.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "miq/base/blob.h"
#include "miq/formats/safetensors.h"

namespace miq {

struct SafetensorsItem {
  SafetensorsLayout layout;
  // The elements, exactly tensor_bytes(layout.dtype, layout.shape) of them; asked for once, when they are
  // written, and let go before the next item's are asked for.
  std::function<Blob()> data;
};

// Atomic (atomic_file.h). The tensors' order in the file is that of the reference implementation: widest
// elements first, then by name. Throws Error naming the path for what safetensors_header() refuses, for
// data of the wrong length, and when the file cannot be written.
void write_safetensors(const std::string& path, std::vector<SafetensorsItem> items, const std::map<std::string, std::string>& metadata);

}  // namespace miq
