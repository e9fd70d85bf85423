// Containers: what is written comes back, any damage is found and named, and the spec's example is a
// real file.
#include "miq/formats/container.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "miq/base/error.h"
#include "miq/formats/container_layout.h"
#include "miq/formats/digest.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/packed_matrix.h"
#include "miq/formats/safetensors.h"
#include "tests/formats/container_samples.h"

namespace miq {
namespace {

using test::rewritten, test::rich_container, test::small_container;

class ContainerTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() / ("miq_container_" + std::to_string(::getpid()) + "_" + info->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  std::string written(const Container& content) {
    write_container(path("x.miq"), content);
    std::ifstream file(path("x.miq"), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::filesystem::path folder_;
};

bool same_bytes(const Blob& a, const Blob& b) { return std::equal(a.bytes().begin(), a.bytes().end(), b.bytes().begin(), b.bytes().end()); }

void expect_same(const Container& a, const Container& b) {
  EXPECT_EQ(a.manifest, b.manifest);
  ASSERT_EQ(a.files.size(), b.files.size());
  for (const auto& [name, blob] : a.files) EXPECT_TRUE(same_bytes(blob, b.files.at(name))) << name;
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    const Tensor& other = b.tensors.at(name);
    EXPECT_EQ(tensor.encoding, other.encoding) << name;
    EXPECT_EQ(tensor.dtype, other.dtype) << name;
    EXPECT_EQ(tensor.shape, other.shape) << name;
    ASSERT_EQ(tensor.sections.size(), other.sections.size()) << name;
    for (const auto& [section, blob] : tensor.sections) EXPECT_TRUE(same_bytes(blob, other.sections.at(section))) << name << section;
  }
}

std::string refusal(const std::string& bytes, bool verify_tensors = true) {
  try {
    read_container(Blob(std::string_view(bytes)), "x.miq", verify_tensors);
  } catch (const FormatError& error) {
    return error.what();
  }
  return {};
}

TEST_F(ContainerTest, WhatIsWrittenComesBack) {
  for (const Container& content : {small_container(), rich_container(), Container()}) {
    const std::string bytes = written(content);
    expect_same(content, read_container(path("x.miq")));
    expect_same(content, read_container(path("x.miq"), false));
    EXPECT_NO_THROW(verify_container(path("x.miq")));
    EXPECT_TRUE(looks_like_container({reinterpret_cast<const std::uint8_t*>(bytes.data()), std::min<std::size_t>(bytes.size(), 512)}));
  }
}

TEST_F(ContainerTest, TheSameContentGivesTheSameBytes) {
  const std::string first = written(rich_container());
  write_container(path("y.miq"), read_container(path("x.miq")));
  EXPECT_EQ(read_text_file(path("y.miq")), first);
}

TEST_F(ContainerTest, ItIsASafetensorsFileWithAlignedPayloads) {
  const Container content = rich_container();
  write_container(path("x.miq"), content);
  const SafetensorsFile file = open_safetensors(path("x.miq"));
  EXPECT_EQ(file.metadata.at("format"), "miq");
  EXPECT_EQ(file.data_begin % 64, 0u);
  for (const auto& [name, tensor] : content.tensors) {
    if (tensor.encoding != Encoding::Dense) continue;
    const SafetensorsEntry& entry = file.entries.at(name);
    EXPECT_EQ(entry.dtype, tensor.dtype);
    EXPECT_EQ(entry.shape, tensor.shape);
    EXPECT_TRUE(same_bytes(file.data(entry), tensor.sections.at("data")));
  }
  for (const auto& [name, entry] : file.entries) {
    const bool must_align = (entry.end - entry.begin) % 64 == 0;
    EXPECT_EQ(entry.begin % (must_align ? 64 : dtype_bytes(entry.dtype)), 0u) << name;
  }
}

// Who owns a byte of the data part, in the words of an error message.
std::string owner_of(const SafetensorsFile& file, std::uint64_t offset) {
  for (const auto& [name, entry] : file.entries) {
    if (offset < file.data_begin + entry.begin || offset >= file.data_begin + entry.end) continue;
    if (name.substr(0, 4) == "miq/") return name;
    return "tensor " + name.substr(0, name.find('#'));
  }
  return "header";
}

TEST_F(ContainerTest, EveryFlippedBitIsFoundAndNamed) {
  for (const Container& content : {small_container(), rich_container()}) {
    const std::string good = written(content);
    const SafetensorsFile file = read_safetensors(Blob(std::string_view(good)), "x.miq");
    ASSERT_EQ(refusal(good), "");
    for (std::size_t i = 0; i < good.size(); ++i) {
      const std::string owner = owner_of(file, i);
      for (int bit = 0; bit < 8; ++bit) {
        std::string bad = good;
        bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
        const std::string message = refusal(bad);
        ASSERT_NE(message, "") << "byte " << i << " bit " << bit;
        // A flip in the header may make it a header of something else; it is never silent.
        if (owner == "header") continue;
        ASSERT_NE(message.find(owner), std::string::npos) << message << ", not " << owner;
      }
    }
  }
}

TEST_F(ContainerTest, AllDamagedChunksAreListed) {
  Container content = small_container();
  content.tensors["large"] = dense_tensor(DType::U8, {(2 << 20) + 5}, Blob(std::vector<std::uint8_t>((2 << 20) + 5, 7)));
  const std::string good = written(content);
  const SafetensorsFile file = read_safetensors(Blob(std::string_view(good)), "x.miq");
  EXPECT_TRUE(damaged_chunks(Blob(std::string_view(good)), "x.miq").empty());
  const std::uint64_t large = file.data_begin + file.entries.at("large").begin, codes = file.data_begin + file.entries.at("q#codes").begin;
  std::string bad = good;
  for (const std::uint64_t at : {large + 3, large + 4, large + (2 << 20) + 4, codes}) bad[at] = static_cast<char>(bad[at] ^ 8);
  std::map<std::uint64_t, std::pair<std::string, std::uint64_t>> found;
  for (const DamagedChunk& chunk : damaged_chunks(Blob(std::string_view(bad)), "x.miq")) found[chunk.offset] = {chunk.what, chunk.length};
  const std::map<std::uint64_t, std::pair<std::string, std::uint64_t>> wanted{
      {large, {"tensor large", 1 << 20}}, {large + (2 << 20), {"tensor large", 5}}, {codes, {"tensor q, section 'codes'", 64}}};
  EXPECT_EQ(found, wanted);
  bad[20] ^= 1;
  EXPECT_THROW(damaged_chunks(Blob(std::string_view(bad)), "x.miq"), FormatError);
}

TEST_F(ContainerTest, ReadingWithoutTensorsStillChecksEverythingElse) {
  const std::string good = written(rich_container());
  const SafetensorsFile file = read_safetensors(Blob(std::string_view(good)), "x.miq");
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    const bool in_tensor = owner_of(file, i).substr(0, 7) == "tensor ";
    EXPECT_TRUE(in_tensor || !refusal(bad, false).empty()) << i;
  }
}

TEST_F(ContainerTest, EveryTruncationAndAnyExtraByteIsRefused) {
  const std::string good = written(rich_container());
  for (std::size_t size = 0; size < good.size(); ++size) ASSERT_NE(refusal(good.substr(0, size)), "") << size;
  EXPECT_NE(refusal(good + '\0'), "");
}

TEST_F(ContainerTest, LargePayloadsAreCheckedByChunk) {
  Container content;
  std::vector<std::uint8_t> bytes((3u << 20) + 4);
  std::mt19937 random(4);
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random());
  content.tensors["big"] = dense_tensor(DType::U8, {static_cast<std::int64_t>(bytes.size())}, Blob(bytes));
  PackedMatrix matrix;  // a section of more than a chunk, with filling
  matrix.rows = 1100;
  matrix.cols = 1999;
  matrix.group_of_column.assign(1999, 0);
  matrix.bits_of_group = {4};
  matrix.scales.assign(1100, 1.0f);
  matrix.zeros.assign(1100, 8);
  for (std::int64_t i = 0; i < matrix.rows * matrix.cols; ++i) matrix.codes.push_back(random() % 16);
  content.tensors["packed"] = pack(matrix);
  const std::string good = written(content);
  expect_same(content, read_container(path("x.miq")));
  const SafetensorsFile file = read_safetensors(Blob(std::string_view(good)), "x.miq");
  const std::uint64_t begin = file.data_begin + file.entries.at("big").begin;
  for (int i = 0; i < 40; ++i) {
    const std::size_t at = random() % bytes.size();
    std::string bad = good;
    bad[begin + at] = static_cast<char>(bad[begin + at] ^ (1 << (random() % 8)));
    const std::string message = refusal(bad);
    EXPECT_NE(message.find("tensor big"), std::string::npos) << message;
    EXPECT_NE(message.find("at byte " + std::to_string(begin + at / container::kChunk * container::kChunk)), std::string::npos) << message;
  }
  std::string swapped = good;  // two whole chunks changed places
  std::swap_ranges(swapped.begin() + static_cast<std::ptrdiff_t>(begin),
                   swapped.begin() + static_cast<std::ptrdiff_t>(begin + container::kChunk),
                   swapped.begin() + static_cast<std::ptrdiff_t>(begin + container::kChunk));
  EXPECT_NE(refusal(swapped).find("tensor big"), std::string::npos);
}

TEST_F(ContainerTest, UnknownAndContradictoryContentIsRefusedByName) {
  const std::string good = written(rich_container());
  const auto nothing = [](Json&) {};
  ASSERT_EQ(refusal(rewritten(good, nothing)), "");
  const auto expect_table = [&](const std::function<void(Json&)>& change, const std::string& says) {
    const std::string message = refusal(rewritten(good, change));
    EXPECT_NE(message.find(says), std::string::npos) << message << "\nnot: " << says;
  };
  expect_table([](Json& t) { t["tensors"]["q"]["encoding"] = "lattice"; },
               "tensor q: its encoding 'lattice' is unknown. Use a newer version of miq");
  expect_table([](Json& t) { t["tensors"]["q"]["dtype"] = "F4"; }, "tensor q: its element type 'F4' is unknown");
  expect_table([](Json& t) { t["tensors"]["q"]["dtype"] = "I32"; }, "tensor q: a packed tensor decodes to");
  expect_table([](Json& t) { t["tensors"]["q"]["shape"] = {4, 4}; }, "tensor q");
  expect_table([](Json& t) { t["tensors"]["q"]["shape"] = {-2, 4}; }, "tensor q: its shape");
  expect_table([](Json& t) { t["tensors"]["q"]["shape"] = "2x4"; }, "tensor q: miq/tensors.json states no shape");
  expect_table([](Json& t) { t["tensors"]["q"]["sections"]["codes"] = 65; }, "tensor q, section 'codes' has 64 bytes");
  expect_table([](Json& t) { t["tensors"]["q"]["sections"]["codes"] = 1; }, "tensor q");
  expect_table([](Json& t) { t["tensors"]["q"]["sections"]["codes"] = -1; }, "no count");
  expect_table([](Json& t) { t["tensors"]["q"]["sections"].erase("mask"); }, "tensor q, section 'mask' is not in");
  expect_table([](Json& t) { t["tensors"]["q"]["sections"]["more"] = 1; }, "tensor q, section 'more' is missing");
  expect_table([](Json& t) { t["tensors"]["q"]["order"] = "new"; }, "tensor q: miq/tensors.json has unknown");
  expect_table([](Json& t) { t["tensors"]["q"] = 3; }, "tensor q");
  expect_table([](Json& t) { t["tensors"]["bias"]["shape"] = {4}; }, "tensor bias: header and");
  expect_table([](Json& t) { t["tensors"].erase("bias"); }, "tensor bias is not in");
  expect_table([](Json& t) { t["tensors"]["ghost"] = t["tensors"]["bias"]; }, "tensor ghost is missing");
  expect_table([](Json& t) { t["tensors"]["miq/x"] = t["tensors"]["bias"]; }, "reserved");
  expect_table([](Json& t) { t["files"]["../up"] = 1; }, "is a path");
  expect_table([](Json& t) { t["files"].erase("config.json"); }, "miq/files/config.json is not in");
  expect_table([](Json& t) { t["files"]["config.json"] = 1; }, "miq/files/config.json is not filled up");
  expect_table([](Json& t) { t["manifest"] = 5; }, "miq/manifest.json");
  expect_table([](Json& t) { t.erase("files"); }, "miq/tensors.json");
  expect_table([](Json& t) { t["tensors"] = Json::array(); }, "miq/tensors.json");
  expect_table([](Json& t) { t = 5; }, "miq/tensors.json");

  const auto expect_metadata = [&](const char* key, const char* value, const std::string& says) {
    const std::string message = refusal(rewritten(good, nothing, [&](auto& metadata) {
      metadata[key] = value;
      if (!*value) metadata.erase(key);
    }));
    EXPECT_NE(message.find(says), std::string::npos) << message << "\nnot: " << says;
  };
  expect_metadata("version", "2", "container version 2; this program reads versions up to 1. Use a newer version of miq");
  expect_metadata("version", "x", "'x', no number");
  expect_metadata("version", "", "no 'version'");
  expect_metadata("format", "pt", "no miq container. Convert");
  expect_metadata("format", "", "no miq container. Convert");
  expect_metadata("header_digest", "", "no 'header_digest'");
  expect_metadata("manifest_digest", "", "no 'manifest_digest'");
  expect_metadata("manifest_digest", "00", "miq/manifest.json does not match its digest");
  expect_metadata("checksums_digest", "00", "miq/checksums does not match its digest");
}

TEST_F(ContainerTest, AScaleThatIsNaNIsRefusedInTheTensorsName) {
  std::string bytes = written(small_container());
  const SafetensorsFile file = read_safetensors(Blob(std::string_view(bytes)), "x.miq");
  bytes[file.data_begin + file.entries.at("q#scales").begin + 1] = 0x7E;
  const std::string message = refusal(rewritten(bytes, [](Json&) {}));
  EXPECT_NE(message.find("x.miq: tensor q: the scale of group 0, row 0 is not a finite number"), std::string::npos) << message;
}

TEST_F(ContainerTest, NothingUnreadableIsWritten) {
  const auto refused = [&](const std::function<void(Container&)>& change) {
    Container content = small_container();
    change(content);
    EXPECT_THROW(write_container(path("bad.miq"), content), Error);
    EXPECT_TRUE(std::filesystem::is_empty(folder_));
  };
  const Tensor tensor = small_container().tensors.at("bias");
  for (const char* name : {"", "a#b", "miq/x", "__metadata__", "line\nfeed", "\xFF"}) {
    refused([&](Container& content) { content.tensors[name] = tensor; });
  }
  for (const char* name : {"", "..", "a/b", "a\\b", "c:x"}) {
    refused([&](Container& content) { content.files[name] = Blob(); });
  }
  refused([](Container& content) { content.tensors["bias"].shape = {4}; });
  refused([](Container& content) { content.tensors["q"].sections.erase("codes"); });
  Container content = small_container();
  EXPECT_THROW(write_container(path("no/folder.miq"), content), Error);
}

// "00000040  7b 22 …  |{"…|", sixteen bytes a line; lines of one repeated byte are shortened to "*".
std::string hex_dump(const std::string& bytes) {
  std::string dump, previous;
  bool starred = false;
  for (std::size_t at = 0; at < bytes.size(); at += 16) {
    const std::string line = bytes.substr(at, 16);
    if (line == previous && at + 16 < bytes.size()) {
      if (!starred) dump += "*\n";
      starred = true;
      continue;
    }
    starred = false;
    previous = line;
    char text[24];
    std::snprintf(text, sizeof text, "%08zx ", at);
    dump += text;
    for (unsigned char c : line) {
      std::snprintf(text, sizeof text, " %02x", c);
      dump += text;
    }
    dump += "  |";
    for (unsigned char c : line) dump += std::isprint(c) ? static_cast<char>(c) : '.';
    dump += "|\n";
  }
  return dump;
}

TEST_F(ContainerTest, TheSpecsExampleIsARealFile) {
  const std::string dump = hex_dump(written(small_container()));
  const std::string spec = read_text_file(MIQ_SOURCE_DIR "/formats/spec/miq.md");
  EXPECT_NE(spec.find("```\n" + dump + "```\n"), std::string::npos) << "formats/spec/miq.md should show:\n" << dump;
}

}  // namespace
}  // namespace miq
