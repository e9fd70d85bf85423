// Containers for tests, and a way to change one so that only what the change itself says can be refused.
#pragma once

#include <algorithm>
#include <cstring>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "miq/formats/container.h"
#include "miq/formats/container_layout.h"
#include "miq/formats/digest.h"
#include "miq/formats/packed_matrix.h"
#include "miq/formats/safetensors.h"

namespace miq::test {

inline PackedMatrix small_matrix() {
  PackedMatrix matrix;
  matrix.rows = 2;
  matrix.cols = 4;
  matrix.group_of_column = {0, 1, 0, 1};
  matrix.bits_of_group = {3, 4};
  matrix.scales = {0.5f, 0.25f, 1.0f, 2.0f};
  matrix.zeros = {4, 3, 8, 7};
  matrix.codes = {1, 15, 7, 2, 0, 9, 5, 0};
  matrix.kept = {1, 1, 1, 1, 0, 1, 1, 0};
  return matrix;
}

// The example of the spec.
inline Container small_container() {
  Container content;
  content.manifest = R"({"name":"example"})";
  content.files["config.json"] = Blob(std::string_view("{}"));
  const std::uint16_t words[] = {0x3F80, 0xC000, 0x0000};  // 1, -2, 0
  std::vector<std::uint8_t> bytes(6);
  std::memcpy(bytes.data(), words, 6);
  content.tensors["bias"] = dense_tensor(DType::BF16, {3}, Blob(bytes));
  content.tensors["q"] = pack(small_matrix());
  return content;
}

inline std::vector<std::uint8_t> floats(const std::vector<float>& values) {
  std::vector<std::uint8_t> bytes(values.size() * 4);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Every encoding, lengths that are and are not multiples of 64, an empty tensor and a scalar.
inline Container rich_container() {
  Container content = small_container();
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(96);
  for (float& value : values) value = random() % 2 ? normal(random) : 0.0f;
  const Tensor dense = dense_tensor(DType::F32, {8, 12}, Blob(floats(values)));
  content.tensors["dense.weight"] = dense;
  content.tensors["mask.weight"] = encode_bitmask(dense);
  content.tensors["zstd.weight"] = encode_zstd(dense);
  content.tensors["odd"] = dense_tensor(DType::U8, {5}, Blob(std::string_view("abcde")));
  content.tensors["wide"] = dense_tensor(DType::F64, {1}, Blob(std::vector<std::uint8_t>(8, 1)));
  content.tensors["empty"] = dense_tensor(DType::F32, {0, 7}, Blob());
  content.tensors["scalar"] = dense_tensor(DType::F32, {}, Blob(floats({7.0f})));
  PackedMatrix whole = small_matrix();
  whole.kept.clear();
  whole.scale_dtype = DType::F32;
  content.tensors["packed.plain"] = pack(whole, DType::BF16);
  content.files["tokenizer.json"] = Blob(std::string(200, 't'));
  content.files["empty.txt"] = Blob();
  return content;
}

// A good container, taken apart once, and put together again with its table, metadata or payloads changed and every digest made right: a file
// that some writer wrote. A payload keeps its length; a table that is no longer JSON is not looked at.
class Rewriter {
 public:
  explicit Rewriter(const std::string& good) : good_(good), file_(read_safetensors(Blob(std::string_view(good_)), "x.miq")) {
    for (const auto& [name, entry] : file_.entries) order_.emplace_back(entry.begin * 2 + (entry.end > entry.begin), name);
    std::sort(order_.begin(), order_.end());
    table_ = Json::parse(file_.data(file_.entries.at("miq/tensors.json")).text());
  }

  std::string operator()(const std::function<void(Json& table)>& change_table, const std::function<void(std::map<std::string, std::string>&)>& change_metadata = {},
                         const std::function<void(const std::string& stored, std::string& bytes)>& change_payload = {}) const {
    std::map<std::string, std::string> payloads;
    std::string sums;
    auto metadata = file_.metadata;
    for (const auto& [begin, name] : order_) {
      std::string& bytes = payloads[name] = file_.data(file_.entries.at(name)).text();
      if (name == "miq/tensors.json") {
        Json json = table_;
        change_table(json);
        bytes = json.dump();
        bytes.resize(container::padded(bytes.size()), ' ');
      }
      if (change_payload) {
        const std::size_t size = bytes.size();
        change_payload(name, bytes);
        bytes.resize(size);
      }
      if (name == "miq/manifest.json") metadata["manifest_digest"] = digest_of(bytes_of(bytes).first(bytes.find_last_not_of(' ') + 1));
      if (name == "miq/checksums" || bytes.empty()) continue;
      const std::uint64_t sum = xxh3_64(bytes_of(bytes));
      sums.append(reinterpret_cast<const char*>(&sum), 8);
    }
    sums.resize(container::padded(sums.size()), '\0');
    if (change_payload) change_payload("the checksums", sums);  // of any length
    payloads["miq/checksums"] = sums;
    metadata["checksums_digest"] = digest_of(bytes_of(sums));
    if (change_metadata) change_metadata(metadata);
    return put_together(payloads, metadata);
  }

 private:
  static Bytes bytes_of(std::string_view text) { return Bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()); }

  std::string put_together(const std::map<std::string, std::string>& payloads, const std::map<std::string, std::string>& metadata) const {
    std::vector<SafetensorsLayout> layout;
    std::string data;
    for (const auto& [begin, name] : order_) {
      const SafetensorsEntry& entry = file_.entries.at(name);
      const std::string& bytes = payloads.at(name);
      const bool text = name == "miq/tensors.json" || name == "miq/checksums";
      layout.push_back({name, entry.dtype, text ? Shape{static_cast<std::int64_t>(bytes.size())} : entry.shape});
      data += bytes;
    }
    std::string header = safetensors_header(layout, metadata, 64);
    const std::size_t at = container::header_digest_at(header);
    if (at != header.npos) header.replace(at, 32, container::header_digest(header));
    return header + data;
  }

  std::string good_;
  SafetensorsFile file_;
  std::vector<std::pair<std::uint64_t, std::string>> order_;  // stored names as they lie in the file
  Json table_;
};

inline std::string rewritten(const std::string& good, const std::function<void(Json& table)>& change_table,
                             const std::function<void(std::map<std::string, std::string>&)>& change_metadata = {},
                             const std::function<void(const std::string& stored, std::string& bytes)>& change_payload = {}) {
  return Rewriter(good)(change_table, change_metadata, change_payload);
}

}  // namespace miq::test
