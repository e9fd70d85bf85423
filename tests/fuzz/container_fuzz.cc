// Containers whose digests are right, so that what lies behind them is reached. The first byte says what the input is: a merge patch of the
// table ('t'), texts that replace some of the header's ('h', a merge patch too), the bytes of a section ('p': the next byte says which), or the
// file itself (any other). The byte behind it chooses one of small containers, with one encoding each: all of them at once take ten times as
// long. What is accepted can be decoded.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <unistd.h>
#include <vector>

#include "miq/base/checked.h"
#include "miq/base/error.h"
#include "miq/formats/gguf.h"
#include "miq/formats/mapped_file.h"
#include "tests/formats/container_samples.h"

namespace {

using namespace miq;

std::string written(const Container& content) {
  const std::string path = (std::filesystem::temp_directory_path() / ("miq_fuzz_" + std::to_string(::getpid()) + ".miq")).string();
  write_container(path, content);
  verify_container(path);  // a base that is refused itself would hide everything behind its fault
  std::string text = read_text_file(path);
  std::filesystem::remove(path);
  return text;
}

Container with(const char* name, Tensor tensor) {
  Container content;
  content.manifest = "{}";
  content.tensors[name] = std::move(tensor);
  return content;
}

PackedMatrix coded_matrix() {
  PackedMatrix matrix = test::small_matrix();
  matrix.scale_dtype = DType::F32;
  matrix.scale_bits = 5;
  matrix.row_exponents = {130, 131};
  for (std::int64_t g = 0; g < matrix.groups(); ++g) {
    for (std::int64_t r = 0; r < matrix.rows; ++r) {
      float& scale = matrix.scales[static_cast<std::size_t>(g * matrix.rows + r)];
      scale = nearest_scale(matrix, g, r, scale);
    }
  }
  return matrix;
}

const std::vector<test::Rewriter>& bases() {
  static const std::vector<test::Rewriter> made = [] {
    const Tensor dense = dense_tensor(DType::F32, {2, 3}, Blob(test::floats({1, 0, 0, -2, 0, 0.5f})));
    PackedMatrix plain = test::small_matrix();
    plain.kept.clear();
    plain.scale_dtype = DType::F32;
    const GgufTensor blocks{8, {1, 32}, Blob(std::vector<std::uint8_t>(34, 0x11))};
    Container files = with("empty", dense_tensor(DType::F32, {0, 7}, Blob()));
    files.files["config.json"] = Blob(std::string_view("{}"));
    files.files["empty.txt"] = Blob();
    Container masks = with("f16", encode_bitmask(dense_tensor(DType::F16, {11}, Blob(std::string_view("a\0b\0\0\0\0\0c\0\0\0\0\0d\0e\0\0\0f\0", 22)))));
    Container frames = with("f16", encode_zstd(dense_tensor(DType::F16, {2}, Blob(std::string_view("abcd")))));
    masks.tensors["u8"] = encode_bitmask(dense_tensor(DType::U8, {40}, Blob(std::string(40, 'a'))));
    masks.tensors["f64"] = encode_bitmask(dense_tensor(DType::F64, {2}, Blob(std::string(16, 'a'))));
    frames.tensors["u8"] = encode_zstd(dense_tensor(DType::U8, {3}, Blob(std::string_view("abc"))));
    frames.tensors["f64"] = encode_zstd(dense_tensor(DType::F64, {2}, Blob(std::string(16, 'a'))));
    std::vector<test::Rewriter> list;
    for (const Container& content : {with("d", dense), with("d", encode_bitmask(dense)), with("d", encode_zstd(dense)), with("d", pack(test::small_matrix())),
                                     with("d", pack(plain, DType::BF16)), with("d", pack(coded_matrix())), with("d", gguf_stored(blocks, "d")), files, test::rich_container(), masks, frames}) {
      list.emplace_back(written(content));
    }
    return list;
  }();
  return made;
}

std::string file_of(const std::string& input) {
  if (input.size() < 3) return input;
  const test::Rewriter& base = bases()[static_cast<std::uint8_t>(input[1] - '0') % bases().size()];
  const std::string rest = input.substr(2);
  if (input[0] == 't') {
    return base([&](Json& table) { table.merge_patch(parse_json(rest, "patch")); });
  }
  if (input[0] == 'h') {
    const Json patch = parse_json(rest, "patch");
    return base([](Json&) {}, [&](std::map<std::string, std::string>& metadata) {
      if (!patch.is_object()) return;
      for (const auto& [key, value] : patch.items()) {
        if (value.is_string()) metadata[key] = value.get<std::string>();
        if (value.is_null()) metadata.erase(key);
      }
    });
  }
  if (input[0] == 'p') {
    int number = static_cast<std::uint8_t>(rest[0] - '0') % 8;
    return base([](Json&) {}, {}, [&](const std::string& stored, std::string& bytes) {
      const bool chosen = number == 7 ? stored == "miq/manifest.json" || stored == "the checksums" : stored.find('#') != stored.npos && number-- == 0;
      if (chosen) bytes = rest.substr(1);
    });
  }
  return input;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string input = file_of(std::string(reinterpret_cast<const char*>(data), size));
    const Blob file{std::string_view(input)};
    looks_like_container(file.bytes());
    // Damage is counted where reading stops at the first: a file without any may still be refused, but not the other way round. To look at
    // every chunk twice costs time: one input in four, by its length.
    const bool whole = input.size() % 4 != 0 || damaged_chunks(file, "input").empty();
    const Container content = read_container(file, "input");
    if (!whole) std::abort();
    for (const auto& [name, tensor] : content.tensors) {
      const auto bytes = tensor_bytes(tensor.dtype, tensor.shape);
      if (!bytes) std::abort();
      if (*bytes > (1 << 16)) continue;
      try {
        if (decode(tensor, name).size() != *bytes) std::abort();
      } catch (const FormatError&) {  // what only decoding sees, such as a frame that is damaged within
      }
    }
  } catch (const FormatError&) {
  }
  return 0;
}
