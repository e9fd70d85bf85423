// Legacy streams behind their magic number. The first byte says what the input replaces in a good stream: the object's
// pickle, everything behind the object (the list of keys and the storages), or everything behind the magic number.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "miq/base/error.h"
#include "miq/formats/torch_file.h"
#include "tests/formats/pickle_assembler.h"

namespace {

std::string stream(const std::string& input) {
  using miq::Pickle, miq::little;
  const std::string magic = Pickle().op(0x8a).op(10).raw("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19").stop();
  const std::string info = Pickle().op('M').raw(little(1001, 2)).stop() + Pickle().op('}').str("little_endian").op(0x88).op('s').stop();
  Pickle object;
  object.global("torch._utils", "_rebuild_tensor_v2").mark().mark().str("storage").global("torch", "FloatStorage").str("0").str("cpu").num(12).op('N');
  object.tuple().op('Q').num(1).numbers({4}).numbers({1}).op(0x89).op('}').tuple().op('R');
  const std::string keys = Pickle().op(']').str("0").op('a').stop() + little(12, 8) + std::string(48, 'a');
  const std::string rest = input.empty() ? "" : input.substr(1);
  if (input.starts_with('o')) return magic + info + rest + keys;
  if (input.starts_with('k')) return magic + info + object.stop() + rest;
  return magic + rest;
}

// What is far beyond the budget of a file is refused; expanding to the whole of it again and again tells nothing.
bool worth_reading(std::uint64_t bytes, std::size_t file) { return bytes <= (1 << 14) || bytes > (std::uint64_t{65} << 20) + 2 * file; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input = stream(std::string(reinterpret_cast<const char*>(data), size));
  try {
    const miq::TorchFile file = miq::read_torch_file(miq::Blob(std::string_view(input)), "input");
    if (file.container() != miq::TorchContainer::Legacy || file.storage_bytes() > input.size()) std::abort();
    for (miq::NodeId node = 0; node < file.tree().size(); ++node) {
      try {
        const auto tensor = file.tensor(node);
        if (!tensor || !worth_reading(*miq::tensor_bytes(tensor->dtype, tensor->shape), input.size())) continue;
        if (miq::decode(file.read(*tensor, "t"), "t").size() != miq::tensor_bytes(tensor->dtype, tensor->shape)) std::abort();
      } catch (const miq::FormatError&) {
      }
    }
  } catch (const miq::FormatError&) {
  }
  return 0;
}
