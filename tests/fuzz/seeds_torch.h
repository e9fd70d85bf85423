// What the targets of PyTorch files begin with: zip directories, tensors with every rebuild function and layout, legacy streams; of each
// the forms that are read and those that are refused.
#pragma once

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/formats/pickle_assembler.h"

namespace miq::test {

inline std::string zip64_extra(const std::vector<std::uint64_t>& values) {
  std::string text = little(1, 2) + little(8 * values.size(), 2);
  for (const std::uint64_t value : values) text += little(value, 8);
  return text;
}

// A good archive with one thing changed, or the bytes of one of its numbers.
inline std::vector<std::string> zip_seeds() {
  constexpr std::uint32_t kFull = 0xffffffff;
  const auto made = [](const std::function<void(ZipMaker&)>& change) {
    ZipMaker maker;
    maker.add("x/data.pkl", Pickle().op('N').stop()).add("x/byteorder", "little");
    change(maker);
    return maker.make();
  };
  const auto sized = [](ZipPart& part, std::uint64_t size) { part.size = part.stored = part.local_size = part.local_stored = size; };
  std::vector<std::string> seeds;
  const auto add = [&](const std::function<void(ZipMaker&)>& change) { seeds.push_back(made(change)); };
  const auto first = [&](const std::function<void(ZipPart&)>& change) { add([&](ZipMaker& maker) { change(maker.parts[0]); }); };
  add([](ZipMaker&) {});
  add([](ZipMaker& maker) { maker.comment = "of PK\x05\x06"; });
  add([](ZipMaker& maker) { maker.parts.insert(maker.parts.begin(), ZipPart("x/", "")); });
  add([](ZipMaker& maker) { maker.parts[1].crc = maker.parts[1].local_crc = 0; });
  add([](ZipMaker& maker) { maker.parts[1] = ZipPart("x/byteorder", "middle"); });
  add([](ZipMaker& maker) { maker.parts[0].name = maker.parts[0].local_name = "x/other"; });
  add([](ZipMaker& maker) { maker.parts.clear(); });
  add([](ZipMaker& maker) { maker.add("x/constants.pkl", "x"); });
  add([](ZipMaker& maker) { maker.add("y/data.pkl", "x"); });
  add([](ZipMaker& maker) { maker.parts[1] = maker.parts[0]; });
  first([](ZipPart& part) { part.flags = 8, part.local_crc = 0, part.local_size = part.local_stored = 0, part.behind = std::string(16, 'd'); });
  first([&](ZipPart& part) {
    part.local_extra = part.central_extra = zip64_extra({part.size, part.stored});
    sized(part, kFull);
  });
  // Ends and directories.
  add([](ZipMaker& maker) { maker.behind = "x"; });
  add([](ZipMaker& maker) { maker.directory_move = 1; });
  add([](ZipMaker& maker) { maker.before_directory = std::string(50, 'x'); });
  add([](ZipMaker& maker) { maker.in_directory = "gap"; });
  add([](ZipMaker& maker) { maker.count_more = 1000; });
  add([](ZipMaker& maker) { maker.count_more = 1, maker.in_directory = std::string(60, 'x'); });
  add([](ZipMaker& maker) { maker.count_more = 1, maker.in_directory = little(0x02014b50, 4) + std::string(60, '\x7f'); });
  seeds.push_back("PK\x03\x04");
  seeds.push_back("PK\x03\x04" + std::string(40, 'x'));
  const std::string good = made([](ZipMaker&) {}), wide = made([](ZipMaker& maker) { maker.zip64 = true; });
  const auto patch = [&](std::string text, std::size_t from_back, std::uint64_t value, std::size_t bytes) {
    seeds.push_back(text.replace(text.size() - from_back, bytes, little(value, bytes)));
  };
  patch(good, 18, 1, 2);       // disk
  patch(good, 14, 1, 2);       // entries here, against entries
  patch(good, 6, kFull, 4);    // a zip64 directory without its locator
  patch(wide, 34, 0, 8);       // where the zip64 end record is
  patch(wide, 34, 77, 8);
  patch(wide, 26, 2, 4);       // parts
  patch(wide, 98 - 16, 1, 4);  // disk
  patch(wide, 98 - 4, 45, 8);  // the zip64 end record's length
  patch(wide, 98 - 24, 7, 8);  // entries
  patch(wide, 98 - 40, ~std::uint64_t{0}, 8);  // the directory's size
  patch(wide, 98 - 48, 5, 8);                  // and where it begins
  seeds.push_back(wide);
  // In front of the first entry, one that the directory does not know.
  const std::string hidden = ZipMaker().add("x/zero", "hidden").make().substr(0, 30 + 6 + 6);
  seeds.push_back(hidden + made([&](ZipMaker& maker) {
    maker.directory_move = static_cast<std::int64_t>(hidden.size());
    for (ZipPart& part : maker.parts) part.move = maker.directory_move;
  }));
  // Names.
  for (const char* name : {"", "/a", "a/../b", "a//b", "a\\b", "a\x01"}) first([&](ZipPart& part) { part.name = part.local_name = name; });
  first([](ZipPart& part) { part.local_name = "x/other"; });
  // Entries.
  first([](ZipPart& part) { part.method = 8; });
  for (const std::uint16_t flag : {std::uint16_t{0x1}, std::uint16_t{0x20}}) first([&](ZipPart& part) { part.flags = flag; });
  first([](ZipPart& part) { part.disk = 1; });
  first([](ZipPart& part) { part.size = 2; });
  first([](ZipPart& part) { part.local_method_change = 8; });
  first([](ZipPart& part) { part.local_size = 2; });
  first([](ZipPart& part) { part.crc = part.local_crc = 5; });
  add([](ZipMaker& maker) { maker.parts[1].crc = maker.parts[1].local_crc = 5; });
  first([](ZipPart& part) { part.move = 1 << 30; });
  first([&](ZipPart& part) { sized(part, 1 << 30); });
  first([&](ZipPart& part) { sized(part, part.size + 20); });
  add([&](ZipMaker& maker) { sized(maker.parts[1], 30); });
  // A local header whose name or extra fields leave the file.
  std::string cut = made([](ZipMaker& maker) { maker.parts.pop_back(); });
  seeds.push_back(cut.replace(28, 2, "\xff\x7f"));
  // Extra fields.
  first([](ZipPart& part) { part.local_extra = "FB" + little(20, 2) + std::string(20, 'Z'); });
  first([](ZipPart& part) { part.local_extra = "FB" + little(9, 2) + "Z"; });
  first([](ZipPart& part) { part.central_extra = zip64_extra({1}) + zip64_extra({1}); });
  first([](ZipPart& part) { part.size = part.stored = kFull, part.central_extra = zip64_extra({3}); });
  return seeds;
}

// Arguments of a rebuild function: (storage, offset, shape, stride).
inline Pickle& tensor_arguments(Pickle& pickle, const char* type, std::int64_t elements, std::int64_t offset = 0, const std::vector<std::int64_t>& shape = {2},
                                const std::vector<std::int64_t>& stride = {1}) {
  return pickle.storage(type, "0", elements).num(offset).numbers(shape).numbers(stride);
}

// Of tensors over the storage "0" of 64 bytes, which the target puts around them.
inline std::vector<Pickle> tensor_pickles() {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  std::vector<Pickle> made;
  const auto tensor = [&](const char* type, std::int64_t elements, std::int64_t offset, const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& stride) {
    made.push_back(Pickle().tensor(type, "0", elements, offset, shape, stride));
  };
  const std::pair<const char*, std::int64_t> kTypes[] = {{"ByteStorage", 64}, {"HalfStorage", 32}, {"FloatStorage", 16}, {"LongStorage", 8}};
  for (const auto& [type, elements] : kTypes) {
    tensor(type, elements, 1, {2, 3}, {3, 1});
    tensor(type, elements, 0, {2, 2, 1, 2}, {1, 4, 9, 2});
    tensor(type, elements, 1, {2, 3}, {0, 0});
  }
  for (const char* type : {"DoubleStorage", "BFloat16Storage", "IntStorage", "ShortStorage", "CharStorage", "BoolStorage", "UntypedStorage", "ComplexFloatStorage",
                           "QInt8Storage", "NoStorage"}) {
    const std::string_view name = type;
    const bool bytes = name.starts_with("Char") || name.starts_with("Bool") || name.starts_with("Untyped") || name.starts_with("QInt");
    tensor(type, bytes ? 64 : name.starts_with("Double") || name.starts_with("Complex") ? 8 : name.starts_with("Int") ? 16 : 32, 0, {4}, {1});
  }
  tensor("FloatStorage", 16, 0, {}, {});
  tensor("FloatStorage", 16, 0, {0, 5}, {5, 1});
  tensor("FloatStorage", 16, 0, {2, 2, 4}, {8, 4, 1});
  tensor("FloatStorage", 16, 16, {}, {});
  tensor("FloatStorage", 16, kMost, {2}, {kMost});
  tensor("FloatStorage", 16, 0, {kMost, kMost}, {1, 1});
  tensor("FloatStorage", 16, kMost, {0}, {1});
  tensor("FloatStorage", 16, -1, {1}, {1});
  tensor("FloatStorage", 16, 0, {-1}, {1});
  tensor("FloatStorage", 16, 0, {2}, {1, 1});
  tensor("FloatStorage", 16, 0, std::vector<std::int64_t>(65, 1), {1});
  tensor("FloatStorage", 16, 0, {1 << 20, 1 << 20}, {0, 0});
  tensor("FloatStorage", 11, 0, {1}, {1});
  tensor("FloatStorage", -1, 0, {1}, {1});
  tensor("FloatStorage", kMost, 0, {1}, {1});
  made.push_back(Pickle().tensor("FloatStorage", "", 16, 0, {1}, {1}));
  made.push_back(Pickle().tensor("FloatStorage", "1", 16, 0, {1}, {1}));
  made.push_back(Pickle().mark().storage("FloatStorage", "0", 16).storage("IntStorage", "0", 16).tuple());
  made.push_back(Pickle().num(3).op('Q'));
  made.push_back(Pickle().mark().str("storage").str("FloatStorage").str("0").str("cpu").num(16).tuple().op('Q'));
  made.push_back(Pickle().mark().str("storage").global("torch", "FloatStorage").num(0).str("cpu").num(16).tuple().op('Q'));
  // The other rebuild functions.
  const auto call = [&](const char* module, const char* name, const std::function<void(Pickle&)>& arguments) {
    Pickle pickle;
    pickle.global(module, name).mark();
    arguments(pickle);
    made.push_back(pickle.tuple().op('R'));
  };
  const auto plain = [](Pickle& p) { tensor_arguments(p, "FloatStorage", 16); };
  const auto second = [&](Pickle& p) { plain(p), p.op(0x88).op('N'); };
  const auto nothing = [](Pickle&) {};
  call("torch._utils", "_rebuild_tensor", plain);
  call("torch._utils", "_rebuild_tensor_v2", second);
  call("torch._utils", "_rebuild_tensor_v2", nothing);
  call("torch._utils", "_rebuild_tensor_v2", [&](Pickle& p) { second(p), p.op('}').str("neg").op(0x88).op('s'); });
  call("torch._utils", "_rebuild_tensor_v2", [](Pickle& p) { p.op('N').num(0).op(')').op(')').op('N').op('N'); });
  call("torch._utils", "_rebuild_tensor_v2", [](Pickle& p) {
    p.global("torch.storage", "_load_from_bytes").op('N').op(0x85).op('R').num(0).op(')').op(')').op('N').op('N');
  });
  call("torch._utils", "_rebuild_tensor_v2", [](Pickle& p) { p.storage("FloatStorage", "0", 16).op('N').op(')').op(')').op('N').op('N'); });
  call("torch._utils", "_rebuild_tensor_v2", [](Pickle& p) { p.storage("FloatStorage", "0", 16).num(0).num(3).op(')').op('N').op('N'); });
  call("torch._utils", "_rebuild_tensor_v2", [](Pickle& p) { p.storage("FloatStorage", "0", 16).num(0).mark().op('N').tuple().op(')').op('N').op('N'); });
  call("torch._utils", "_rebuild_tensor_v2", [](Pickle& p) {
    p.storage("FloatStorage", "0", 16).num(0).global("torch", "Size").numbers({2}).op(0x85).op('R').op(']').num(1).op('a').op('N').op('N');
  });
  for (const char* dtype : {"float8_e4m3fn", "uint16", "float8_e8m0fnu", "nonsense"}) {
    call("torch._utils", "_rebuild_tensor_v3", [&](Pickle& p) {
      tensor_arguments(p, "UntypedStorage", 64);
      p.op(0x89).op('N').global("torch", dtype);
    });
  }
  call("torch._utils", "_rebuild_tensor_v3", [&](Pickle& p) { second(p), p.op('N'); });
  call("torch.storage", "_load_from_bytes", nothing);
  for (const char* name : {"_rebuild_qtensor", "_rebuild_parameter"}) call("torch._utils", name, nothing);
  call("torch._utils", "_rebuild_parameter", [](Pickle& p) { p.tensor("FloatStorage", "0", 16, 0, {2}, {1}).op(0x88).op('N'); });
  call("torch._utils", "_rebuild_device_tensor_from_cpu_tensor", [](Pickle& p) { p.tensor("FloatStorage", "0", 16, 0, {2}, {1}); });
  call("torch.nn.parameter", "Parameter", [](Pickle& p) { p.num(1); });
  call("torch.nn.parameter", "Parameter", [](Pickle& p) { p.global("os", "system").op(')').op('R'); });
  call("torch._tensor", "_rebuild_from_type_v2", [&](Pickle& p) {
    p.global("torch._utils", "_rebuild_tensor_v2").global("torch.nn.parameter", "Parameter").mark();
    second(p);
    p.tuple().op('N');
  });
  call("torch._tensor", "_rebuild_from_type_v2", [](Pickle& p) { p.global("os", "system").op('N').op(')').op('N'); });
  call("torch._tensor", "_rebuild_from_type_v2", [](Pickle& p) { p.op('N'); });
  made.push_back(Pickle().global("torch._utils", "_rebuild_parameter").op(']').put(0).op('R').put(1).op('0').get(0).get(1).op('a').op('0').get(1));
  return made;
}

inline std::vector<std::string> torch_file_seeds() {
  std::vector<std::string> seeds = zip_seeds();
  for (const Pickle& pickle : tensor_pickles()) {
    const std::string stream = pickle.stop();
    // The length says in which order the bytes are: once as it is, once with a value behind the protocol that is taken off again.
    seeds.push_back("!" + stream);
    seeds.push_back("!" + stream.substr(0, 2) + Pickle::bare().num(1).op('0').text + stream.substr(2));
  }
  for (const char* text : {"", "PYTORCH1....", "GGUF....", "nothing known"}) seeds.push_back(text);
  seeds.push_back(std::string(257, 'x') + "ustar" + std::string(20, 'x'));
  seeds.push_back(Pickle().num(1).stop());
  seeds.push_back(Pickle().num(1).stop() + "x");
  return seeds;
}

// The first byte says what the input replaces: see legacy_fuzz.cc.
inline std::vector<std::string> legacy_seeds() {
  std::vector<std::string> seeds;
  const auto keys = [](const std::vector<const char*>& names) {
    Pickle list;
    list.op(']');
    for (const char* name : names) list.str(name).op('a');
    return list.stop();
  };
  const std::string data = little(12, 8) + std::string(48, 'b');
  seeds.push_back("k" + keys({"0"}) + data);
  seeds.push_back("k" + keys({}));
  seeds.push_back("k" + keys({"9"}) + data);
  seeds.push_back("k" + keys({"0", "0"}) + data + data);
  seeds.push_back("k" + keys({"0"}) + little(11, 8) + std::string(48, 'b'));
  seeds.push_back("k" + keys({"0"}) + little(12, 8) + "short");
  seeds.push_back("k" + keys({"0"}) + "1234");
  seeds.push_back("k" + keys({"0"}) + data + "x");
  seeds.push_back("k" + Pickle().op(']').num(0).op('a').stop() + data);
  const auto object = [&](const std::function<void(Pickle&)>& view) {
    Pickle p;
    p.global("torch._utils", "_rebuild_tensor_v2").mark().mark().str("storage").global("torch", "FloatStorage").num(0).str("cpu").num(12);
    view(p);
    seeds.push_back("o" + p.tuple().op('Q').num(1).numbers({4}).numbers({1}).op(0x89).op('}').tuple().op('R').stop());
  };
  object([](Pickle& p) { p.op('N'); });
  object([](Pickle& p) { p.str("8").num(6).num(6).op(0x87); });
  object([](Pickle& p) { p.str("8").num(9).num(4).op(0x87); });
  object([](Pickle& p) { p.num(5); });
  object([](Pickle&) {});
  seeds.push_back("o" + Pickle().mark().str("module").global("m", "C").str("m.py").str("class C: pass").tuple().op('Q').stop());
  seeds.push_back("o" + Pickle().op(')').op('Q').stop());
  seeds.push_back("x" + Pickle().num(7).stop());
  seeds.push_back("x" + Pickle().op('M').raw(little(1001, 2)).stop() + Pickle().num(1).stop());
  return seeds;
}

}  // namespace miq::test
