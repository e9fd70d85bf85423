// What parse_json accepts must come back the same from its own dump, and is still accepted or refused, no more, under narrow limits.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "miq/base/error.h"
#include "miq/formats/json.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const miq::Json value = miq::parse_json({reinterpret_cast<const char*>(data), size}, "input");
    const std::string text = value.dump();
    if (miq::parse_json(text, "dump").dump() != text) std::abort();
    miq::parse_json(text, "narrow", 3, 16);
  } catch (const miq::FormatError&) {
  }
  return 0;
}
