// The errors of the suite. Libraries throw them; each program has one catch site (tools/program.h),
// which prints what() and returns exit_code().
//
//   Error       something could not be done                         exit code 1
//   UsageError  the caller asked for something that makes no sense  exit code 2
//
// A message names the file, the tensor and the offset as far as they are known, says what was found
// and what was expected, and ends with what to do about it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace miq {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  virtual int exit_code() const noexcept { return 1; }
};

class UsageError : public Error {
 public:
  using Error::Error;
  int exit_code() const noexcept override { return 2; }
};

// A file's content cannot be accepted. Builds "FILE: [at byte OFFSET: ]PROBLEM[. REMEDY]".
class FormatError : public Error {
 public:
  static constexpr std::uint64_t kNoOffset = ~std::uint64_t{0};
  FormatError(std::string_view file, std::uint64_t offset, std::string_view problem, std::string_view remedy = {});
  FormatError(std::string_view file, std::string_view problem, std::string_view remedy = {})
      : FormatError(file, kNoOffset, problem, remedy) {}
};

}  // namespace miq
