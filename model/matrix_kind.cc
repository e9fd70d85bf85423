// Numbers between dots count experts; what is left names the kind.
#include "miq/model/matrix_kind.h"

#include <algorithm>

namespace miq {

std::string matrix_kind(std::string_view short_name) {
  std::string kind;
  for (std::size_t i = 0; i < short_name.size();) {
    const std::size_t end = std::min(short_name.find('.', i), short_name.size());
    const std::string_view part = short_name.substr(i, end - i);
    if (part.find_first_not_of("0123456789") != std::string_view::npos) kind.append(kind.empty() ? "" : ".").append(part);
    i = end + 1;
  }
  return kind;
}

}  // namespace miq
