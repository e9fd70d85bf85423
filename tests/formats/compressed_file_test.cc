// Packed texts: what went in comes out, and damaged or hostile ones are refused by name.
#include "miq/formats/compressed_file.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <fstream>
#include <functional>
#include <random>

#include "miq/base/error.h"
#include "miq/formats/tensor.h"

namespace miq {
namespace {

std::string sample(std::size_t length) {
  std::mt19937 random(3);
  std::string text;
  while (text.size() < length) text += "word" + std::to_string(random() % 500) + (random() % 9 == 0 ? ".\n" : " ");
  return text;
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

// One zstd frame: that of an encoded tensor of bytes.
std::string zstd(const std::string& text) {
  const Tensor tensor = encode_zstd(dense_tensor(DType::U8, {static_cast<std::int64_t>(text.size())}, Blob(text)));
  return std::string(tensor.sections.at("data").text());
}

std::string file_of(const std::string& bytes) {
  const std::string path = testing::TempDir() + "packed_text_" + std::to_string(std::hash<std::string>()(bytes));
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

std::string read(const std::string& bytes) { return std::string(read_text_bytes(file_of(bytes)).text()); }

std::string refusal(const std::string& bytes) {
  const std::string path = file_of(bytes);
  try {
    read_text_bytes(path);
  } catch (const FormatError& error) {
    EXPECT_NE(std::string(error.what()).find(path), std::string::npos);
    return error.what();
  }
  return "accepted";
}

TEST(CompressedFile, GivesBackWhatWasPacked) {
  for (const std::size_t length : {0u, 1u, 1000u, 1u << 20, 5u << 20}) {
    const std::string text = sample(length);
    EXPECT_EQ(read(text), text);
    EXPECT_EQ(read(gzip(text)), text);
    if (length > 0) {
      EXPECT_EQ(read(zstd(text)), text);
    }
  }
}

TEST(CompressedFile, MembersAndFramesAreJoined) {
  EXPECT_EQ(read(gzip("one ") + gzip("") + gzip("two")), "one two");
  const std::string skippable = std::string("\x50\x2a\x4d\x18\x03\x00\x00\x00", 8) + "abc";
  EXPECT_EQ(read(zstd("one ") + skippable + zstd("two")), "one two");
}

TEST(CompressedFile, CutOrDamagedOnesAreRefused) {
  const std::string text = sample(3u << 20);
  const std::string packed_text[] = {gzip(text), zstd(text)};
  for (const std::string& packed : packed_text) {
    for (const std::size_t kept : {std::size_t{5}, packed.size() / 2, packed.size() - 1}) {
      EXPECT_NE(refusal(packed.substr(0, kept)).find("cut short"), std::string::npos) << kept << refusal(packed.substr(0, kept));
    }
    std::string damaged = packed;
    if (&packed == &packed_text[0]) {
      for (std::size_t i = 0; i < 40; ++i) damaged[packed.size() / 2 + i] = static_cast<char>(damaged[packed.size() / 2 + i] ^ 0x5a);
    } else {
      damaged[4] = static_cast<char>(damaged[4] ^ 8);  // a reserved bit: these frames have no checksum, as those of the zstd program do
    }
    EXPECT_NE(refusal(damaged), "accepted");
    EXPECT_NE(refusal(packed + "tail").find("at byte"), std::string::npos);
  }
  std::string wrong_checksum = gzip("text");
  wrong_checksum[wrong_checksum.size() - 6] ^= 1;
  EXPECT_NE(refusal(wrong_checksum).find("damaged"), std::string::npos);
}

TEST(CompressedFile, BombsAreRefused) {
  EXPECT_EQ(unpacked_limit(0), 64u << 20);
  EXPECT_EQ(unpacked_limit(1u << 20), 200u << 20);
  EXPECT_EQ(unpacked_limit(~std::uint64_t{0}), 1u << 30);
  const std::string zeros(70u << 20, '\0');
  EXPECT_NE(refusal(gzip(zeros)).find("unpacks to more than"), std::string::npos);
  EXPECT_NE(refusal(zstd(zeros)).find("unpacks to more than"), std::string::npos);
}

}  // namespace
}  // namespace miq
