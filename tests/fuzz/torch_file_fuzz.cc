// Zip files, legacy streams and bare pickles. Accepted tensors have as many bytes as their shape says. A zip file that
// is damaged only in its pickle would be refused for its checksum alone: an input that begins with a '!' is put into a
// good zip file as its data.pkl, beside a storage "0" of 64 bytes, so that the fuzzer reaches what lies behind.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "miq/base/checked.h"
#include "miq/base/error.h"
#include "miq/formats/torch_file.h"
#include "tests/formats/pickle_assembler.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string input(reinterpret_cast<const char*>(data), size);
  if (input.starts_with('!')) {
    input = miq::ZipMaker()
                .add("x/data.pkl", input.substr(1))
                .add("x/byteorder", size % 2 ? "little" : "big")
                .add("x/data/0", std::string(64, 'a'))
                .make();
  }
  try {
    const miq::TorchFile file = miq::read_torch_file(miq::Blob(std::string_view(input)), "input");
    for (miq::NodeId node = 0; node < file.tree().size(); ++node) {
      try {
        const auto tensor = file.tensor(node);
        if (!tensor) continue;
        // What is far beyond the budget of a file is refused; expanding to the whole of it again and again tells nothing.
        const std::uint64_t unfolded = *miq::tensor_bytes(tensor->dtype, tensor->shape);
        if (unfolded > (1 << 14) && unfolded <= (std::uint64_t{65} << 20) + 2 * input.size()) continue;
        const miq::Blob bytes = miq::decode(file.read(*tensor, "t"), "t");
        if (bytes.size() != miq::tensor_bytes(tensor->dtype, tensor->shape)) std::abort();
        std::uint8_t sum = 0;
        for (const std::uint8_t byte : bytes.bytes()) sum = static_cast<std::uint8_t>(sum + byte);
        static volatile std::uint8_t sink;
        sink = sum;
      } catch (const miq::FormatError&) {
      }
    }
    file.verify();
  } catch (const miq::FormatError&) {
  }
  return 0;
}
