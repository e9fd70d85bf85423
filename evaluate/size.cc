// Bits come from the stored sections, never from what a method claims to have done.
#include "miq/evaluate/size.h"

#include <array>
#include <filesystem>

#include "miq/base/error.h"
#include "miq/formats/packed_matrix.h"
#include "miq/model/architecture.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

void add_columns_by_bits(const Tensor& tensor, const std::string& name, MatrixBits& bits) {
  const PackedMatrix matrix = unpack(tensor, name);
  for (std::uint16_t group : matrix.group_of_column) ++bits.columns_by_bits[matrix.bits_of_group[group]];
}

MatrixBits matrix_bits(const ExpectedTensor& rule, const Tensor& tensor) {
  MatrixBits bits;
  bits.layer = rule.layer;
  bits.name = std::string(short_linear_name(rule.name));
  bits.encoding = std::string(encoding_name(tensor.encoding));
  bits.weights = static_cast<std::uint64_t>(tensor.elements());
  bits.kept = bits.weights;
  bits.stored_bits = 8 * tensor.stored_bytes();
  switch (tensor.encoding) {
    case Encoding::Packed: {
      const PackedBits parts = packed_bits(tensor, rule.name);
      bits.kept = parts.kept;
      bits.code_bits = parts.codes;
      bits.stored_bits = parts.total();
      add_columns_by_bits(tensor, rule.name, bits);
      break;
    }
    case Encoding::Bitmask: {
      const auto values = tensor.sections.find("values");
      bits.code_bits = values == tensor.sections.end() ? 0 : 8 * values->second.size();
      bits.kept = bits.code_bits / (8 * dtype_bytes(tensor.dtype));
      break;
    }
    case Encoding::Ggml:
      bits.encoding = tensor.sections.begin()->first;  // "Q4_1"
      bits.code_bits = bits.weights * ggml_code_bits(tensor);
      bits.columns_by_bits[ggml_code_bits(tensor)] = tensor.shape.back();
      break;
    case Encoding::Dense:
    case Encoding::Zstd: bits.code_bits = bits.weights * 8 * dtype_bytes(tensor.dtype); break;
  }
  return bits;
}

double ratio(std::uint64_t a, std::uint64_t b) { return b == 0 ? 0 : static_cast<double>(a) / static_cast<double>(b); }

bool is_weight_file(const fs::path& path) {
  static constexpr std::array<std::string_view, 6> kEndings{".safetensors", ".bin", ".pt", ".pth", ".gguf", ".miq"};
  const std::string ending = path.extension().string();
  for (std::string_view known : kEndings) {
    if (ending == known) return true;
  }
  return false;
}

}  // namespace

std::uint64_t checkpoint_bytes(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    const auto size = fs::file_size(path, error);
    if (error) throw Error(path + ": its size cannot be read: " + error.message());
    return size;
  }
  std::uint64_t total = 0;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    std::error_code ignored;
    if (entry.is_regular_file(ignored) && is_weight_file(entry.path())) total += entry.file_size(ignored);
  }
  if (error) throw Error(path + ": cannot be listed: " + error.message());
  return total;
}

SizeFigures measure_size(const Model& model, const std::string& path, ThreadPool& pool) {
  SizeFigures figures;
  figures.file_bytes = checkpoint_bytes(path);
  std::uint64_t parameters = 0;
  for (const auto& [name, tensor] : model.tensors) {
    figures.weight_bytes += tensor.stored_bytes();
    figures.bytes_by_encoding[std::string(encoding_name(tensor.encoding))] += tensor.stored_bytes();
    parameters += static_cast<std::uint64_t>(tensor.elements());
  }
  std::vector<std::pair<const ExpectedTensor*, const Tensor*>> linears;
  const std::vector<ExpectedTensor> expected = expected_tensors(model.config);
  for (const ExpectedTensor& rule : expected) {
    const auto found = model.tensors.find(rule.name);
    if (rule.layer >= 0 && rule.linear && found != model.tensors.end()) linears.emplace_back(&rule, &found->second);
  }
  figures.matrices.resize(linears.size());
  pool.for_each(static_cast<std::int64_t>(linears.size()), [&](std::int64_t unit) {
    const auto i = static_cast<std::size_t>(unit);
    figures.matrices[i] = matrix_bits(*linears[i].first, *linears[i].second);
  });
  std::uint64_t codes = 0, kept = 0, stored = 0, weights = 0;
  for (const MatrixBits& matrix : figures.matrices) {
    codes += matrix.code_bits;
    kept += matrix.kept;
    stored += matrix.stored_bits;
    weights += matrix.weights;
  }
  figures.code_bits = ratio(codes, kept);
  figures.effective_bits = ratio(stored, weights);
  figures.model_bits = ratio(8 * figures.weight_bytes, parameters);
  return figures;
}

}  // namespace miq
