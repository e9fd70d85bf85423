// Names and the header's digest, the same for writer and reader.
#include "miq/formats/container_layout.h"

#include <algorithm>

#include "miq/formats/digest.h"

namespace miq::container {
namespace {

bool has_control_bytes(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

bool is_utf8(std::string_view text) {
  try {
    (void)Json(text).dump();
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

}  // namespace

std::string fault_of_tensor_name(std::string_view name) {
  if (name.empty()) return "is empty";
  if (name.size() > 1024) return "is longer than 1024 bytes";
  if (has_control_bytes(name)) return "has control characters";
  if (!is_utf8(name)) return "is not UTF-8";
  if (name.find('#') != name.npos) return "has a '#', which separates sections";
  if (name.substr(0, kReserved.size()) == kReserved) return "begins with 'miq/', which is reserved";
  if (name == "__metadata__") return "is reserved";
  return {};
}

std::string fault_of_file_name(std::string_view name) {
  if (name.empty() || name == "." || name == "..") return "is no file name";
  if (name.size() > 255) return "is longer than 255 bytes";
  if (has_control_bytes(name)) return "has control characters";
  if (!is_utf8(name)) return "is not UTF-8";
  if (name.find_first_of("/\\:") != name.npos) return "is a path, not a base name";
  return {};
}

std::size_t header_digest_at(std::string_view header) {
  const std::size_t key = header.find(kHeaderDigestKey);
  if (key == header.npos || header.size() - key < kHeaderDigestKey.size() + kDigestDigits) return header.npos;
  return key + kHeaderDigestKey.size();
}

std::string header_digest(std::string_view header) {
  const std::size_t at = header_digest_at(header);
  if (at == header.npos) return {};
  std::string zeroed(header);
  zeroed.replace(at, kDigestDigits, kDigestDigits, '0');
  return digest_of({reinterpret_cast<const std::uint8_t*>(zeroed.data()), zeroed.size()});
}

}  // namespace miq::container
