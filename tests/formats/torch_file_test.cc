// Files of torch.save assembled by hand: each way to find tensors, each refusal. tests/python/compare_torch.py holds the
// comparison with torch itself.
#include "miq/formats/torch_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/pickle_objects.h"
#include "tests/formats/pickle_assembler.h"

namespace miq {
namespace {

std::string floats(int count, float first = 0) {
  std::string bytes;
  for (int i = 0; i < count; ++i) {
    const float value = first + static_cast<float>(i);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  return bytes;
}

ZipMaker archive(const std::string& stream) {
  return ZipMaker().add("x/data.pkl", stream).add("x/byteorder", "little").add("x/data/0", floats(12)).add("x/version", "3\n");
}

std::string zip_of(const std::string& stream) { return archive(stream).make(); }

std::string tensor_file(const std::string& type, std::int64_t elements, std::int64_t offset, const std::vector<std::int64_t>& shape,
                        const std::vector<std::int64_t>& stride) {
  return zip_of(Pickle().tensor(type, "0", elements, offset, shape, stride).stop());
}

TorchFile open(const std::string& text) { return read_torch_file(Blob(std::string_view(text)), "x.pt"); }

std::vector<float> values(const TorchFile& file, NodeId node) {
  const auto found = file.tensor(node);
  if (!found) return {};
  const Blob bytes = decode(file.read(*found, "t"), "t");
  std::vector<float> result(bytes.size() / sizeof(float));
  if (!result.empty()) std::memcpy(result.data(), bytes.bytes().data(), bytes.size());
  return result;
}

// Opens, and reads every tensor.
std::string refusal(const std::string& text) {
  try {
    const TorchFile file = open(text);
    for (NodeId node = 0; node < file.tree().size(); ++node) values(file, node);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

void expect_refused(const std::string& text, const std::string& part) {
  const std::string message = refusal(text);
  EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks: " << part;
  EXPECT_EQ(message.rfind("x.pt: ", 0), 0u) << message;
}

const std::string kMagicPickle = Pickle().op(0x8a).op(10).raw("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19").stop();

Pickle& legacy_storage(Pickle& p, const std::string& key, std::int64_t elements, const std::function<void(Pickle&)>& view) {
  p.mark().str("storage").global("torch", "FloatStorage").str(key).str("cpu").num(elements);
  view(p);
  return p.tuple().op('Q');
}

// One tensor of four elements on a storage of twelve, and the storage.
std::string legacy(
    const std::function<void(Pickle&)>& view = [](Pickle& p) { p.op('N'); },
    const std::string& keys = Pickle().op(']').str("7").op('a').stop(), const std::string& storage = little(12, 8) + floats(12)) {
  Pickle p;
  p.global("torch._utils", "_rebuild_tensor_v2").mark();
  legacy_storage(p, "7", 12, view).num(1).numbers({4}).numbers({1}).op(0x89).op('}').tuple().op('R');
  return kMagicPickle + Pickle().op('M').raw(little(1001, 2)).stop() + Pickle().op('}').str("little_endian").op(0x88).op('s').stop() +
         p.stop() + keys + storage;
}

TEST(TorchFile, ViewsOfTheMappedFile) {
  const std::string text = tensor_file("FloatStorage", 12, 2, {2, 3}, {3, 1});
  const TorchFile file = open(text);
  EXPECT_EQ(file.container(), TorchContainer::Zip);
  EXPECT_EQ(file.storage_count(), 1u);
  EXPECT_EQ(file.storage_bytes(), 48u);
  const auto tensor = file.tensor(file.root());
  ASSERT_TRUE(tensor);
  EXPECT_TRUE(file.is_tensor(file.root()));
  EXPECT_EQ(tensor->dtype, DType::F32);
  EXPECT_EQ(tensor->shape, (Shape{2, 3}));
  EXPECT_EQ(tensor->offset, 2);
  EXPECT_EQ(tensor->key, "0");
  EXPECT_TRUE(tensor->contiguous());
  EXPECT_FALSE(tensor->parameter);
  EXPECT_EQ(values(file, file.root()), (std::vector<float>{2, 3, 4, 5, 6, 7}));
  // No copy: two reads give the same place.
  EXPECT_EQ(decode(file.read(*tensor, "t"), "t").bytes().data(), decode(file.read(*tensor, "t"), "t").bytes().data());
  file.verify();
}

TEST(TorchFile, StridedViewsArePacked) {
  const auto of = [](std::int64_t offset, const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& stride) {
    const TorchFile file = open(tensor_file("FloatStorage", 12, offset, shape, stride));
    return values(file, file.root());
  };
  using Values = std::vector<float>;
  EXPECT_EQ(of(0, {3, 4}, {1, 3}), (Values{0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11}));
  EXPECT_EQ(of(1, {2, 2}, {6, 2}), (Values{1, 3, 7, 9}));
  EXPECT_EQ(of(3, {2, 3}, {0, 1}), (Values{3, 4, 5, 3, 4, 5}));
  EXPECT_EQ(of(3, {2, 2}, {0, 0}), (Values{3, 3, 3, 3}));
  EXPECT_EQ(of(0, {2, 2, 3}, {6, 3, 1}), (Values{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(of(0, {2, 2, 3}, {1, 6, 2}), (Values{0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11}));
  EXPECT_EQ(of(11, {1, 1}, {1000000, 1000000}), (Values{11}));
  EXPECT_EQ(of(5, {}, {}), (Values{5}));
  EXPECT_EQ(of(0, {0, 5}, {5, 1}), Values{});
  EXPECT_EQ(of(12, {0}, {1}), Values{});
}

// Every width of element, from files of both byte orders.
TEST(TorchFile, EveryWidthIsPackedAndSwapped) {
  std::string bytes;
  for (int i = 0; i < 48; ++i) bytes += static_cast<char>(i);
  for (const auto& [type, width] : {std::pair("ByteStorage", 1), {"HalfStorage", 2}, {"FloatStorage", 4}, {"LongStorage", 8}}) {
    for (const bool big : {false, true}) {
      for (const bool turned : {false, true}) {
        const std::int64_t columns = 24 / width;
        ZipMaker maker = archive(Pickle()
                                     .tensor(type, "0", 48 / width, 0,
                                             turned ? std::vector<std::int64_t>{columns, 2} : std::vector<std::int64_t>{2, columns},
                                             turned ? std::vector<std::int64_t>{1, columns} : std::vector<std::int64_t>{columns, 1})
                                     .stop());
        maker.parts[1] = ZipPart("x/byteorder", big ? "big" : "little");
        maker.parts[2] = ZipPart("x/data/0", bytes);
        const TorchFile file = open(maker.make());
        const Blob found = decode(file.read(*file.tensor(file.root()), "t"), "t");
        std::string expected;
        for (std::int64_t i = 0; i < 2 * columns; ++i) {
          const std::int64_t element = turned ? i % 2 * columns + i / 2 : i;
          std::string word = bytes.substr(static_cast<std::size_t>(element * width), static_cast<std::size_t>(width));
          if (big) std::reverse(word.begin(), word.end());
          expected += word;
        }
        EXPECT_EQ(found.text(), expected) << type << big << turned;
      }
    }
  }
}

TEST(TorchFile, WrappersAndTies) {
  Pickle p;
  p.mark();
  p.global("torch._utils", "_rebuild_parameter").mark().tensor("FloatStorage", "0", 12, 0, {12}, {1}).op(0x88).op('N').tuple().op('R');
  p.global("torch._utils", "_rebuild_parameter_with_state")
      .mark()
      .tensor("FloatStorage", "0", 12, 0, {12}, {1})
      .op(0x89)
      .op('N')
      .op('}')
      .tuple()
      .op('R');
  p.global("torch.tensor", "_rebuild_from_type_v2").mark().global("torch._utils", "_rebuild_tensor_v2").global("m", "Sub").mark();
  p.storage("FloatStorage", "0", 12).num(1).numbers({2}).numbers({1}).op(0x89).op('N').tuple().op('}').tuple().op('R');
  p.global("torch._utils", "_rebuild_tensor").mark().storage("FloatStorage", "0", 12).num(0).numbers({12}).numbers({1}).tuple().op('R');
  p.global("torch._utils", "_rebuild_tensor_v2").op(')').op(0x81).tuple();
  const TorchFile file = open(zip_of(p.stop()));
  const auto items = file.tree().items(file.root());
  const auto first = file.tensor(items[0]), second = file.tensor(items[1]), third = file.tensor(items[2]), fourth = file.tensor(items[3]);
  ASSERT_TRUE(first && second && third && fourth);
  EXPECT_TRUE(first->parameter && first->requires_grad && second->parameter && !second->requires_grad && !third->parameter);
  EXPECT_TRUE(first->same_view(*second));
  EXPECT_TRUE(first->same_view(*fourth));
  EXPECT_FALSE(first->same_view(*third));
  EXPECT_EQ(third->key, first->key);
  EXPECT_EQ(values(file, items[2]), (std::vector<float>{1, 2}));
  EXPECT_FALSE(file.is_tensor(items[4]));  // NEWOBJ of a function
  EXPECT_FALSE(file.tensor(file.root()));
}

TEST(TorchFile, StatedTypes) {
  const auto version3 = [](const std::string& dtype, std::int64_t offset, std::int64_t count) {
    Pickle p;
    p.global("torch._utils", "_rebuild_tensor_v3")
        .mark()
        .mark()
        .str("storage")
        .global("torch.storage", "UntypedStorage")
        .str("0")
        .str("cpu")
        .num(48)
        .tuple()
        .op('Q');
    return zip_of(p.num(offset).numbers({count}).numbers({1}).op(0x89).op('}').global("torch", dtype).tuple().op('R').stop());
  };
  const TorchFile file = open(version3("float8_e4m3fn", 40, 8));
  EXPECT_EQ(file.tensor(file.root())->dtype, DType::F8E4M3);
  EXPECT_EQ(open(version3("uint16", 0, 24)).tensor(file.root())->dtype, DType::U16);
  EXPECT_EQ(refusal(version3("uint16", 0, 24)), "accepted");
  expect_refused(version3("uint16", 1, 24), "leaves its storage");
  expect_refused(version3("float8_e8m0fnu", 0, 1), "float8_e8m0fnu, which is not read");
  expect_refused(version3("nonsense", 0, 1), "unknown element type");
}

TEST(TorchFile, BigEndian) {
  ZipMaker maker = archive(Pickle().tensor("FloatStorage", "0", 12, 1, {2}, {1}).stop());
  maker.parts[1] = ZipPart("x/byteorder", "big");
  std::string swapped = floats(12);
  for (std::size_t i = 0; i < swapped.size(); i += 4)
    std::reverse(swapped.begin() + static_cast<std::ptrdiff_t>(i), swapped.begin() + static_cast<std::ptrdiff_t>(i + 4));
  maker.parts[2] = ZipPart("x/data/0", swapped);
  const TorchFile file = open(maker.make());
  EXPECT_TRUE(file.big_endian());
  EXPECT_EQ(values(file, file.root()), (std::vector<float>{1, 2}));
  maker.parts[1] = ZipPart("x/byteorder", "middle");
  expect_refused(maker.make(), "byte order 'middle'");
}

TEST(TorchFile, Legacy) {
  const TorchFile file = open(legacy());
  EXPECT_EQ(file.container(), TorchContainer::Legacy);
  EXPECT_EQ(values(file, file.root()), (std::vector<float>{1, 2, 3, 4}));
  const TorchFile view = open(legacy([](Pickle& p) { p.str("8").num(6).num(6).op(0x87); }));
  EXPECT_EQ(values(view, view.root()), (std::vector<float>{7, 8, 9, 10}));
  EXPECT_EQ(view.tensor(view.root())->offset, 7);

  const auto none = [](Pickle& p) { p.op('N'); };
  const std::string keys = Pickle().op(']').str("7").op('a').stop(), data = little(12, 8) + floats(12);
  expect_refused(legacy([](Pickle& p) { p.str("8").num(9).num(4).op(0x87); }), "leaves it");
  expect_refused(legacy([](Pickle& p) { p.str("8").num(9).num(-1).op(0x87); }), "leaves it");
  expect_refused(legacy([](Pickle& p) { p.str("8").num(9).num(3).op(0x87); }), "leaves its storage");
  expect_refused(legacy([](Pickle& p) { p.num(5); }), "leaves it");
  expect_refused(legacy(none, Pickle().op(']').stop()), "does not list the storage '7'");
  expect_refused(legacy(none, Pickle().op(']').str("9").op('a').stop()), "which nothing uses");
  expect_refused(legacy(none, Pickle().op(']').str("7").op('a').str("7").op('a').stop(), data + data), "it lists already");
  expect_refused(legacy(none, keys, little(11, 8) + floats(12)), "11 elements where 12");
  expect_refused(legacy(none, keys, little(12, 8) + floats(11)), "takes 48 bytes, 44 are left");
  expect_refused(legacy(none, keys, "1234"), "cut short before the storage");
  expect_refused(legacy(none, keys, data + "x"), "1 bytes behind its last storage");
  expect_refused(kMagicPickle + Pickle().num(7).stop(), "unknown protocol");
  expect_refused(kMagicPickle + Pickle().op('M').raw(little(1001, 2)).stop() + Pickle().num(1).stop(), "description of its system");
  const std::string whole = legacy();
  for (std::size_t length = kMagicPickle.size() + 1; length < whole.size(); ++length)
    EXPECT_NE(refusal(whole.substr(0, length)), "accepted") << length;
}

TEST(TorchFile, LegacyModules) {
  Pickle p;
  p.mark()
      .str("module")
      .global("m", "Net")
      .str("net.py")
      .str("class Net: pass")
      .tuple()
      .op('Q')
      .op(')')
      .op(0x81)
      .op('}')
      .str("a")
      .num(1)
      .op('s')
      .op('b');
  const std::string text =
      kMagicPickle + Pickle().op('M').raw(little(1001, 2)).stop() + Pickle().op('}').stop() + p.stop() + Pickle().op(']').stop();
  const TorchFile file = open(text);
  EXPECT_EQ(class_of(file.tree(), file.root()), "m.Net");
}

TEST(TorchFile, BarePickles) {
  const TorchFile file = open(Pickle(4).op('}').str("a").num(1).op('s').stop());
  EXPECT_EQ(file.container(), TorchContainer::BarePickle);
  EXPECT_EQ(as_int(file.tree(), find(file.tree(), file.root(), "a")), 1);
  expect_refused(Pickle().num(1).stop() + "x", "behind the end of its pickle");
  expect_refused(Pickle().tensor("FloatStorage", "0", 12, 0, {1}, {1}).stop(), "has no storage");
  Pickle inside;
  inside.global("torch._utils", "_rebuild_tensor_v2").mark().global("torch.storage", "_load_from_bytes").str("x").op(0x85).op('R');
  const std::string whole = inside.num(0).numbers({1}).numbers({1}).op(0x89).op('N').tuple().op('R').stop();
  expect_refused(whole, "a storage was pickled inside the pickle");
  try {
    const TorchFile nested = open(whole);
    nested.tensor(nested.root());
    ADD_FAILURE();
  } catch (const FormatError& error) {
    EXPECT_NE(std::string(error.what()).find("a tensor was pickled without torch.save"), std::string::npos);
  }
}

TEST(TorchFile, RefusesOtherFiles) {
  expect_refused("", "is empty");
  expect_refused("PYTORCH1....", "PYTORCH1");
  expect_refused(std::string(257, 'x') + "ustar" + std::string(250, 0), "tar archive");
  expect_refused("GGUF....", "GGUF");
  expect_refused("nothing known", "neither a zip file nor a pickle");
  expect_refused("version https://git-lfs.github.com/spec/v1\n", "LFS");
  expect_refused("(dp0\n.", "neither a zip file nor a pickle");
  expect_refused(ZipMaker().add("word/document.xml", "x").make(), "without a data.pkl");
  expect_refused(ZipMaker().add("data.pkl", Pickle().num(1).stop()).make(), "without a data.pkl");
  expect_refused(archive(Pickle().num(1).stop()).add("x/constants.pkl", "x").make(), "TorchScript");
  ZipMaker script = archive(Pickle().num(1).stop()).add("x/constants.pkl", "x");
  script.parts[0].method = 8;
  expect_refused(script.make(), "TorchScript");
  expect_refused(archive(Pickle().num(1).stop()).add("y/data.pkl", Pickle().num(2).stop()).make(), "not in the folder 'x/'");
  ZipMaker packed = archive(Pickle().num(1).stop());
  packed.parts[0].method = 8;
  expect_refused(packed.make(), "is compressed");
  ZipMaker damaged = archive(Pickle().num(1).stop());
  damaged.parts[0].crc = damaged.parts[0].local_crc = 77;
  expect_refused(damaged.make(), "checksum");
  // Offsets in the stream are those in the file: 30 bytes of header, 10 of name.
  expect_refused(zip_of(Pickle().op('#').stop()), "at byte 42: op-code 0x23");
}

TEST(TorchFile, RefusesWrongStorages) {
  const auto of = [](const std::function<void(Pickle&)>& id) {
    Pickle p;
    id(p);
    return zip_of(p.op('Q').stop());
  };
  expect_refused(of([](Pickle& p) { p.num(3); }), "no storage");
  expect_refused(of([](Pickle& p) { p.mark().str("module").global("m", "C").str("").str("").tuple(); }), "no storage");
  expect_refused(of([](Pickle& p) { p.mark().str("storage").global("torch", "FloatStorage").str("0").str("cpu").num(12).op('N').tuple(); }),
                 "no storage");
  expect_refused(of([](Pickle& p) { p.mark().str("storage").str("FloatStorage").str("0").str("cpu").num(12).tuple(); }), "(no class)");
  expect_refused(of([](Pickle& p) { p.mark().str("storage").global("os", "system").str("0").str("cpu").num(12).tuple(); }),
                 "unknown class os.system");
  const auto sized = [](std::int64_t elements, const std::string& key = "0") {
    return zip_of(Pickle().storage("FloatStorage", key, elements).stop());
  };
  EXPECT_EQ(refusal(sized(12)), "accepted");
  expect_refused(sized(11), "has 48 bytes where 44 are described");
  expect_refused(sized(13), "has 48 bytes where 52 are described");
  expect_refused(sized(-1), "impossible size");
  expect_refused(sized(INT64_MAX), "impossible size");
  expect_refused(sized(12, ""), "without a key");
  expect_refused(sized(12, std::string(1000, '0')), "without a key");
  expect_refused(sized(12, "1"), "no record");
  expect_refused(sized(12, "../data/0"), "no record");
  expect_refused(zip_of(Pickle().mark().storage("FloatStorage", "0", 12).storage("IntStorage", "0", 12).tuple().stop()),
                 "two types or sizes");
  expect_refused(zip_of(Pickle().mark().storage("FloatStorage", "0", 12).storage("UntypedStorage", "0", 48).tuple().stop()),
                 "two types or sizes");
}

TEST(TorchFile, RefusesWrongTensors) {
  const auto of = [](std::int64_t offset, const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& stride) {
    return tensor_file("FloatStorage", 12, offset, shape, stride);
  };
  expect_refused(of(1, {12}, {1}), "leaves its storage");
  expect_refused(of(0, {13}, {1}), "leaves its storage");
  expect_refused(of(0, {2}, {12}), "leaves its storage");
  expect_refused(of(12, {}, {}), "leaves its storage");
  expect_refused(of(INT64_MAX, {2}, {INT64_MAX}), "leaves its storage");
  expect_refused(of(0, {INT64_MAX, INT64_MAX}, {1, 1}), "too large");
  expect_refused(of(0, {2, INT64_MAX / 4}, {0, 0}), "too large");
  expect_refused(of(-1, {1}, {1}), "offset is no number");
  expect_refused(of(0, {-1}, {1}), "shape holds");
  expect_refused(of(0, {2}, {-1}), "stride holds");
  expect_refused(of(0, {2}, {1, 1}), "another number of strides");
  expect_refused(of(0, std::vector<std::int64_t>(65, 1), std::vector<std::int64_t>(65, 1)), "up to 64 numbers");
  expect_refused(of(0, {1 << 20, 1 << 20}, {0, 0}), "unfolded");
  expect_refused(tensor_file("ComplexFloatStorage", 6, 0, {2}, {1}), "complex64, which is not read");
  for (const auto& [name, part] : {std::pair("_rebuild_qtensor", "a quantized tensor"),
                                   {"_rebuild_sparse_tensor", "a sparse tensor"},
                                   {"_rebuild_meta_tensor_no_storage", "a meta"},
                                   {"_rebuild_nested_tensor", "a nested tensor"},
                                   {"_rebuild_wrapper_subclass", "a wrapped"}}) {
    expect_refused(zip_of(Pickle().global("torch._utils", name).op(')').op('R').stop()), part);
  }
  expect_refused(zip_of(Pickle().global("torch._utils", "_rebuild_tensor_v2").op(')').op('R').stop()), "0 arguments");
  expect_refused(zip_of(Pickle().global("torch._utils", "_rebuild_parameter").op(')').op('R').stop()), "around nothing");
  expect_refused(zip_of(Pickle().global("torch._utils", "_rebuild_parameter").num(1).op(0x85).op('R').stop()), "no tensor");
  expect_refused(
      zip_of(Pickle().global("torch._utils", "_rebuild_parameter").global("os", "system").op(')').op('R').op(0x85).op('R').stop()),
      "no tensor");
  expect_refused(zip_of(Pickle()
                            .global("torch._tensor", "_rebuild_from_type_v2")
                            .mark()
                            .global("os", "system")
                            .op('N')
                            .op(')')
                            .op('N')
                            .tuple()
                            .op('R')
                            .stop()),
                 "no tensor");
  expect_refused(zip_of(Pickle().global("torch._tensor", "_rebuild_from_type_v2").op('N').op('N').op(0x86).op('R').stop()),
                 "lacks its arguments");
  expect_refused(zip_of(Pickle()
                            .global("torch._utils", "_rebuild_parameter")
                            .global("torch._utils", "_rebuild_tensor_v2")
                            .op(')')
                            .op(0x81)
                            .op(0x85)
                            .op('R')
                            .stop()),
                 "no tensor");
  // A parameter of itself, and one wrapped too often.
  expect_refused(zip_of(Pickle()
                            .global("torch._utils", "_rebuild_parameter")
                            .op(']')
                            .put(0)
                            .op('R')
                            .put(1)
                            .op('0')
                            .get(0)
                            .get(1)
                            .op('a')
                            .op('0')
                            .get(1)
                            .stop()),
                 "wrapped more than");
  Pickle conjugate;
  conjugate.global("torch._utils", "_rebuild_tensor_v2")
      .mark()
      .storage("FloatStorage", "0", 12)
      .num(0)
      .numbers({1})
      .numbers({1})
      .op(0x89)
      .op('N');
  expect_refused(zip_of(conjugate.op('}').str("neg").op(0x88).op('s').tuple().op('R').stop()), "the bit 'neg'");
  // A checksum that is wrong is seen when the tensor is read.
  ZipMaker damaged = archive(Pickle().tensor("FloatStorage", "0", 12, 0, {1}, {1}).stop());
  damaged.parts[2].crc = damaged.parts[2].local_crc = 77;
  open(damaged.make());
  expect_refused(damaged.make(), "'x/data/0': its checksum");
  EXPECT_THROW(open(damaged.make()).verify(), FormatError);
}

TEST(TorchFile, CopiesGiveTheirMemoryBack) {
  // 40 MB each of at most 64 MB (and twice the small file).
  const TorchFile file = open(tensor_file("FloatStorage", 12, 0, {10 << 20}, {0}));
  const auto tensor = file.tensor(file.root());
  ASSERT_TRUE(tensor);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(file.read(*tensor, "t").stored_bytes(), 40u << 20);
  const Tensor kept = file.read(*tensor, "t");
  EXPECT_THROW(file.read(*tensor, "t"), FormatError);
}

TEST(TorchFile, CutAnywhereIsRefused) {
  const std::string whole = tensor_file("FloatStorage", 12, 0, {12}, {1});
  for (std::size_t length = 0; length < whole.size(); ++length) EXPECT_NE(refusal(whole.substr(0, length)), "accepted") << length;
}

TEST(TorchFile, RealFiles) {
  const std::filesystem::path folder = MIQ_SOURCE_DIR "/../shared/data/checkpoints";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no checkpoints in ../shared/data";
  const auto count = [](const TorchFile& file) {
    std::size_t tensors = 0;
    for (NodeId node = 0; node < file.tree().size(); ++node) {
      if (const auto tensor = file.tensor(node)) {
        file.read(*tensor, "t");
        ++tensors;
      }
    }
    file.verify();
    return tensors;
  };
  const TorchFile sliced = open_torch_file(folder / "slicegpt-25" / "story_0.25.pt");
  EXPECT_EQ(count(sliced), 20u);
  EXPECT_EQ(sliced.tensor(find(sliced.tree(), sliced.root(), "model.embed_tokens.weight"))->shape, (Shape{2048, 96}));
  EXPECT_EQ(count(open_torch_file(folder / "slicegpt-opt-20" / "opt-small_0.2.pt")), 88u);

  for (const std::string name : {"slicegpt_dill", "llm_pruner", "identity_layer", "wanda"}) {
    const TorchFile file = open_torch_file(folder / "whole-module" / (name + ".bin"));
    const PickleTree& tree = file.tree();
    EXPECT_GT(count(file), 10u) << name;
    const NodeId model = find(tree, file.root(), "model");
    const auto type = describe_type(tree, type_of(tree, model));
    ASSERT_TRUE(type) << name;
    EXPECT_EQ(type->by_value, name == "slicegpt_dill");
    EXPECT_TRUE(is_instance_of(tree, model, "transformers.models.llama.modeling_llama.LlamaForCausalLM")) << name;
    const NodeId config = attribute(tree, model, "config");
    EXPECT_EQ(as_int(tree, attribute(tree, config, "num_hidden_layers")), 2) << name;
    EXPECT_EQ(to_json(tree, config)["__class__"], "transformers.models.llama.configuration_llama.LlamaConfig") << name;
  }
}

}  // namespace
}  // namespace miq
