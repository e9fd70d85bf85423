// What is written is read back bit by bit by our own reader; torch itself reads it in tests/python.
#include "miq/formats/torch_writer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "miq/base/error.h"
#include "miq/formats/pickle_objects.h"
#include "miq/formats/torch_file.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

SafetensorsItem item(const std::string& name, DType dtype, Shape shape, std::uint32_t seed) {
  const auto bytes = tensor_bytes(dtype, shape).value();
  std::mt19937 random(seed);
  std::vector<std::uint8_t> data(bytes);
  for (auto& byte : data) byte = static_cast<std::uint8_t>(random());
  return {{name, dtype, std::move(shape)}, [blob = Blob(std::move(data))] { return blob; }};
}

std::string temporary(const std::string& name) { return (fs::path(testing::TempDir()) / name).string(); }

TEST(TorchWriter, IsReadBackBitByBit) {
  const std::string path = temporary("miq_torch_writer.pt");
  std::vector<SafetensorsItem> items;
  std::uint32_t seed = 0;
  for (const DType dtype : {DType::F16, DType::BF16, DType::F32, DType::F64, DType::U8, DType::I8, DType::I16, DType::I32, DType::I64}) {
    items.push_back(item("model.layers.0." + std::string(dtype_name(dtype)), dtype, {3, 5}, ++seed));
    items.push_back(item("vector " + std::string(dtype_name(dtype)), dtype, {7}, ++seed));
  }
  items.push_back(item("scalar", DType::F32, {}, ++seed));
  items.push_back(item("empty", DType::F16, {0, 4}, ++seed));
  items.push_back(item("größe", DType::F16, {2, 3, 4, 5}, ++seed));
  write_torch_state_dict(path, items);
  const TorchFile file = open_torch_file(path);
  file.verify();
  EXPECT_EQ(file.container(), TorchContainer::Zip);
  EXPECT_TRUE(is_call_of(file.tree(), file.root(), "collections", "OrderedDict"));
  const auto entries = dict_items(file.tree(), file.root());
  ASSERT_EQ(entries.size(), items.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    EXPECT_EQ(as_string(file.tree(), entries[i].first), items[i].layout.name);
    const auto view = file.tensor(entries[i].second);
    ASSERT_TRUE(view);
    EXPECT_EQ(view->dtype, items[i].layout.dtype);
    EXPECT_EQ(view->shape, items[i].layout.shape);
    EXPECT_FALSE(view->requires_grad);
    const Tensor tensor = file.read(*view, items[i].layout.name);
    const Blob expected = items[i].data(), got = decode(tensor, "");
    EXPECT_EQ(got.text(), expected.text()) << items[i].layout.name;
  }
  fs::remove(path);
}

TEST(TorchWriter, AlignsEveryStorageAndGivesTheSameBytes) {
  const std::string a = temporary("miq_torch_a.pt"), b = temporary("miq_torch_b.pt");
  const std::vector<SafetensorsItem> items{item("x", DType::F16, {9}, 1), item("y", DType::F32, {33}, 2)};
  write_torch_state_dict(a, items);
  write_torch_state_dict(b, items);
  const auto slurp = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string bytes = slurp(a);
  EXPECT_EQ(bytes, slurp(b));
  for (const SafetensorsItem& written : items) {
    const Blob blob = written.data();
    const auto at = bytes.find(blob.text());
    ASSERT_NE(at, std::string::npos);
    EXPECT_EQ(at % 64, 0u);
  }
  fs::remove(a);
  fs::remove(b);
}

TEST(TorchWriter, RefusesWhatTorchCannotHold) {
  const std::string path = temporary("miq_torch_refused.pt");
  EXPECT_THROW(write_torch_state_dict(path, {item("x", DType::F8E4M3, {4}, 1)}), Error);
  EXPECT_THROW(write_torch_state_dict(path, {item("x", DType::F16, {4}, 1), item("x", DType::F16, {4}, 2)}), Error);
  SafetensorsItem wrong = item("x", DType::F16, {4}, 1);
  wrong.layout.shape = {5};
  EXPECT_THROW(write_torch_state_dict(path, {wrong}), Error);
  EXPECT_FALSE(fs::exists(path));
}

}  // namespace
}  // namespace miq
