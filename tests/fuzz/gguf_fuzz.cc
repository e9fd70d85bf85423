// Accepted files: every tensor that can be decoded is decoded, and has as many values as its shape says; one whose scales are refused
// when it is decoded is refused when it is kept as blocks too. A tokenizer in the metadata becomes JSON that is read again.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "miq/base/checked.h"
#include "miq/base/error.h"
#include "miq/formats/gguf.h"
#include "miq/model/gguf_tokenizer.h"

namespace {

template <typename Function>
bool accepts(const Function& function) {
  try {
    function();
    return true;
  } catch (const miq::FormatError&) {  // a scale that is not finite, or a type without a decoder
    return false;
  }
}

void check(const miq::GgufTensor& tensor, const std::string& name) {
  const bool decoded = accepts([&] {
    if (miq::dequantize_gguf(tensor, name).size() != miq::checked_elements(tensor.shape)) std::abort();
  });
  const bool kept = accepts([&] {
    if (miq::gguf_stored(tensor, name).shape != tensor.shape) std::abort();
  });
  if (decoded != kept || (decoded && !miq::ggml_type_decodable(tensor.type))) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const miq::Blob blob(std::string_view(reinterpret_cast<const char*>(data), size));
  try {
    const miq::GgufFile file = miq::read_gguf(blob, "input");
    for (const auto& [name, tensor] : file.tensors) check(tensor, name);
    const std::string tokenizer = miq::gguf_tokenizer_json(file.metadata, "input");
    if (!tokenizer.empty()) miq::read_gguf_tokenizer_json(tokenizer, "input")->encode(" ab\xff");
  } catch (const miq::FormatError&) {
  }
  return 0;
}
