// Message layout of FormatError; see error.h.
#include "miq/base/error.h"

namespace miq {
namespace {

std::string compose(std::string_view file, std::uint64_t offset, std::string_view problem, std::string_view remedy) {
  std::string text(file);
  text += ": ";
  if (offset != FormatError::kNoOffset) text += "at byte " + std::to_string(offset) + ": ";
  text += problem;
  if (!remedy.empty()) {
    text += ". ";
    text += remedy;
  }
  return text;
}

}  // namespace

FormatError::FormatError(std::string_view file, std::uint64_t offset, std::string_view problem, std::string_view remedy)
    : Error(compose(file, offset, problem, remedy)) {}

}  // namespace miq
