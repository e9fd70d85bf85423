#include "miq/base/cuda_library.h"

#include <dlfcn.h>
#include <gnu/libc-version.h>  // of a library that no sanitizer stands in for
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "miq/base/error.h"

namespace miq {
namespace {

std::string message_of(const std::string& path) {
  try {
    open_cuda_library(path);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(CudaLibrary, SaysWhatIsMissing) {
  const std::string absent = "/nowhere/libmiq_cuda.so";
  EXPECT_NE(message_of(absent).find(absent + ": is not there"), std::string::npos) << message_of(absent);
  EXPECT_NE(message_of(absent).find("--device cpu"), std::string::npos);

  const std::string broken = (std::filesystem::temp_directory_path() / "miq_broken_library.so").string();
  std::FILE* file = std::fopen(broken.c_str(), "w");
  std::fputs("no library", file);
  std::fclose(file);
  EXPECT_NE(message_of(broken).find("cannot be loaded"), std::string::npos) << message_of(broken);
  std::filesystem::remove(broken);

  Dl_info other{};
  ASSERT_NE(dladdr(reinterpret_cast<const void*>(&gnu_get_libc_version), &other), 0);
  EXPECT_NE(message_of(other.dli_fname).find("is no library of miq's CUDA kernels"), std::string::npos) << message_of(other.dli_fname);
}

// The library opens on a machine without a driver and says what it found there.
TEST(CudaLibrary, OpensWithoutADevice) {
  const auto path = std::filesystem::path(MIQ_TOOLS_DIR).parent_path() / "lib" / "miq" / "libmiq_cuda.so";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "this build has no CUDA kernels (-DMIQ_CUDA=ON, target miq_cuda)";
  const auto& [table, groups] = open_cuda_library(path.string());
  int count = -1;
  char found[256] = "";
  ASSERT_EQ(table.devices(&count, found, sizeof found), 0);
  EXPECT_GE(count, 0);
  EXPECT_NE(found[0], '\0');
  std::printf("%s\n", found);
  if (count > 0) return;
  // Work without a device is refused with a reason, and the process lives on.
  EXPECT_EQ(table.gaussian_information(0, nullptr, 0, nullptr, nullptr, 0, nullptr, nullptr), -1);
  EXPECT_THROW(check_cuda(table, -1, "the test"), Error);
  char identity[64] = "";
  EXPECT_EQ(groups.identity(0, identity, sizeof identity), -1);
  EXPECT_NE(std::string(groups.problem()), "");
  std::printf("%s\n", groups.problem());
}

}  // namespace
}  // namespace miq
