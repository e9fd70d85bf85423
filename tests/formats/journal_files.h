// A journal with three small records in a folder of the test's own, and its bytes.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>

#include "miq/base/error.h"
#include "miq/formats/journal.h"

namespace miq::test {

namespace fs = std::filesystem;

inline std::string slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
inline void spill(const fs::path& path, std::string_view bytes) { std::ofstream(path, std::ios::binary) << bytes; }

inline Bytes bytes_of(std::string_view text) { return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}; }

inline std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline std::string safe_name() {
  std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

class JournalTest : public testing::Test {
 protected:
  void SetUp() override {
    work_ = fs::path(testing::TempDir()) / ("miq_journal_" + safe_name());
    fs::remove_all(work_);
    fs::create_directories(work_);
    folder_ = (work_ / "out.miq.journal").string();
  }
  void TearDown() override { fs::remove_all(work_); }

  // Three records of 5, 64 and 0 bytes.
  std::string small_log() {
    Journal journal = Journal::create(folder_, run_);
    for (std::string_view text : kTexts) {
      const Bytes pieces[] = {bytes_of(text.substr(0, text.size() / 2)), bytes_of(text.substr(text.size() / 2))};
      journal.append(pieces);
    }
    return slurp(log());
  }
  fs::path log() const { return fs::path(folder_) / "log"; }

  static constexpr std::string_view kTexts[] = {"three", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", ""};
  const Json run_{{"method", {{"name", "mixed"}, {"sparsity", 0.5}}}, {"weights", "abc"}};
  fs::path work_;
  std::string folder_;
};

}  // namespace miq::test
