// Damage in containers, and whether it is found: every bit of a container of about 64 KiB, and single bits and bursts drawn at random in
// one of SIZE MiB. Each must be refused with the name of what it hit; nothing is ever read wrong. In the large one, one of 200 is judged by
// reading the whole file; the others, a bit in every chunk at once, by the list of damaged chunks, which must be exactly those that were hit.
//   bitflips [SIZE MiB] [FLIPS] [STEP]    STEP: every STEP-th bit of the small one (default 1 100000 1)
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <unistd.h>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/container_layout.h"
#include "miq/formats/mapped_file.h"
#include "tests/formats/container_samples.h"

namespace {

using namespace miq;

// Tensors of every encoding with `values` weights each.
Container content_of(std::int64_t values, unsigned seed) {
  Container content = test::rich_container();
  std::mt19937 random(seed);
  const auto bytes = [&](std::size_t size) {
    std::vector<std::uint8_t> made(size);
    for (auto& byte : made) byte = static_cast<std::uint8_t>(random());
    return made;
  };
  std::vector<float> few(static_cast<std::size_t>(values) / 4);
  for (float& value : few) value = random() % 2 ? static_cast<float>(random() % 1000) : 0;
  const Tensor dense = dense_tensor(DType::F32, {static_cast<std::int64_t>(few.size())}, Blob(test::floats(few)));
  content.tensors["layers.0.dense"] = dense_tensor(DType::BF16, {values}, Blob(bytes(static_cast<std::size_t>(values) * 2)));
  content.tensors["layers.0.mask"] = encode_bitmask(dense);
  content.tensors["layers.0.zstd"] = encode_zstd(dense);
  PackedMatrix matrix;
  matrix.rows = values / 512;
  matrix.cols = 512;
  matrix.group_of_column.assign(512, 0);
  for (std::size_t column = 0; column < 512; ++column) matrix.group_of_column[column] = static_cast<std::uint16_t>(column / 64);
  matrix.bits_of_group.assign(8, 4);
  matrix.scales.assign(static_cast<std::size_t>(matrix.rows) * 8, 0.5f);
  matrix.zeros.assign(static_cast<std::size_t>(matrix.rows) * 8, 8);
  for (std::int64_t i = 0; i < matrix.rows * 512; ++i) matrix.codes.push_back(random() % 16);
  content.tensors["layers.0.packed"] = pack(matrix);
  return content;
}

std::string written(const Container& content) {
  const std::string path = (std::filesystem::temp_directory_path() / ("miq_bitflips_" + std::to_string(::getpid()) + ".miq")).string();
  write_container(path, content);
  std::string text = read_text_file(path, std::numeric_limits<std::uint64_t>::max());
  std::filesystem::remove(path);
  return text;
}

class Check {
 public:
  explicit Check(std::string good) : bytes_(std::move(good)), good_(bytes_), file_(read_safetensors(view(), "x")) {
    for (const auto& [name, entry] : file_.entries) {
      if (entry.begin != entry.end) owners_.push_back({file_.data_begin + entry.begin, file_.data_begin + entry.end, name.starts_with("miq/") ? name : "tensor " + name.substr(0, name.find('#'))});
    }
    std::sort(owners_.begin(), owners_.end(), [](const Owner& a, const Owner& b) { return a.begin < b.begin; });
  }
  std::string& bytes() { return bytes_; }
  std::uint64_t data_begin() const { return file_.data_begin; }

  // Judges the damage in [begin, end) and makes it good again.
  void judge(std::size_t begin, std::size_t end, const char* what) {
    ++tried_;
    std::string message;
    try {
      read_container(view(), "x.miq");
    } catch (const FormatError& error) {
      message = error.what();
    }
    bool named = begin < file_.data_begin;  // a header that is no longer believed names nothing
    for (const Owner& owner : owners_) named |= begin < owner.end && end > owner.begin && message.find(owner.name) != message.npos;
    if (message.empty() || !named) {
      ++wrong_;
      std::printf("%s at %zu to %zu: %s\n", what, begin, end, message.empty() ? "NOT FOUND" : message.c_str());
    }
    std::memcpy(&bytes_[begin], &good_[begin], end - begin);
  }
  // One bit of every chunk, and no more than `most`; made good again.
  void judge_chunks(std::uint64_t most, std::mt19937_64& random) {
    struct Hit {
      std::size_t byte;
      char before;
      std::uint64_t chunk;
      const Owner* owner;
    };
    std::vector<Hit> hits;
    for (const Owner& owner : owners_) {
      if (owner.name == "miq/checksums") continue;
      for (std::uint64_t chunk = owner.begin; chunk < owner.end && hits.size() < most; chunk += container::kChunk) {
        const std::size_t byte = chunk + random() % std::min(container::kChunk, owner.end - chunk);
        hits.push_back({byte, bytes_[byte], chunk, &owner});
        bytes_[byte] = static_cast<char>(bytes_[byte] ^ (1 << (random() % 8)));
      }
    }
    const std::vector<DamagedChunk> found = damaged_chunks(view(), "x.miq");
    std::size_t at = 0;
    for (const Hit& hit : hits) {
      bytes_[hit.byte] = hit.before;
      const bool right = at < found.size() && found[at].offset == hit.chunk && found[at].what.starts_with(hit.owner->name);
      if (right) ++at;
      wrong_ += !right;
      if (!right) std::printf("a bit of byte %zu, %s: NOT FOUND\n", hit.byte, hit.owner->name.c_str());
    }
    wrong_ += found.size() - at;
    tried_ += hits.size();
  }
  std::uint64_t tried() const { return tried_; }
  std::uint64_t wrong() const { return wrong_; }

 private:
  struct Owner {
    std::uint64_t begin, end;
    std::string name;
  };
  Blob view() const { return Blob(nullptr, {reinterpret_cast<const std::uint8_t*>(bytes_.data()), bytes_.size()}); }

  std::string bytes_;
  const std::string good_;
  SafetensorsFile file_;
  std::vector<Owner> owners_;
  std::uint64_t tried_ = 0, wrong_ = 0;
};

void flip(std::string& bytes, std::size_t bit) { bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8))); }

void random_damage(Check& check, std::uint64_t flips, std::mt19937_64& random) {
  const std::size_t bits = check.bytes().size() * 8;
  for (std::uint64_t i = 0; i < flips; ++i) {
    const std::size_t bit = random() % bits;
    if (i % 16 != 0) {
      flip(check.bytes(), bit);
      check.judge(bit / 8, bit / 8 + 1, "a bit");
      continue;
    }
    // Bursts of up to 32 bits, and two to eight bits of one chunk.
    const std::size_t first = bit / 8, last = std::min(first + 1 + random() % 4, check.bytes().size());
    flip(check.bytes(), first * 8);
    for (std::size_t at = first + 1; at < last; ++at) check.bytes()[at] = static_cast<char>(random());
    check.judge(first, last, "a burst");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t mebibytes = argc > 1 ? std::atol(argv[1]) : 1;
  const std::uint64_t flips = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 100'000;
  const std::size_t step = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1;
  std::mt19937_64 random(1);
  Check small(written(content_of(17'408, 5)));
  for (std::size_t bit = 0; bit < small.bytes().size() * 8; bit += step) {
    flip(small.bytes(), bit);
    small.judge(bit / 8, bit / 8 + 1, "a bit");
  }
  std::printf("%zu bytes: %llu single bits, %llu wrong\n", small.bytes().size(), static_cast<unsigned long long>(small.tried()), static_cast<unsigned long long>(small.wrong()));
  std::fflush(stdout);
  Check large(written(content_of(mebibytes * 305'152, 6)));
  random_damage(large, flips / 200, random);
  while (large.tried() < flips) large.judge_chunks(flips - large.tried(), random);
  std::printf("%zu bytes: %llu flips and bursts, %llu wrong\n", large.bytes().size(), static_cast<unsigned long long>(large.tried()), static_cast<unsigned long long>(large.wrong()));
  return small.wrong() + large.wrong() > 0;
}
