// container_sample FOLDER: writes FOLDER/sample.miq with tensors in every encoding, and FOLDER/expected.safetensors
// with the same tensors decoded, for compare_container.py.
#include <cstring>
#include <iostream>
#include <random>

#include "miq/base/error.h"
#include "miq/formats/atomic_file.h"
#include "miq/formats/container.h"
#include "miq/formats/packed_matrix.h"
#include "miq/formats/safetensors.h"

namespace {

using namespace miq;

Tensor dense_sample(DType dtype, Shape shape, std::mt19937& random) {
  std::vector<std::uint8_t> bytes(tensor_bytes(dtype, shape).value());
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(dtype == DType::Bool ? random() % 2 : random());
  return dense_tensor(dtype, std::move(shape), Blob(std::move(bytes)));
}

Tensor packed_sample(const std::vector<std::uint8_t>& widths, bool masked, DType dtype, std::mt19937& random, int scale_bits = 0) {
  PackedMatrix matrix;
  matrix.rows = 37;
  matrix.cols = 61;
  matrix.bits_of_group = widths;
  for (std::int64_t c = 0; c < matrix.cols; ++c) matrix.group_of_column.push_back(static_cast<std::uint16_t>(random() % widths.size()));
  for (std::uint8_t width : widths) {
    for (std::int64_t r = 0; r < matrix.rows; ++r) {
      matrix.scales.push_back(static_cast<float>(1 + random() % 1000) / 1024.0f);
      matrix.zeros.push_back(static_cast<std::uint8_t>(random() % (1u << width)));
    }
  }
  for (std::int64_t i = 0; i < matrix.rows * matrix.cols; ++i) {
    const unsigned width = widths[matrix.group_of_column[static_cast<std::size_t>(i % matrix.cols)]];
    matrix.codes.push_back(static_cast<std::uint8_t>(random() % (1u << width)));
    if (masked) matrix.kept.push_back(random() % 2);
  }
  if (scale_bits > 0) {
    matrix.scale_dtype = DType::F32;
    matrix.scale_bits = scale_bits;
    for (std::int64_t r = 0; r < matrix.rows; ++r) matrix.row_exponents.push_back(static_cast<std::uint8_t>(120 + random() % 12));
    for (std::size_t i = 0; i < matrix.scales.size(); ++i)
      matrix.scales[i] = nearest_scale(matrix, static_cast<std::int64_t>(i) / matrix.rows, static_cast<std::int64_t>(i) % matrix.rows, matrix.scales[i]);
  }
  return pack(matrix, dtype);
}

Container sample() {
  std::mt19937 random(5);
  Container content;
  content.manifest = R"({"made for":"compare_container.py"})";
  content.files["config.json"] = Blob(std::string_view("{}"));
  for (DType dtype : {DType::Bool, DType::U8, DType::I8, DType::I16, DType::I32, DType::I64, DType::F8E4M3, DType::F8E5M2, DType::F16,
                      DType::BF16, DType::F32, DType::F64}) {
    content.tensors["dense." + std::string(dtype_name(dtype))] = dense_sample(dtype, {5, 7}, random);
    content.tensors["aligned." + std::string(dtype_name(dtype))] = dense_sample(dtype, {2, 32}, random);
  }
  content.tensors["scalar"] = dense_sample(DType::F32, {}, random);
  content.tensors["empty"] = dense_sample(DType::F32, {0, 3}, random);
  std::vector<std::uint8_t> half(800 * 2);
  for (std::size_t i = 0; i < half.size(); i += 2) {
    if (random() % 2) half[i] = static_cast<std::uint8_t>(random()), half[i + 1] = 0x3C;
  }
  const Tensor sparse = dense_tensor(DType::BF16, {40, 20}, Blob(std::move(half)));
  content.tensors["bitmask"] = encode_bitmask(sparse);
  content.tensors["zstd"] = encode_zstd(sparse);
  content.tensors["packed.one"] = packed_sample({4}, false, DType::F32, random);
  content.tensors["packed.groups"] = packed_sample({2, 3, 4, 6, 8}, false, DType::BF16, random);
  content.tensors["packed.coded"] = packed_sample({2, 3, 4, 6, 8}, false, DType::F32, random, 8);
  content.tensors["packed.coded.short"] = packed_sample({3, 4, 8}, true, DType::BF16, random, 5);
  content.tensors["packed.masked"] = packed_sample({3, 6, 8}, true, DType::F16, random);
  return content;
}

void write_expected(const std::string& path, const Container& content) {
  std::vector<SafetensorsLayout> layout;
  for (const auto& [name, tensor] : content.tensors) layout.push_back({name, tensor.dtype, tensor.shape});
  AtomicFile file(path);
  const std::string header = safetensors_header(layout, {});
  file.write({reinterpret_cast<const std::uint8_t*>(header.data()), header.size()});
  for (const auto& [name, tensor] : content.tensors) file.write(decode(tensor, name).bytes());
  file.commit();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: container_sample FOLDER\n";
    return 2;
  }
  try {
    const std::string folder = argv[1];
    const Container content = sample();
    write_container(folder + "/sample.miq", content);
    write_expected(folder + "/expected.safetensors", content);
  } catch (const miq::Error& error) {
    std::cerr << error.what() << "\n";
    return error.exit_code();
  }
}
