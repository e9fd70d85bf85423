// Writes a container in two passes over blobs that are usually mapped files: one for the checksums,
// which stand in front of the data, and one that copies. Nothing but the small tables is held in
// memory. What was written is read back and checked whole before it takes its name.
#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/atomic_file.h"
#include "miq/formats/container.h"
#include "miq/formats/container_layout.h"
#include "miq/formats/digest.h"
#include "miq/formats/json_events.h"

namespace miq {
namespace {

using namespace container;

// One tensor of the safetensors file: a blob, filled up to `size`.
struct Payload {
  std::string name;
  DType dtype = DType::U8;
  Shape shape;
  Blob blob;
  std::uint64_t size = 0;
};

Payload bytes_payload(std::string name, Blob blob) {
  Payload payload;
  payload.name = std::move(name);
  payload.size = padded(blob.size());
  payload.shape = {static_cast<std::int64_t>(payload.size)};
  payload.blob = std::move(blob);
  return payload;
}

// Bytes [begin, begin + length) of the payload; `buffer` holds them where they are not all in the blob.
Bytes part_of(const Payload& payload, std::uint64_t begin, std::uint64_t length, std::vector<std::uint8_t>& buffer) {
  if (begin + length <= payload.blob.size()) return payload.blob.bytes().subspan(begin, length);
  buffer.assign(length, filling(payload.name));
  if (begin < payload.blob.size()) std::memcpy(buffer.data(), payload.blob.bytes().data() + begin, payload.blob.size() - begin);
  return buffer;
}

void check_content(const Container& content) {
  for (const auto& [name, tensor] : content.tensors) {
    const std::string fault = fault_of_tensor_name(name);
    if (!fault.empty()) throw Error("tensor '" + printable(name) + "' cannot be stored: its name " + fault);
    check_tensor(tensor, name);
  }
  for (const auto& [name, blob] : content.files) {
    const std::string fault = fault_of_file_name(name);
    if (!fault.empty()) throw Error("file '" + printable(name) + "' cannot be stored: its name " + fault);
  }
}

std::string table_of(const Container& content) {
  Json tensors = Json::object(), files = Json::object();
  for (const auto& [name, tensor] : content.tensors) {
    Json entry = {{"encoding", encoding_name(tensor.encoding)}, {"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}};
    if (tensor.encoding != Encoding::Dense) {
      for (const auto& [section, blob] : tensor.sections) entry["sections"][section] = blob.size();
    }
    tensors[name] = std::move(entry);
  }
  for (const auto& [name, blob] : content.files) files[name] = blob.size();
  const Json table = {{"files", std::move(files)}, {"manifest", content.manifest.size()}, {"tensors", std::move(tensors)}};
  return table.dump();
}

// The tensors' payloads: first, by name, those that keep the next one aligned, then the rest, widest
// elements first.
std::vector<Payload> tensor_payloads(const Container& content) {
  std::vector<Payload> aligned, rest;
  for (const auto& [name, tensor] : content.tensors) {
    if (tensor.encoding != Encoding::Dense) {
      for (const auto& [section, blob] : tensor.sections) aligned.push_back(bytes_payload(section_name(name, section), blob));
      continue;
    }
    const Blob& data = tensor.sections.at("data");
    (data.size() % kAlignment == 0 ? aligned : rest).push_back({name, tensor.dtype, tensor.shape, data, data.size()});
  }
  const auto by_name = [](const Payload& a, const Payload& b) { return a.name < b.name; };
  std::sort(aligned.begin(), aligned.end(), by_name);
  std::stable_sort(rest.begin(), rest.end(),
                   [](const Payload& a, const Payload& b) { return dtype_bytes(a.dtype) > dtype_bytes(b.dtype); });
  aligned.insert(aligned.end(), std::make_move_iterator(rest.begin()), std::make_move_iterator(rest.end()));
  return aligned;
}

// Appends the checksums of all payloads, in order; the work is cut into runs of chunks.
std::vector<std::uint8_t> checksums_of(const std::vector<Payload>& payloads, ThreadPool* pool) {
  struct Unit {
    const Payload* payload;
    std::uint64_t begin, end, sum_at;
  };
  constexpr std::uint64_t kUnit = 64 * kChunk;
  std::vector<Unit> units;
  std::uint64_t count = 0;
  for (const Payload& payload : payloads) {
    for (std::uint64_t begin = 0; begin < payload.size; begin += kUnit) units.push_back({&payload, begin, std::min(payload.size, begin + kUnit), count + begin / kChunk});
    count += chunks_of(payload.size);
  }
  std::vector<std::uint8_t> sums(count * 8);
  const auto sum_unit = [&](std::int64_t i) {
    const Unit& unit = units[static_cast<std::size_t>(i)];
    std::vector<std::uint8_t> buffer;
    std::uint8_t* out = sums.data() + unit.sum_at * 8;
    for (std::uint64_t begin = unit.begin; begin < unit.end; begin += kChunk) {
      const std::uint64_t sum = xxh3_64(part_of(*unit.payload, begin, std::min(kChunk, unit.end - begin), buffer));
      for (int k = 0; k < 8; ++k) *out++ = static_cast<std::uint8_t>(sum >> (8 * k));
    }
  };
  if (pool) {
    pool->for_each(static_cast<std::int64_t>(units.size()), sum_unit);
  } else {
    for (std::size_t i = 0; i < units.size(); ++i) sum_unit(static_cast<std::int64_t>(i));
  }
  return sums;
}

// All payloads in the file's order, the checksums filled in.
std::vector<Payload> lay_out(const Container& content, ThreadPool* pool) {
  std::vector<Payload> payloads;
  payloads.push_back(bytes_payload(std::string(kTable), Blob(std::string_view(table_of(content)))));
  payloads.push_back(bytes_payload(std::string(kManifest), Blob(std::string_view(content.manifest))));
  for (const auto& [name, blob] : content.files) payloads.push_back(bytes_payload(std::string(kFilePrefix) + name, blob));
  const std::size_t checksums_at = payloads.size();
  for (Payload& payload : tensor_payloads(content)) payloads.push_back(std::move(payload));

  std::vector<std::uint8_t> sums = checksums_of(payloads, pool);
  sums.resize(padded(sums.size()));
  payloads.insert(payloads.begin() + static_cast<std::ptrdiff_t>(checksums_at),
                  bytes_payload(std::string(kChecksums), Blob(std::move(sums))));
  return payloads;
}

std::string header_of(const std::vector<Payload>& payloads) {
  std::vector<SafetensorsLayout> layout;
  std::map<std::string, std::string> metadata = {
      {"format", "miq"}, {"version", std::to_string(kVersion)}, {"header_digest", std::string(kDigestDigits, '0')}};
  for (const Payload& payload : payloads) {
    layout.push_back({payload.name, payload.dtype, payload.shape});
    if (payload.name == kManifest) metadata["manifest_digest"] = digest_of(payload.blob.bytes());
    if (payload.name == kChecksums) metadata["checksums_digest"] = digest_of(payload.blob.bytes());
  }
  std::string header = safetensors_header(layout, metadata, kAlignment);
  const std::string digest = header_digest(header);
  return header.replace(header_digest_at(header), kDigestDigits, digest);
}

}  // namespace

void write_container(const std::string& path, const Container& content, ThreadPool* pool) {
  check_content(content);
  const std::vector<Payload> payloads = lay_out(content, pool);
  const std::string header = header_of(payloads);
  std::uint64_t size = header.size();
  for (const Payload& payload : payloads) size += payload.size;
  AtomicFile file(path, size);
  file.write({reinterpret_cast<const std::uint8_t*>(header.data()), header.size()});
  std::vector<std::uint8_t> buffer;
  for (const Payload& payload : payloads) {
    file.write(payload.blob.bytes());
    if (payload.size > payload.blob.size()) file.write(part_of(payload, payload.blob.size(), payload.size - payload.blob.size(), buffer));
  }
  file.commit([&](const std::string& temporary) { verify_container(temporary, pool); });
}

}  // namespace miq
