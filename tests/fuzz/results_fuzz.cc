// Records of the result cache: every window has a digest and values that lie in the record; the last of a digest counts.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "miq/evaluate/result_record.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::map<std::string, std::vector<float>> known;
  miq::read_result_record({data, size}, known);
  std::size_t bytes = 0;
  for (const auto& [window, values] : known) bytes += 40 + 4 * values.size();
  if (bytes > size) std::abort();
  return 0;
}
