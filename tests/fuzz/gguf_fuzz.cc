// Accepted files: every tensor that can be decoded is decoded, and has as many values as its shape says.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "miq/base/checked.h"
#include "miq/base/error.h"
#include "miq/formats/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const miq::Blob blob(std::string_view(reinterpret_cast<const char*>(data), size));
  try {
    for (const auto& [name, tensor] : miq::read_gguf(blob, "input").tensors) {
      if (!miq::ggml_type_decodable(tensor.type)) continue;
      try {
        if (miq::dequantize_gguf(tensor, name).size() != miq::checked_elements(tensor.shape)) std::abort();
      } catch (const miq::FormatError&) {  // a scale that is not finite
      }
    }
  } catch (const miq::FormatError&) {
  }
  return 0;
}
