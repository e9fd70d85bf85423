// Structured bindings name every field of every struct: one that is added does not compile here until it is written and read as well.
#include "miq/compress/matrix_record.h"

#include "miq/formats/packed_matrix.h"

namespace miq {
namespace {

void write_tensor(RecordWriter& writer, const Tensor& tensor) {
  const auto& [encoding, dtype, shape, sections] = tensor;
  writer.text(encoding_name(encoding));
  writer.text(dtype_name(dtype));
  writer.list(shape);
  writer.u64(sections.size());
  for (const auto& [name, blob] : sections) {
    writer.text(name);
    writer.blob(blob);
  }
}

Tensor read_tensor(RecordReader& reader, const std::string& name, const Shape& shape) {
  Tensor tensor;
  const auto encoding = encoding_from_name(reader.text());
  const auto dtype = dtype_from_name(reader.text());
  if (!encoding || !dtype) reader.refuse("the tensor '" + name + "' has an unknown encoding or type");
  tensor.encoding = *encoding;
  tensor.dtype = *dtype;
  tensor.shape = reader.list<std::int64_t>();
  if (tensor.shape != shape) reader.refuse("the tensor '" + name + "' has another shape than in the model");
  for (std::uint64_t sections = reader.count(16); sections > 0; --sections) {
    std::string section = reader.text();
    tensor.sections[std::move(section)] = reader.blob();
  }
  check_tensor(tensor, name);
  return tensor;
}

}  // namespace

void write_matrix(RecordWriter& writer, const FinishedMatrix& matrix) {
  const auto& [rule, name, result, stored] = matrix;
  // Every field of the result; values and packed are what `stored` holds.
  const auto& [values, packed, output_loss, fallback, expert_tokens, refined, damping, dead_channels, error, importance] = result;
  writer.text(rule);
  writer.text(name);
  writer.u8(output_loss.has_value());
  writer.f64(output_loss.value_or(0));
  writer.u8(fallback);
  writer.u64(static_cast<std::uint64_t>(expert_tokens.value_or(-1) + 1));
  writer.f64(refined);
  writer.f64(damping);
  writer.u64(static_cast<std::uint64_t>(dead_channels));
  writer.f64(error);
  writer.u8(importance.has_value());
  for (double value : importance.value_or(std::array<double, 2>{})) writer.f64(value);
  write_tensor(writer, stored);
}

FinishedMatrix read_matrix(RecordReader& reader, const Model& model) {
  FinishedMatrix matrix;
  auto& [rule, name, result, stored] = matrix;
  auto& [values, packed, output_loss, fallback, expert_tokens, refined, damping, dead_channels, error, importance] = result;
  rule = reader.text();
  name = reader.text();
  const auto found = model.tensors.find(name);
  if (found == model.tensors.end()) reader.refuse("the tensor '" + name.substr(0, 100) + "' is none of the model's");
  const bool has_loss = reader.u8();
  const double loss = reader.f64();
  if (has_loss) output_loss = loss;
  fallback = reader.u8();
  if (const std::uint64_t tokens = reader.u64(); tokens > 0) expert_tokens = static_cast<std::int64_t>(tokens - 1);
  refined = reader.f64();
  damping = reader.f64();
  dead_channels = static_cast<std::int64_t>(reader.u64());
  error = reader.f64();
  const bool has_importance = reader.u8();
  const double least = reader.f64(), most = reader.f64();
  if (has_importance) importance = {least, most};
  stored = read_tensor(reader, name, found->second.shape);
  if (stored.encoding == Encoding::Packed) packed = unpack(stored, name);
  return matrix;
}

}  // namespace miq
