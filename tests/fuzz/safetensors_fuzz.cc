// Accepted files: every tensor lies inside, and a header written for the same tensors reads back.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const miq::Blob blob(std::string_view(reinterpret_cast<const char*>(data), size));
  try {
    const miq::SafetensorsFile file = miq::read_safetensors(blob, "input");
    std::vector<std::pair<std::uint64_t, miq::SafetensorsLayout>> layout;
    for (const auto& [name, entry] : file.entries) {
      const miq::Bytes bytes = file.data(entry).bytes();
      if (bytes.size() != miq::tensor_bytes(entry.dtype, entry.shape)) std::abort();
      layout.push_back({entry.begin, {name, entry.dtype, entry.shape}});
    }
    // Empty tensors at one place may stand on either side of a full one: they go first there.
    std::sort(layout.begin(), layout.end(), [](const auto& a, const auto& b) {
      const auto full = [](const auto& item) { return *miq::tensor_bytes(item.second.dtype, item.second.shape) != 0; };
      return a.first < b.first || (a.first == b.first && full(a) < full(b));
    });
    std::vector<miq::SafetensorsLayout> tensors;
    for (auto& item : layout) tensors.push_back(item.second);
    const std::string header = miq::safetensors_header(tensors, file.metadata);
    const auto rest = blob.text().substr(file.data_begin);
    const auto again = miq::read_safetensors(miq::Blob(header + std::string(rest)), "written");
    if (again.entries.size() != file.entries.size() || again.metadata != file.metadata) std::abort();
    for (const auto& [name, entry] : file.entries) {
      if (again.entries.at(name).begin != entry.begin || again.entries.at(name).shape != entry.shape) std::abort();
    }
  } catch (const miq::FormatError&) {
  }
  return 0;
}
