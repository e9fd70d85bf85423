// Encoding ggml: blocks of every type decode as the GGUF reader's, survive the container, and are refused where they contradict themselves.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <random>

#include "miq/base/error.h"
#include "miq/formats/container.h"
#include "miq/formats/gguf.h"
#include "miq/formats/tensor.h"

namespace miq {
namespace {

constexpr std::uint32_t kBlockTypes[] = {2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 23};
constexpr unsigned kCodeBits[] = {4, 4, 5, 5, 8, 2, 3, 4, 5, 6, 4, 4};

// Random blocks whose every pair of bytes is a finite float16, wherever the scales may be.
GgufTensor random_blocks(std::uint32_t type, std::int64_t rows, std::int64_t blocks_a_row, std::uint32_t seed) {
  const auto [elements, bytes] = ggml_block(type);
  std::minstd_rand random(seed);
  std::vector<std::uint8_t> data(static_cast<std::size_t>(rows * blocks_a_row) * bytes);
  for (std::uint8_t& byte : data) byte = static_cast<std::uint8_t>(random() % 256) & 0xbb;  // no exponent of ones
  return {type, {rows, blocks_a_row * static_cast<std::int64_t>(elements)}, Blob(std::move(data))};
}

std::vector<std::uint8_t> bytes_of(const std::vector<float>& values) {
  std::vector<std::uint8_t> bytes(values.size() * sizeof(float));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::string refusal(const Tensor& tensor) {
  std::string message;
  try {
    check_tensor(tensor, "w");
  } catch (const FormatError& error) {
    message = error.what();
  }
  try {
    decode(tensor, "w");
    return "decoded";
  } catch (const FormatError&) {
  }
  return message;
}

TEST(TensorGgml, DecodesAsTheGgufReaderAtAnyNumberOfThreads) {
  ThreadPool pool(3);
  for (std::size_t i = 0; i < std::size(kBlockTypes); ++i) {
    const GgufTensor stored = random_blocks(kBlockTypes[i], 7, 3, static_cast<std::uint32_t>(i + 1));
    const Tensor tensor = gguf_stored(stored, "w");
    EXPECT_EQ(tensor.encoding, Encoding::Ggml);
    EXPECT_EQ(tensor.stored_bytes(), stored.data.size());
    EXPECT_EQ(ggml_code_bits(tensor), kCodeBits[i]) << ggml_type_name(kBlockTypes[i]);
    check_tensor(tensor, "w");
    const auto wanted = bytes_of(dequantize_gguf(stored, "w"));
    EXPECT_TRUE(std::ranges::equal(decode(tensor, "w").bytes(), wanted)) << ggml_type_name(kBlockTypes[i]);
    EXPECT_TRUE(std::ranges::equal(decode(tensor, "w", &pool).bytes(), wanted));
  }
  // More than one run of blocks.
  const GgufTensor large = random_blocks(8, 5, 9000, 5);
  EXPECT_TRUE(std::ranges::equal(decode(gguf_stored(large, "w"), "w", &pool).bytes(), bytes_of(dequantize_gguf(large, "w"))));
}

TEST(TensorGgml, SurvivesTheContainer) {
  const std::string path = (std::filesystem::temp_directory_path() / "miq_tensor_ggml_test.miq").string();
  Container container;
  for (std::uint32_t type : kBlockTypes) container.tensors.emplace(ggml_type_name(type), gguf_stored(random_blocks(type, 4, 2, type), "w"));
  write_container(path, container);
  const Container read = read_container(path);
  for (const auto& [name, tensor] : container.tensors) {
    const Tensor& other = read.tensors.at(name);
    EXPECT_EQ(other.encoding, Encoding::Ggml);
    EXPECT_TRUE(std::ranges::equal(other.sections.at(name).bytes(), tensor.sections.at(name).bytes()));
  }
  std::filesystem::remove(path);
}

TEST(TensorGgml, RefusesWhatContradictsItself) {
  const Tensor good = gguf_stored(random_blocks(3, 4, 2, 1), "w");
  EXPECT_EQ(refusal(good), "decoded");
  Tensor bad = good;
  bad.shape = {4, 96};
  EXPECT_NE(refusal(bad).find("160 bytes where 240 are needed"), std::string::npos) << refusal(bad);
  bad.shape = {16, 16};  // as many elements, but rows that begin within a block
  EXPECT_NE(refusal(bad).find("no whole blocks"), std::string::npos) << refusal(bad);
  bad.shape = {};  // found by fuzzing: its last dimension was read all the same
  EXPECT_NE(refusal(bad).find("rows of 1 elements are no whole blocks"), std::string::npos) << refusal(bad);
  bad = good;
  bad.dtype = DType::F16;
  EXPECT_NE(refusal(bad).find("decode to F32"), std::string::npos) << refusal(bad);
  for (const char* name : {"data", "F32", "IQ2_XS", "Q8_0"}) {
    bad = good;
    auto section = bad.sections.extract("Q4_1");
    section.key() = name;
    bad.sections.insert(std::move(section));
    EXPECT_NE(refusal(bad), "decoded") << name;
    EXPECT_NE(refusal(bad), "") << name;
  }
  bad = good;
  bad.sections.emplace("Q4_0", Blob());
  EXPECT_NE(refusal(bad).find("one section"), std::string::npos) << refusal(bad);
  bad = good;
  bad.sections.clear();
  EXPECT_NE(refusal(bad).find("one section"), std::string::npos) << refusal(bad);
  // Each of a block's two scales, not finite.
  for (const std::size_t at : {0, 2}) {
    const auto bytes = good.sections.at("Q4_1").bytes();
    std::vector<std::uint8_t> data(bytes.begin(), bytes.end());
    data[5 * 20 + at + 1] = 0x7c;
    bad = good;
    bad.sections.at("Q4_1") = Blob(std::move(data));
    EXPECT_NE(refusal(bad).find("block 5 has a scale that is not finite"), std::string::npos) << refusal(bad);
  }
}

TEST(TensorGgml, FindsAScaleThatIsNotFiniteInEveryType) {
  for (std::uint32_t type : kBlockTypes) {
    const GgufTensor stored = random_blocks(type, 3, 2, type);
    const auto block_bytes = ggml_block(type).second;
    int refused = 0;
    for (std::size_t at = 0; at + 1 < block_bytes; ++at) {
      std::vector<std::uint8_t> data(stored.data.bytes().begin(), stored.data.bytes().end());
      data[4 * block_bytes + at] = 0x00, data[4 * block_bytes + at + 1] = 0x7c;
      const GgufTensor damaged{type, stored.shape, Blob(std::move(data))};
      bool decodes = true, stores = true;
      try {
        dequantize_gguf(damaged, "w");
      } catch (const FormatError&) {
        decodes = false;
      }
      try {
        gguf_stored(damaged, "w");
      } catch (const FormatError&) {
        stores = false;
      }
      EXPECT_EQ(decodes, stores) << ggml_type_name(type) << " byte " << at;
      refused += !stores;
    }
    EXPECT_GE(refused, 1) << ggml_type_name(type);
  }
}

}  // namespace
}  // namespace miq
