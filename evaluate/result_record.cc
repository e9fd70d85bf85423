// The journal's own checksums tell whether a record is whole, so nothing here is an error.
#include "miq/evaluate/result_record.h"

#include <cstdint>
#include <cstring>

namespace miq {

void read_result_record(Bytes record, std::map<std::string, std::vector<float>>& known) {
  constexpr std::size_t kHead = kWindowDigits + sizeof(std::uint64_t);
  while (record.size() >= kHead && record[0] != 0) {
    const std::string window(reinterpret_cast<const char*>(record.data()), kWindowDigits);
    std::uint64_t count = 0;
    std::memcpy(&count, record.data() + kWindowDigits, sizeof count);
    record = record.subspan(kHead);
    if (count > record.size() / sizeof(float)) return;
    std::vector<float> values(count);
    if (count > 0) std::memcpy(values.data(), record.data(), count * sizeof(float));
    known[window] = std::move(values);
    record = record.subspan(count * sizeof(float));
  }
}

}  // namespace miq
