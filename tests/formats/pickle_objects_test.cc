// What Python means by a node: dicts, texts, attributes, classes; and JSON that stays small whatever is shared.
#include "miq/formats/pickle_objects.h"

#include <gtest/gtest.h>

#include <string>

#include "miq/base/error.h"
#include "tests/formats/pickle_assembler.h"

namespace miq {
namespace {

PickleTree read(const std::string& text) { return read_pickle(Blob(std::string_view(text)), "x.pkl"); }

// m.C(), by NEWOBJ, with {"hidden": 64, "name": "x"} as its state.
Pickle& object(Pickle& p) {
  return p.global("m", "C").op(')').op(0x81).op('}').mark().str("hidden").num(64).str("name").str("x").op('u').op('b');
}

TEST(PickleObjects, Values) {
  const PickleTree tree = read(Pickle().mark().str("a").num(3).op(0x88).op('G').raw({'\x40', 0, 0, 0, 0, 0, 0, 0}).op('N').tuple().stop());
  const auto items = tree.items(tree.root());
  EXPECT_EQ(as_string(tree, items[0]), "a");
  EXPECT_EQ(as_string(tree, items[1]), std::nullopt);
  EXPECT_EQ(as_int(tree, items[1]), 3);
  EXPECT_EQ(as_int(tree, items[2]), std::nullopt);
  EXPECT_EQ(as_double(tree, items[1]), 3.0);
  EXPECT_EQ(as_double(tree, items[3]), 2.0);
  EXPECT_EQ(as_double(tree, items[0]), std::nullopt);
  EXPECT_EQ(as_bool(tree, items[2]), true);
  EXPECT_EQ(as_bool(tree, items[1]), std::nullopt);
  EXPECT_TRUE(is_none(tree, items[4]));
  EXPECT_TRUE(is_none(tree, kNoNode));
  EXPECT_FALSE(is_none(tree, items[0]));
}

TEST(PickleObjects, Bytes) {
  const auto bytes_of = [](Pickle& p) {
    const PickleTree tree = read(p.stop());
    return as_bytes(tree, tree.root());
  };
  EXPECT_EQ(bytes_of(Pickle().op('C').op(2).raw("\xff\x01")), "\xff\x01");
  EXPECT_EQ(bytes_of(Pickle().global("_codecs", "encode").str("a\xc3\xbf\xc2\x80").str("latin1").op(0x86).op('R')), "a\xff\x80");
  EXPECT_EQ(bytes_of(Pickle().global("__builtin__", "bytes").op(')').op('R')), "");
  EXPECT_EQ(bytes_of(Pickle().global("__builtin__", "bytearray").str("a").str("latin-1").op(0x86).op('R')), "a");
  EXPECT_EQ(bytes_of(Pickle().global("builtins", "bytearray").op('C').op(1).raw("z").op(0x85).op('R')), "z");
  EXPECT_EQ(bytes_of(Pickle()
                         .global("builtins", "bytearray")
                         .global("_codecs", "encode")
                         .str("\xc3\xa9")
                         .str("latin1")
                         .op(0x86)
                         .op('R')
                         .op(0x85)
                         .op('R')),
            "\xe9");
  // Not Latin-1, not text, another codec.
  EXPECT_EQ(bytes_of(Pickle().global("_codecs", "encode").str("\xe2\x82\xac").str("latin1").op(0x86).op('R')), std::nullopt);
  EXPECT_EQ(bytes_of(Pickle().global("_codecs", "encode").str("\xc3").str("latin1").op(0x86).op('R')), std::nullopt);
  EXPECT_EQ(bytes_of(Pickle().global("_codecs", "encode").num(1).str("latin1").op(0x86).op('R')), std::nullopt);
  EXPECT_EQ(bytes_of(Pickle().global("_codecs", "encode").str("a").str("rot13").op(0x86).op('R')), std::nullopt);
  EXPECT_EQ(bytes_of(Pickle().global("m", "encode").str("a").str("latin1").op(0x86).op('R')), std::nullopt);
}

TEST(PickleObjects, Dicts) {
  Pickle p;
  p.mark().op('}').str("a").num(1).op('s');
  p.global("collections", "OrderedDict").op(')').op('R').str("a").num(2).op('s').num(7).num(8).op('s');
  p.global("collections", "OrderedDict").op(']').mark().str("a").num(3).op(0x86).op('e').op(0x85).op('R').num(9).tuple();
  const PickleTree tree = read(p.stop());
  const auto items = tree.items(tree.root());
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(is_dict(tree, items[i]));
    EXPECT_EQ(as_int(tree, find(tree, items[i], "a")), static_cast<std::int64_t>(i + 1));
    EXPECT_EQ(find(tree, items[i], "b"), kNoNode);
  }
  EXPECT_EQ(dict_items(tree, items[1]).size(), 2u);
  EXPECT_FALSE(is_dict(tree, items[3]));
  EXPECT_TRUE(dict_items(tree, items[3]).empty());
  EXPECT_EQ(find(tree, items[3], "a"), kNoNode);
}

TEST(PickleObjects, Elements) {
  Pickle p;
  p.mark().global("__builtin__", "set").op(']').num(1).op('a').op(0x85).op('R');
  p.global("torch", "Size").num(2).num(3).op(0x86).op(0x85).op('R').global("m", "L").op(')').op(0x81).num(4).op('a').num(5).tuple();
  const PickleTree tree = read(p.stop());
  const auto items = tree.items(tree.root());
  EXPECT_EQ(elements(tree, items[0]).size(), 1u);
  EXPECT_EQ(elements(tree, items[1]).size(), 2u);
  EXPECT_EQ(elements(tree, items[2]).size(), 1u);
  EXPECT_TRUE(elements(tree, items[3]).empty());
}

TEST(PickleObjects, AttributesAndClasses) {
  Pickle p;
  object(p);
  const PickleTree plain = read(p.stop());
  EXPECT_EQ(class_of(plain, plain.root()), "m.C");
  EXPECT_EQ(as_int(plain, attribute(plain, plain.root(), "hidden")), 64);
  EXPECT_EQ(attribute(plain, plain.root(), "other"), kNoNode);
  ASSERT_EQ(attributes(plain, plain.root()).size(), 2u);
  EXPECT_EQ(attributes(plain, plain.root())[1].first, "name");
  EXPECT_TRUE(is_instance_of(plain, plain.root(), "m.C"));

  // (dict, slots), either of which may be None.
  const PickleTree slots =
      read(Pickle().global("m", "S").op(')').op(0x81).op('N').op('}').str("left").num(1).op('s').op(0x86).op('b').stop());
  EXPECT_EQ(as_int(slots, attribute(slots, slots.root(), "left")), 1);

  const PickleTree old = read(Pickle()
                                  .global("copy_reg", "_reconstructor")
                                  .global("m", "Old")
                                  .global("__builtin__", "object")
                                  .op('N')
                                  .op(0x87)
                                  .op('R')
                                  .op('}')
                                  .str("a")
                                  .num(1)
                                  .op('s')
                                  .op('b')
                                  .stop());
  EXPECT_EQ(class_of(old, old.root()), "m.Old");
  EXPECT_EQ(as_int(old, attribute(old, old.root(), "a")), 1);

  const PickleTree custom = read(Pickle().global("m", "C").op(')').op(0x81).str("state of its own").op('b').stop());
  EXPECT_TRUE(attributes(custom, custom.root()).empty());
  EXPECT_EQ(as_string(custom, custom.state(custom.root())), "state of its own");
  EXPECT_EQ(class_of(custom, custom.state(custom.root())), "");
}

TEST(PickleObjects, ClassesByValue) {
  Pickle p;
  p.global("dill._dill", "_create_type").mark().global("dill._dill", "_load_type").str("type").op(0x85).op('R').str("Local");
  p.global("torch.nn.modules.module", "Module").op(0x85).op('}').str("__module__").str("__main__").op('s').tuple().op('R').put(1);
  p.op(')').op(0x81).op('}').str("a").num(1).op('s').op('b');
  const PickleTree tree = read(p.stop());
  const auto type = describe_type(tree, type_of(tree, tree.root()));
  ASSERT_TRUE(type);
  EXPECT_TRUE(type->by_value);
  EXPECT_EQ(type->full_name(), "__main__.Local");
  ASSERT_EQ(type->bases.size(), 1u);
  EXPECT_EQ(describe_type(tree, type->bases[0])->full_name(), "torch.nn.modules.module.Module");
  EXPECT_TRUE(is_instance_of(tree, tree.root(), "torch.nn.modules.module.Module"));
  EXPECT_FALSE(is_instance_of(tree, tree.root(), "torch.nn.modules.linear.Linear"));
  // A class that names itself as its base.
  const PickleTree cycle = read(Pickle()
                                    .global("types", "new_class")
                                    .str("X")
                                    .op(']')
                                    .put(0)
                                    .op(0x86)
                                    .op('R')
                                    .put(1)
                                    .op('0')
                                    .get(0)
                                    .get(1)
                                    .op('a')
                                    .op('0')
                                    .get(1)
                                    .op(')')
                                    .op(0x81)
                                    .stop());
  EXPECT_FALSE(is_instance_of(cycle, cycle.root(), "m.C"));
}

TEST(PickleObjects, Json) {
  Pickle p;
  p.op('}').mark().str("config");
  object(p);
  p.str("list").op(']').mark().num(1).op('N').op(0x88).op('G').raw({'\x7f', '\xf0', 0, 0, 0, 0, 0, 0}).op('e');
  p.str("dtype").global("torch", "float16").str("bytes").op('C').op(1).raw("x").num(5).str("\xff bad");
  p.str("size").global("torch", "Size").num(2).op(0x85).op(0x85).op('R').op('u');
  const PickleTree tree = read(p.stop());
  EXPECT_EQ(to_json(tree, tree.root()).dump(),
            R"({"5":")"
            "\xef\xbf\xbd"
            R"( bad","bytes":{"__opaque__":"1 bytes"},"config":{"__class__":"m.C","hidden":64,"name":"x"},"dtype":"torch.float16",)"
            R"("list":[1,null,true,null],"size":[2]})");
}

TEST(PickleObjects, JsonOfTextsAndOpaqueThings) {
  Pickle p;
  p.mark().str("\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82").str("\xe0\x80\x80|\xed\xa0\x80|\xf4\x90\x80\x80|\xc0\x80|\xf0\x9f|\xe2\x82");
  p.op(0x8a)
      .op(9)
      .raw(little(0, 8) + "\x01")
      .num(1)
      .op('Q')
      .global("os", "system")
      .global("_codecs", "encode")
      .str("a")
      .str("latin1")
      .op(0x86)
      .op('R')
      .tuple();
  const PickleTree tree = read(p.stop());
  const Json json = to_json(tree, tree.root());
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(json[0], "\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82");
  EXPECT_EQ(json[1],
            bad + bad + bad + "|" + bad + bad + bad + "|" + bad + bad + bad + bad + "|" + bad + bad + "|" + bad + bad + "|" + bad + bad);
  EXPECT_EQ(json[2], 0x1p64);
  EXPECT_EQ(json[3]["__opaque__"], "storage");
  EXPECT_EQ(json[4]["__opaque__"], "os.system");
  EXPECT_EQ(json[5]["__opaque__"], "bytes");
}

TEST(PickleObjects, JsonLimits) {
  const PickleTree tree = read(Pickle().op('}').mark().str("a").num(1).str("b").num(2).str("c").num(3).op('u').stop());
  PickleJsonLimits limits;
  limits.max_values = 3;
  EXPECT_EQ(to_json(tree, tree.root(), limits).dump(), R"({"__omitted__":"size","a":1})");
  limits = {};
  limits.max_text = 5;  // a key counts as a value and as a key
  EXPECT_EQ(to_json(tree, tree.root(), limits).dump(), R"({"__omitted__":"size","a":1,"b":2})");
  limits = {};
  limits.max_depth = 0;
  EXPECT_EQ(to_json(tree, tree.root(), limits).dump(), R"({"__omitted__":"depth"})");
}

TEST(PickleObjects, JsonOfAStateDict) {
  Pickle p;
  p.global("collections", "OrderedDict").op(')').op('R').str("a").num(1).op('s').op('}').str("_metadata").op('N').op('s').op('b');
  const PickleTree tree = read(p.stop());
  EXPECT_EQ(to_json(tree, tree.root()).dump(), R"({"a":1})");
}

TEST(PickleObjects, JsonStaysSmall) {
  const PickleTree cycle = read(Pickle().op(']').put(0).get(0).op('a').stop());
  EXPECT_EQ(to_json(cycle, cycle.root()).dump(), R"([{"__omitted__":"cycle"}])");

  // A billion laughs: thirty lists, each holding the one before ten times.
  Pickle laughs;
  laughs.str(std::string(1000, 'h')).put(0);
  for (int level = 0; level < 30; ++level) {
    laughs.op('0').op(']').mark();
    for (int i = 0; i < 10; ++i) laughs.get(level);
    laughs.op('e').put(level + 1);
  }
  const PickleTree tree = read(laughs.stop());
  EXPECT_LT(to_json(tree, tree.root()).dump().size(), 32u << 20);
  PickleJsonLimits few;
  few.max_values = 100;
  few.max_text = 5000;
  EXPECT_LT(to_json(tree, tree.root(), few).dump().size(), 20'000u);

  Pickle deep;
  deep.ops(std::string(1'000'000, ']') + std::string(999'999, 'a'));
  const PickleTree nested = read(deep.stop());
  EXPECT_NE(to_json(nested, nested.root()).dump().find(R"("__omitted__":"depth")"), std::string::npos);
  EXPECT_EQ(dict_items(nested, nested.root()).size(), 0u);

  // One object with a large state, shown again and again.
  Pickle shared;
  shared.op(']').mark().global("m", "C").op(')').op(0x81).op('}').mark();
  for (int i = 0; i < 10000; ++i) shared.str(std::to_string(i)).op('N');
  shared.op('u').op('b').put(0);
  for (int i = 0; i < 100000; ++i) shared.get(0);
  const PickleTree many = read(shared.op('e').stop());
  EXPECT_LT(to_json(many, many.root()).dump().size(), 32u << 20);
}

}  // namespace
}  // namespace miq
