#include "miq/evaluate/count.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "miq/base/error.h"
#include "miq/evaluate/size.h"
#include "miq/formats/packed_matrix.h"
#include "tests/evaluate/toy.h"

namespace miq {
namespace {

constexpr const char* kGate = "model.layers.1.mlp.gate_proj.weight";

// Sets every third weight of one matrix to zero, one of them to -0.0; returns how many.
std::int64_t put_zeros(Model& model) {
  Tensor& tensor = model.tensors.at(kGate);
  const Blob blob = decode(tensor, kGate);
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  std::memcpy(values.data(), blob.bytes().data(), blob.size());
  std::int64_t zeros = 0;
  for (std::size_t i = 0; i < values.size(); i += 3, ++zeros) values[i] = i == 3 ? -0.0f : 0.0f;
  const auto* begin = reinterpret_cast<const std::uint8_t*>(values.data());
  tensor = dense_tensor(DType::F32, tensor.shape, Blob(std::vector<std::uint8_t>(begin, begin + 4 * values.size())));
  return zeros;
}

std::string some_file() {
  const std::string path = testing::TempDir() + "miq_size_test.miq";
  std::ofstream(path) << std::string(1234, 'x');
  return path;
}

TEST(Count, PartsAddUpAndZerosAreThoseOfTheLinears) {
  auto toy = test::toy_model();
  const std::int64_t zeros = put_zeros(toy.model);
  ThreadPool pool(2);
  const ParameterCount count = count_parameters(toy.model, pool);
  std::int64_t sum = 0, linears = 0, matrix_zeros = 0;
  for (const auto& [part, parameters] : count.by_part) sum += parameters;
  for (const MatrixCount& matrix : count.matrices) {
    linears += matrix.weights;
    matrix_zeros += matrix.zeros;
    EXPECT_EQ(matrix.rows * matrix.cols, matrix.weights);
  }
  EXPECT_EQ(sum, count.total);
  EXPECT_EQ(count.total - count.nonzero, zeros);
  EXPECT_EQ(count.decoder_linears, linears);
  EXPECT_EQ(count.decoder_linear_zeros, zeros);
  EXPECT_EQ(matrix_zeros, zeros);
  EXPECT_EQ(count.matrices.size(), 3u * 7u);
  EXPECT_EQ(count.matrices[7 + 4].name, "gate_proj");
  EXPECT_EQ(count.matrices[7 + 4].zeros, zeros);
}

TEST(Count, ATensorThatNothingUsesIsNotCountedSilently) {
  auto toy = test::toy_model();
  toy.model.tensors.emplace("model.layers.0.self_attn.extra", toy.model.tensors.at("model.norm.weight"));
  ThreadPool pool(1);
  EXPECT_THROW(count_parameters(toy.model, pool), Error);
}

TEST(Size, DenseWeightsCountTheirType) {
  const auto toy = test::toy_model(-1, DType::BF16);
  ThreadPool pool(2);
  const SizeFigures size = measure_size(toy.model, some_file(), pool);
  EXPECT_EQ(size.file_bytes, 1234u);
  EXPECT_DOUBLE_EQ(size.code_bits, 16);
  EXPECT_DOUBLE_EQ(size.effective_bits, 16);
  EXPECT_DOUBLE_EQ(size.model_bits, 16);
}

TEST(Size, BitmaskAndPackedMatricesCountWhatTheyStore) {
  auto toy = test::toy_model();
  const std::int64_t zeros = put_zeros(toy.model);
  // Everything but two matrices is taken out of the picture by comparing with the matrices' own entries.
  toy.model.tensors.at(kGate) = encode_bitmask(toy.model.tensors.at(kGate));
  PackedMatrix packed;
  packed.rows = 37;
  packed.cols = 53;
  packed.group_of_column.assign(53, 0);
  for (std::size_t c = 40; c < 53; ++c) packed.group_of_column[c] = 1;
  packed.bits_of_group = {3, 8};
  packed.scales.assign(2 * 37, 0.5f);
  packed.zeros.assign(2 * 37, 1);
  packed.codes.assign(37 * 53, 2);
  toy.model.tensors.at("model.layers.0.mlp.down_proj.weight") = pack(packed);
  ThreadPool pool(2);
  const SizeFigures size = measure_size(toy.model, some_file(), pool);
  const MatrixBits& mask = size.matrices[7 + 4];
  EXPECT_EQ(mask.encoding, "bitmask");
  EXPECT_EQ(mask.kept, mask.weights - static_cast<std::uint64_t>(zeros) + 1);  // -0.0 is a zero, but must come back as it was
  EXPECT_EQ(mask.code_bits, 32 * mask.kept);
  EXPECT_GT(mask.stored_bits, mask.code_bits + mask.weights - 1);
  const MatrixBits& codes = size.matrices[6];
  EXPECT_EQ(codes.encoding, "packed");
  EXPECT_EQ(codes.code_bits, 37u * (40 * 3 + 13 * 8));
  EXPECT_GT(codes.stored_bits, codes.code_bits + 2 * 37 * 16 - 1);
  EXPECT_EQ(codes.columns_by_bits, (std::map<int, std::uint64_t>{{3, 40}, {8, 13}}));
}

TEST(Size, BlocksOfGgmlCountAsTheyLie) {
  auto toy = test::toy_model();
  ThreadPool pool(2);
  Tensor blocks;
  blocks.encoding = Encoding::Ggml;
  blocks.shape = {2, 64};
  blocks.sections.emplace("Q4_1", Blob(std::vector<std::uint8_t>(4 * 20)));
  toy.model.tensors.at(kGate) = blocks;
  const MatrixBits gate = measure_size(toy.model, some_file(), pool).matrices[7 + 4];
  EXPECT_EQ(gate.encoding, "Q4_1");
  EXPECT_EQ(gate.weights, 128u);
  EXPECT_EQ(gate.kept, 128u);
  EXPECT_EQ(gate.code_bits, 4 * 128u);
  EXPECT_EQ(gate.stored_bits, 5 * 128u);
  EXPECT_EQ(gate.columns_by_bits, (std::map<int, std::uint64_t>{{4, 64}}));
}

}  // namespace
}  // namespace miq
