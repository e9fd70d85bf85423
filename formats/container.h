// The .miq container: a valid safetensors file that describes itself. Spec: spec/miq.md.
//
// A dense tensor is stored under its own name; every section of another encoding is a tensor of its
// own, named NAME#SECTION. A manifest (JSON), the source's small files (config.json, tokenizer) and
// the checksum table are U8 tensors whose names begin with "miq/". No path and no time is stored:
// the same content gives the same bytes.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "miq/base/blob.h"
#include "miq/base/thread_pool.h"
#include "miq/formats/tensor.h"

namespace miq {

struct Container {
  std::string manifest;               // JSON text; its meaning belongs to the model room
  std::map<std::string, Blob> files;  // "config.json", "tokenizer.json", …: base names only
  std::map<std::string, Tensor> tensors;
};

// Atomic (see atomic_file.h), and read back and verified before the rename. Checksums are worked out by all
// threads of `pool` where there is one; the bytes are the same.
void write_container(const std::string& path, const Container& container, ThreadPool* pool = nullptr);

// Maps the file and checks the header, the manifest, the files and the tensor table against their
// checksums, and every tensor's bytes too where `verify_tensors`. Errors name the tensor and the
// chunk's offset in the file.
Container read_container(const std::string& path, bool verify_tensors = true, ThreadPool* pool = nullptr);
// The same from bytes in memory; `name` is used in messages.
Container read_container(Blob file, const std::string& name, bool verify_tensors = true, ThreadPool* pool = nullptr);
// Throws FormatError for the first chunk whose checksum is wrong, and for anything else that reading
// the file and its tensors' sections would refuse.
void verify_container(const std::string& path, ThreadPool* pool = nullptr);

// A chunk whose bytes do not match their checksum.
struct DamagedChunk {
  std::string what;                      // "tensor NAME", "tensor NAME, section 'codes'" or a reserved name
  std::uint64_t offset = 0, length = 0;  // in the file
};
// All of them, in the file's order. Throws FormatError as read_container() where the header or the table of checksums is damaged: nothing
// else can be believed then.
std::vector<DamagedChunk> damaged_chunks(Blob file, const std::string& name);

// True when the bytes begin like a safetensors file whose header metadata says format "miq".
bool looks_like_container(Bytes start_of_file);

}  // namespace miq
