// The header follows from names, types and shapes alone, so the data streams: nothing but one tensor's
// elements is held.
#include "miq/formats/safetensors_writer.h"

#include <algorithm>

#include "miq/base/error.h"
#include "miq/formats/atomic_file.h"

namespace miq {

void write_safetensors(const std::string& path, std::vector<SafetensorsItem> items, const std::map<std::string, std::string>& metadata) {
  std::ranges::sort(items, [](const SafetensorsItem& a, const SafetensorsItem& b) {
    const std::size_t wide_a = dtype_bytes(a.layout.dtype), wide_b = dtype_bytes(b.layout.dtype);
    return wide_a != wide_b ? wide_a > wide_b : a.layout.name < b.layout.name;
  });
  std::vector<SafetensorsLayout> layout;
  std::uint64_t size = 0;
  for (const SafetensorsItem& item : items) {
    layout.push_back(item.layout);
    size += tensor_bytes(item.layout.dtype, item.layout.shape).value_or(0);  // safetensors_header() refuses overflow
  }
  const std::string header = safetensors_header(layout, metadata);
  AtomicFile file(path, header.size() + size);
  file.write({reinterpret_cast<const std::uint8_t*>(header.data()), header.size()});
  for (const SafetensorsItem& item : items) {
    const Blob data = item.data();
    if (data.size() != tensor_bytes(item.layout.dtype, item.layout.shape)) {
      throw Error(path + ": tensor '" + item.layout.name + "' has " + std::to_string(data.size()) + " bytes, which is not what its type and shape need");
    }
    file.write(data.bytes());
  }
  file.commit();
}

}  // namespace miq
