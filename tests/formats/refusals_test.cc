// Refusals that no other test would miss, found by switching each check of the readers off in turn (tests/hard/refusals.py): here the
// message itself is looked at, where another check refuses the same bytes a moment later.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "miq/base/error.h"
#include "miq/formats/compressed_file.h"
#include "miq/formats/json.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/packed_layout.h"
#include "miq/formats/torch_file.h"
#include "miq/formats/zip.h"
#include "tests/formats/container_samples.h"
#include "tests/formats/pickle_assembler.h"

namespace miq {
namespace {

void expect_refused(const std::function<void()>& call, const std::string& says) {
  try {
    call();
    ADD_FAILURE() << "accepted, not: " << says;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what() << "\nlacks: " << says;
  }
}

std::string good_container() {
  const std::string path = (std::filesystem::temp_directory_path() / ("miq_refusals_" + std::to_string(::getpid()) + ".miq")).string();
  write_container(path, test::rich_container());
  std::string text = read_text_file(path);
  std::filesystem::remove(path);
  return text;
}

TEST(Refusals, ContainersTablesAreReadStrictly) {
  const std::string good = good_container();
  const auto table = [&](const std::function<void(Json&)>& change, const std::string& says) {
    expect_refused([&] { read_container(Blob(std::string_view(test::rewritten(good, change))), "x.miq"); }, says);
  };
  table([](Json& t) { t["files"] = Json::array(); }, "'files' is no object");
  table([](Json& t) { t["tensors"] = Json::array(); }, "'tensors' is no object");
  table([](Json& t) { t["tensors"]["q"] = 3; }, "it is not described by an object");
  table([](Json& t) { t["tensors"]["q"].erase("encoding"); }, "states no encoding");
  table([](Json& t) { t["tensors"]["q"]["encoding"] = 4; }, "states no encoding");
  table([](Json& t) { t["tensors"]["q"]["sections"] = Json::array(); }, "its sections are no object");
  const auto sums = [&](const std::function<void(std::string&)>& change, const std::string& says) {
    const auto at_the_end = [&](const std::string& stored, std::string& bytes) {
      if (stored == "the checksums") change(bytes);
    };
    expect_refused([&] { read_container(Blob(std::string_view(test::rewritten(good, [](Json&) {}, {}, at_the_end))), "x.miq"); }, says);
  };
  sums([](std::string& bytes) { bytes += std::string(64, '\0'); }, "chunks need");
  sums([](std::string& bytes) { bytes.back() = 1; }, "not filled up with zeros");
  // A payload that is no vector of bytes, in a header with the right digest.
  std::string other = good;
  const std::string key = "\"miq/manifest.json\":{\"dtype\":\"U8\"";
  const std::size_t at = other.find(key);
  ASSERT_NE(at, std::string::npos);
  other[at + key.size() - 3] = 'I';
  const std::string header = other.substr(0, read_safetensors(Blob(std::string_view(good)), "x").data_begin);
  other.replace(container::header_digest_at(header), 32, container::header_digest(header));
  expect_refused([&] { read_container(Blob(std::string_view(other)), "x.miq"); }, "must be a vector of U8");
}

TEST(Refusals, PackedMatricesThatContradictThemselves) {
  const auto changed = [](const std::function<void(Tensor&)>& change, const std::string& says) {
    Tensor tensor = test::rich_container().tensors.at("q");
    change(tensor);
    expect_refused([&] { check_tensor(tensor, "q"); }, says);
  };
  changed([](Tensor& t) { t.shape = {std::int64_t{1} << 40, std::int64_t{1} << 40}; }, "its shape is too large");
  changed([](Tensor& t) { t.shape = {2, std::int64_t{1} << 32}; }, "its shape is too large");
  changed([](Tensor& t) { t.shape = {4096, 4}; }, "cannot hold 16384 weights");
  changed([](Tensor& t) { t.sections.erase("groups"); }, "must be present exactly when");
  changed([](Tensor& t) { t.sections["bits"] = Blob(std::vector<std::uint8_t>{4}); }, "must be present exactly when");
  // The last byte of the first group's codes: three kept codes of three bits leave seven bits of filling.
  bool beyond = false;
  const Tensor good = test::rich_container().tensors.at("q");
  for (std::size_t byte = 0; byte < good.sections.at("codes").size(); ++byte) {
    Tensor tensor = good;
    std::vector<std::uint8_t> codes(good.sections.at("codes").bytes().begin(), good.sections.at("codes").bytes().end());
    codes[byte] ^= 0x80;
    tensor.sections["codes"] = Blob(codes);
    try {
      check_tensor(tensor, "q");
    } catch (const FormatError& error) {
      beyond |= std::string(error.what()).find("have bits beyond their end") != std::string::npos;
    }
  }
  EXPECT_TRUE(beyond);
  expect_refused([&] { parse_packed(dense_tensor(DType::U8, {1}, Blob(std::string_view("x"))), "t"); }, "is not packed");
}

TEST(Refusals, SizesOfTensorsAndFrames) {
  Tensor tensor = test::rich_container().tensors.at("zstd.weight");
  std::vector<std::uint8_t> frame(tensor.sections.at("data").bytes().begin(), tensor.sections.at("data").bytes().end());
  for (const Shape& shape : {Shape{-1, 4}, Shape{std::int64_t{1} << 62, 4}, Shape{(std::int64_t{1} << 61) + 1, 1}}) {
    tensor.shape = shape;
    expect_refused([&] { check_tensor(tensor, "t"); }, "its shape is negative or too large");
  }
  tensor = test::rich_container().tensors.at("zstd.weight");
  // A frame that names a dictionary has its number, one byte here, in front of the content's size.
  frame[4] |= 1;
  frame.insert(frame.begin() + ((frame[4] & 0x20) ? 5 : 6), 7);
  tensor.sections["data"] = Blob(frame);
  expect_refused([&] { check_tensor(tensor, "t"); }, "asks for a dictionary");
}

TEST(Refusals, TextsAndJson) {
  expect_refused([] { parse_json("\xEF\xBB\xBF{}", "x.json"); }, "byte order mark");
  const std::string path = (std::filesystem::temp_directory_path() / ("miq_refusals_" + std::to_string(::getpid()) + ".gz")).string();
  // An empty gzip member, and something else behind it.
  const std::string empty("\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0", 20);
  std::ofstream(path, std::ios::binary) << empty << "tail that is no gzip";
  expect_refused([&] { read_text_bytes(path); }, "something that is not gzip follows");
  std::filesystem::remove(path);
}

TEST(Refusals, ZipHeadersThatLeaveTheirPlace) {
  ZipMaker maker;
  maker.add("x/data.pkl", "abc");
  std::string local = maker.make();
  local[28] = local[29] = '\xff';  // the local header's extra field
  expect_refused([&] { ZipFile::read(Blob(std::string_view(local)), "x.zip"); }, "its header leaves the file");
  std::string central = maker.make();
  const std::size_t at = central.find("PK\x01\x02");
  central[at + 32] = central[at + 33] = '\xff';  // the directory entry's comment
  expect_refused([&] { ZipFile::read(Blob(std::string_view(central)), "x.zip"); }, "a directory entry that leaves the directory");
}

TEST(Refusals, ATensorOfAnotherFile) {
  const auto file = [](const std::string& key, std::int64_t elements) {
    const Pickle pickle = Pickle().tensor("FloatStorage", key, elements, 0, {elements}, {1});
    return read_torch_file(
        Blob(std::string_view(ZipMaker().add("x/data.pkl", pickle.stop()).add("x/byteorder", "little").add("x/data/" + key, std::string(static_cast<std::size_t>(elements) * 4, 'a')).make())), "x.pt");
  };
  const TorchFile one = file("0", 4), smaller = file("0", 2), other = file("1", 4);
  const TorchTensor tensor = *one.tensor(one.root());
  EXPECT_EQ(decode(one.read(tensor, "t"), "t").size(), 16u);
  expect_refused([&] { other.read(tensor, "t"); }, "is not of this file");
  expect_refused([&] { smaller.read(tensor, "t"); }, "is not of this file");
}

}  // namespace
}  // namespace miq
