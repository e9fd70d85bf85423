// Encoding ggml: the blocks of a GGUF file, decoded by that format's own functions. Blocks are independent, so threads take runs of them.
#include <algorithm>

#include "miq/base/checked.h"
#include "miq/formats/encodings.h"
#include "miq/formats/gguf_blocks.h"

namespace miq {
namespace encodings {
namespace {

struct Blocks {
  const GgufBlockType& type;
  Bytes bytes;
  std::int64_t count() const { return static_cast<std::int64_t>(bytes.size() / type.bytes); }
};

// All checks but that of the scales.
Blocks blocks_of(const Tensor& tensor, std::string_view name) {
  if (tensor.sections.size() != 1) throw FormatError(subject(name), "encoding ggml has one section, not " + std::to_string(tensor.sections.size()));
  const auto& [type_name, data] = *tensor.sections.begin();
  const GgufBlockType* type = gguf_block_type(std::string_view(type_name));
  if (!type || type->code_bits == 0) throw FormatError(subject(name), "section '" + type_name + "' is no type of blocks that miq can decode");
  if (tensor.dtype != DType::F32) throw FormatError(subject(name), "blocks decode to F32, not " + std::string(dtype_name(tensor.dtype)));
  const std::uint64_t elements = decoded_bytes(tensor, name) / sizeof(float);
  const std::int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();  // a scalar has no shape
  if (elements > 0 && row % type->elements != 0) {
    throw FormatError(subject(name), "rows of " + std::to_string(row) + " elements are no whole blocks of " + std::to_string(type->elements));
  }
  require_size(name, type_name.c_str(), data.size(), elements / type->elements * type->bytes);
  return {*type, data.bytes()};
}

void refuse_bad(std::int64_t bad, std::string_view name) {
  if (bad < 0) return;
  throw FormatError(subject(name), "block " + std::to_string(bad) + " has a scale that is not finite", "The file is damaged; make it again from its source");
}

}  // namespace

void check_ggml(const Tensor& tensor, std::string_view name) {
  const Blocks blocks = blocks_of(tensor, name);
  refuse_bad(blocks.type.first_bad(blocks.bytes.data(), blocks.count()), name);
}

void decode_ggml(const Tensor& tensor, std::string_view name, std::span<std::uint8_t> out, ThreadPool* pool) {
  constexpr std::int64_t kRun = 1 << 14;  // blocks a unit of work
  const Blocks blocks = blocks_of(tensor, name);
  const std::int64_t runs = (blocks.count() + kRun - 1) / kRun;
  const auto decode_run = [&](std::int64_t run) {
    const std::int64_t first = run * kRun, count = std::min(kRun, blocks.count() - first);
    float* to = reinterpret_cast<float*>(out.data()) + first * blocks.type.elements;
    const std::int64_t bad = blocks.type.decode(blocks.bytes.data() + first * blocks.type.bytes, count, to);
    if (bad >= 0) refuse_bad(first + bad, name);
  };
  if (pool && runs > 1) return pool->for_each(runs, decode_run);
  for (std::int64_t run = 0; run < runs; ++run) decode_run(run);
}

}  // namespace encodings

unsigned ggml_code_bits(const Tensor& tensor) { return gguf_block_type(std::string_view(tensor.sections.begin()->first))->code_bits; }

}  // namespace miq
