// Streams assembled by hand: what each op-code builds, every refusal, and floods that must stay cheap.
#include "miq/formats/pickle.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "miq/base/error.h"
#include "miq/formats/pickle_globals.h"
#include "tests/formats/pickle_assembler.h"

namespace miq {
namespace {

PickleTree read(const std::string& text) { return read_pickle(Blob(std::string_view(text)), "x.pkl"); }

std::string refusal(const std::string& text) {
  try {
    read(text);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

void expect_refused(const std::string& text, const std::string& part) {
  const std::string message = refusal(text);
  EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks: " << part;
  EXPECT_EQ(message.rfind("x.pkl: at byte ", 0), 0u) << message;
}

TEST(Pickle, Scalars) {
  Pickle p;
  p.mark().ops("N").op(0x88).op(0x89).num(7).op('M').raw("\x01\x02").op('J').raw(little(0xfffffffe, 4));
  p.wide(INT64_MIN).op(0x8a).op(0).op(0x8a).op(1).raw("\xff").op(0x8b).raw(little(2, 4) + little(0x8000, 2));
  p.op('G').raw({'\xc0', '\x04', 0, 0, 0, 0, 0, 0}).str("text").op('U').op(2).raw("ab").op(0x8c).op(1).raw("c");
  p.op('C').op(3).raw("\x01\x02\x03").op(0x96).raw(little(1, 8) + "z").op('B').raw(little(0, 4)).op(0x8d).raw(little(1, 8) + "u").tuple();
  const PickleTree tree = read(p.stop());
  const auto items = tree.items(tree.root());
  ASSERT_EQ(items.size(), 18u);
  EXPECT_EQ(tree.kind(items[0]), NodeKind::None);
  EXPECT_TRUE(tree.boolean(items[1]));
  EXPECT_EQ(tree.kind(items[2]), NodeKind::Bool);
  EXPECT_FALSE(tree.boolean(items[2]));
  const std::int64_t integers[] = {7, 0x201, -2, INT64_MIN, 0, -1, -32768};
  for (std::size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(tree.kind(items[3 + i]), NodeKind::Int);
    EXPECT_EQ(tree.integer(items[3 + i]), integers[i]) << i;
  }
  EXPECT_EQ(tree.real(items[10]), -2.5);
  EXPECT_EQ(tree.text(items[11]), "text");
  EXPECT_EQ(tree.text(items[12]), "ab");
  EXPECT_EQ(tree.kind(items[13]), NodeKind::String);
  EXPECT_EQ(tree.text(items[14]), "\x01\x02\x03");
  EXPECT_EQ(tree.kind(items[14]), NodeKind::Binary);
  EXPECT_EQ(tree.text(items[15]), "z");
  EXPECT_EQ(tree.kind(items[16]), NodeKind::Binary);
  EXPECT_EQ(tree.text(items[17]), "u");
  // Wrong kinds and no node give nothing.
  EXPECT_EQ(tree.integer(items[11]), 0);
  EXPECT_EQ(tree.text(items[3]), "");
  EXPECT_TRUE(tree.items(items[3]).empty());
  EXPECT_EQ(tree.callee(items[3]), kNoNode);
  EXPECT_EQ(tree.kind(kNoNode), NodeKind::None);
  EXPECT_EQ(tree.offset(items[3]), 6u);
}

TEST(Pickle, Integers) {
  // 2^63 needs nine bytes, -2^63 eight; bytes that repeat the sign do not count.
  const auto of = [](const std::string& bytes) { return read(Pickle().op(0x8a).op(static_cast<int>(bytes.size())).raw(bytes).stop()); };
  const PickleTree big = of(little(0, 7) + "\x80" + std::string(1, 0));
  EXPECT_EQ(big.kind(big.root()), NodeKind::BigInt);
  EXPECT_EQ(big.real(big.root()), 0x1p63);
  const PickleTree small = of(little(0, 7) + "\x80\xff\xff");
  EXPECT_EQ(small.kind(small.root()), NodeKind::Int);
  EXPECT_EQ(small.integer(small.root()), INT64_MIN);
  const PickleTree negative = of(little(0, 15) + "\x80");
  EXPECT_EQ(negative.real(negative.root()), -0x1p127);
  const PickleTree zero = of(std::string(16, 0));
  EXPECT_EQ(zero.kind(zero.root()), NodeKind::Int);
  EXPECT_EQ(zero.integer(zero.root()), 0);
}

TEST(Pickle, Containers) {
  Pickle p;
  // [1, [2, 3], {"a": 4, "b": 5}, {6, 7}, frozenset({8}), (), (9,)], appended in turns with the inner list.
  p.op(']').put(0).num(1).op('a').op(']').put(1).num(2).op('a').get(0).get(1).op('a').op('0').num(3).op('a').op('0');
  p.mark().op('}').str("a").num(4).op('s').mark().str("b").num(5).op('u');
  p.op(0x8f).mark().num(6).num(7).op(0x90).mark().num(8).op(0x91).op(')').num(9).op(0x85).op('e');
  const PickleTree tree = read(p.stop());
  const auto items = tree.items(tree.root());
  ASSERT_EQ(items.size(), 7u);
  EXPECT_EQ(tree.integer(items[0]), 1);
  ASSERT_EQ(tree.items(items[1]).size(), 2u);
  EXPECT_EQ(tree.integer(tree.items(items[1])[1]), 3);
  const auto pairs = tree.pairs(items[2]);
  ASSERT_EQ(pairs.size(), 2u);
  EXPECT_EQ(tree.text(pairs[1].first), "b");
  EXPECT_EQ(tree.integer(pairs[1].second), 5);
  EXPECT_EQ(tree.kind(items[3]), NodeKind::Set);
  EXPECT_EQ(tree.items(items[3]).size(), 2u);
  EXPECT_EQ(tree.items(items[4]).size(), 1u);
  EXPECT_EQ(tree.items(items[5]).size(), 0u);
  EXPECT_EQ(tree.items(items[6]).size(), 1u);
}

TEST(Pickle, PairsSetInTurns) {
  Pickle p;
  p.op('}').put(0).op('}').put(1).op('0').op('0');
  for (int i = 0; i < 5; ++i) p.get(0).str("a" + std::to_string(i)).num(i).op('s').op('0').get(1).num(i).op('N').op('s').op('0');
  const PickleTree tree = read(p.get(0).get(1).op(0x86).stop());
  const auto dicts = tree.items(tree.root());
  const auto first = tree.pairs(dicts[0]), second = tree.pairs(dicts[1]);
  ASSERT_EQ(first.size(), 5u);
  ASSERT_EQ(second.size(), 5u);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(tree.text(first[static_cast<std::size_t>(i)].first), "a" + std::to_string(i));
    EXPECT_EQ(tree.integer(second[static_cast<std::size_t>(i)].first), i);
  }
  // Keys given twice are seen however far apart they are set; integers and long texts are not compared.
  expect_refused(Pickle().op('}').put(0).str("k").num(1).op('s').op('}').str("k").num(1).op('s').op('0').str("k").num(1).op('s').stop(),
                 "'k' twice");
}

TEST(Pickle, ObjectsAreOnlyDescribed) {
  Pickle p;
  p.global("os", "system").str("id").op(0x85).op('R').put(0).op('}').str("x").num(1).op('s').op('b');
  p.str("key").num(2).op('s').num(3).op('a');
  const PickleTree tree = read(p.stop());
  const NodeId call = tree.root();
  EXPECT_EQ(tree.kind(call), NodeKind::Call);
  EXPECT_EQ(tree.global(tree.callee(call))->full_name(), "os.system");
  EXPECT_EQ(tree.text(tree.items(tree.args(call))[0]), "id");
  EXPECT_EQ(tree.pairs(tree.state(call)).size(), 1u);
  EXPECT_EQ(tree.pairs(call).size(), 1u);
  EXPECT_EQ(tree.items(call).size(), 1u);
  ASSERT_EQ(tree.globals().size(), 1u);
  EXPECT_EQ(tree.globals()[0].called, 1u);
  EXPECT_EQ(tree.globals()[0].first_offset, 2u);
}

TEST(Pickle, NewObjectsAndGlobals) {
  Pickle p(4);
  p.mark().op(0x8c).op(1).raw("m").op(0x94).op(0x8c).op(1).raw("C").op(0x93).put(9).op(')').op(0x81);
  p.get(9).num(1).op(0x85).op('}').op(0x92).global("__builtin__", "set").get(9).get(9).op(')').op('R').op(')').op('R').tuple();
  const PickleTree tree = read(p.stop());
  const auto items = tree.items(tree.root());
  ASSERT_EQ(items.size(), 5u);
  EXPECT_EQ(tree.kind(items[0]), NodeKind::New);
  EXPECT_EQ(tree.kwargs(items[0]), kNoNode);
  EXPECT_EQ(tree.kind(tree.kwargs(items[1])), NodeKind::Dict);
  EXPECT_EQ(tree.global(items[2])->full_name(), "builtins.set");
  ASSERT_EQ(tree.globals().size(), 2u);
  EXPECT_EQ(tree.globals()[0].instantiated, 2u);
  EXPECT_EQ(tree.globals()[0].called, 1u);
  EXPECT_EQ(tree.indirect_calls(), 1u);  // what m.C() returned is called
}

TEST(Pickle, CyclesAndSharing) {
  const PickleTree cycle = read(Pickle().op(']').put(0).get(0).op('a').stop());
  EXPECT_EQ(cycle.items(cycle.root())[0], cycle.root());
  const PickleTree state = read(Pickle().global("m", "C").op(')').op(0x81).put(0).op('}').str("self").get(0).op('s').op('b').stop());
  EXPECT_EQ(state.pairs(state.state(state.root()))[0].second, state.root());
  // Memo entries may be put again, out of order, and at any index.
  const PickleTree memo = read(Pickle()
                                   .num(1)
                                   .op('r')
                                   .raw(little(0xffffffff, 4))
                                   .num(2)
                                   .put(0)
                                   .num(3)
                                   .put(0)
                                   .op('j')
                                   .raw(little(0xffffffff, 4))
                                   .get(0)
                                   .ops("0000")
                                   .stop());
  EXPECT_EQ(memo.integer(memo.root()), 1);
}

TEST(Pickle, MemoizeTakesTheNextIndex) {
  Pickle p(4);
  p.mark().num(5).op(0x94).num(6).op(0x94).num(7).op('q').op(200).num(8).op(0x94).get(0).get(1).get(3).tuple();
  const PickleTree tree = read(p.stop());
  const auto items = tree.items(tree.root());
  EXPECT_EQ(tree.integer(items[4]), 5);
  EXPECT_EQ(tree.integer(items[5]), 6);
  EXPECT_EQ(tree.integer(items[6]), 8);
}

TEST(Pickle, Frames) {
  const auto framed = [](const std::string& body, std::uint64_t length) {
    return Pickle(4).op(0x95).raw(little(length, 8)).raw(body).text;
  };
  EXPECT_EQ(read(framed("K\x01.", 3)).size(), 1u);
  EXPECT_EQ(read(Pickle(4).op(0x95).raw(little(1, 8)).ops("]").op(0x95).raw(little(2, 8)).raw("0N").raw(".").text).kind(0), NodeKind::List);
  expect_refused(framed("K\x01.", 1), "crosses the end of its frame");
  expect_refused(framed("K\x01.", 4), "a frame of 4 bytes");
  expect_refused(framed("K\x01.N", 4), "stops before its frame ends");
  expect_refused(framed(std::string(1, '\x95') + little(1, 8) + "N.", 11), "a frame within a frame");
  expect_refused(framed("", ~std::uint64_t{0}), "a frame of 18446744073709551615");
}

TEST(Pickle, PopAndMarks) {
  EXPECT_EQ(read(Pickle().num(4).mark().op('0').stop()).integer(0), 4);
  EXPECT_EQ(read(Pickle().num(4).mark().num(1).num(2).op('1').stop()).integer(0), 4);
  expect_refused(Pickle().num(4).mark().num(1).ops("00000").stop(), "more from the stack");
  expect_refused(Pickle().num(4).mark().op(0x85).stop(), "more from the stack");
}

TEST(Pickle, Prefixes) {
  const std::string one = Pickle().num(1).stop(), two = Pickle().num(2).stop();
  const auto [tree, taken] = read_pickle_prefix(Blob(std::string_view(one + two)), "x.pkl", 100);
  EXPECT_EQ(taken, one.size());
  EXPECT_EQ(tree.integer(tree.root()), 1);
  EXPECT_EQ(tree.offset(tree.root()), 102u);
  expect_refused(one + two, "bytes behind the end");
}

TEST(Pickle, Refusals) {
  expect_refused("", "does not begin");
  expect_refused("(I1\n.", "does not begin");
  expect_refused(Pickle(0).num(1).stop(), "protocol 0");
  expect_refused(Pickle(6).num(1).stop(), "protocol 6");
  expect_refused(Pickle().op(0x80).op(2).num(1).stop(), "second PROTO");
  for (const char op : std::string("ILFSVgpPiold")) expect_refused(Pickle().op(op).raw("1\n").stop(), "text form");
  for (const int op : {0x32, 0x82, 0x83, 0x84}) expect_refused(Pickle().num(1).op(op).raw("\x01\x01\x01\x01").stop(), "DUP or EXT");
  for (const int op : {0x97, 0x98}) expect_refused(Pickle(5).op(op).stop(), "outside the stream");
  for (const int op : {0x00, 0x99, 0xff, 0x23}) expect_refused(Pickle().op(op).stop(), "is no pickle op-code");
  expect_refused(Pickle().op(0x8a).op(17).raw(std::string(17, 1)).stop(), "integer of 17 bytes");
  expect_refused(Pickle().op(0x8b).raw(little(0xffffffff, 4)).stop(), "integer of 4294967295 bytes");
  expect_refused(Pickle().op('X').raw(little(0xffffffff, 4) + "abc").stop(), "a text takes 4294967295 bytes");
  expect_refused(Pickle(4).op(0x8e).raw(little(~std::uint64_t{0}, 8)).stop(), "a byte string takes");
  expect_refused(Pickle().op('c').raw("os").text, "cut short within a global");
  expect_refused(Pickle().op('c').raw(std::string(600, 'a') + "\nb\n").stop(), "more than 512 bytes");
  expect_refused(Pickle().str(std::string(600, 'a')).str("b").op(0x93).stop(), "more than 512 bytes");
  expect_refused(Pickle().global("", "b").stop(), "without a module");
  expect_refused(Pickle().num(1).num(2).op(0x93).stop(), "by what is no text");
  expect_refused(Pickle().get(0).stop(), "memo entry 0, which was never put");
  expect_refused(Pickle().num(1).put(3).op('j').raw(little(2, 4)).stop(), "memo entry 2");
  expect_refused(Pickle().put(0).num(1).stop(), "more from the stack");
  expect_refused(Pickle().stop(), "0 values on the stack");
  expect_refused(Pickle().num(1).num(2).stop(), "2 values on the stack");
  expect_refused(Pickle().num(1).mark().stop(), "within a mark");
  expect_refused(Pickle().num(1).tuple().stop(), "never set");
  expect_refused(Pickle().op('R').stop(), "more from the stack");
  expect_refused(Pickle().num(1).op('R').stop(), "more from the stack");
  expect_refused(Pickle().num(1).num(1).op(0x92).stop(), "more from the stack");
  expect_refused(Pickle().op('Q').stop(), "more from the stack");
  expect_refused(Pickle().op(')').num(1).op('a').stop(), "cannot have any");
  expect_refused(Pickle().op('}').num(1).op('a').stop(), "cannot have any");
  expect_refused(Pickle().op(']').num(1).num(2).op('s').stop(), "cannot have any");
  expect_refused(Pickle().op(0x8f).num(1).num(2).op('s').stop(), "cannot have any");
  expect_refused(Pickle().global("m", "C").num(1).num(2).op('s').stop(), "cannot have any");
  expect_refused(Pickle().op('}').mark().num(1).op('u').stop(), "without a value");
  expect_refused(Pickle().mark().num(1).op('e').stop(), "more from the stack");
  expect_refused(Pickle().op('}').num(1).op('b').stop(), "no object");
  expect_refused(Pickle().global("m", "C").op('}').op('b').stop(), "no object");
  expect_refused(Pickle().global("m", "C").op(')').op(0x81).op('N').op('b').op('N').op('b').stop(), "state to one object twice");
  expect_refused(Pickle().op('}').str("k").num(1).op('s').str("k").num(2).op('s').stop(), "'k' twice");
}

TEST(Pickle, CutAnywhereIsRefused) {
  Pickle p(4);
  p.op(0x95).raw(little(4, 8)).op('}').put(0).mark().str("a").tensor("FloatStorage", "0", 4, 0, {2, 2}, {2, 1}).str("b").num(1).op('u');
  const std::string whole = p.stop();
  read(whole);
  for (std::size_t length = 0; length < whole.size(); ++length) EXPECT_NE(refusal(whole.substr(0, length)), "accepted") << length;
}

// Each is a megabyte of one thing. Deep nesting must not recurse, neither here nor when the tree is freed.
TEST(Pickle, FloodsStayCheap) {
  const std::size_t count = 1 << 20;
  const auto repeated = [&](const std::string& unit, std::size_t length) {
    std::string text;
    while (text.size() + unit.size() <= length) text += unit;
    return text;
  };
  std::string sparse, distinct;
  for (std::uint64_t i = 0; sparse.size() < count; ++i) sparse += "r" + little(0xffffffff - 1031 * i, 4);
  for (std::uint64_t i = 0; distinct.size() < count; ++i) distinct += "cm\n" + std::to_string(i) + "\n0";
  const std::vector<std::pair<std::string, std::string>> floods = {
      {"lists", Pickle().ops(std::string(count, ']')).text},
      {"nested lists", Pickle().ops(std::string(count / 2, ']') + std::string(count / 2 - 1, 'a')).stop()},
      {"nested tuples", Pickle().op('N').ops(std::string(count, '\x85')).stop()},
      {"marks", Pickle().ops(std::string(count, '(')).text},
      {"memo", Pickle(4).op('N').ops(std::string(count, '\x94')).stop()},
      {"scattered memo", Pickle().op('N').raw(sparse).stop()},
      {"appends in turns", Pickle().op(']').put(0).op('0').op(']').put(1).raw(repeated(std::string("h\0Na0h\1Na0", 10), count)).stop()},
      {"calls of calls", Pickle().global("m", "f").ops(repeated(")R", count)).stop()},
      {"states", Pickle().global("m", "f").ops(repeated("N)R", count)).text},
      {"sharing", Pickle().op(']').put(0).raw(repeated(std::string("h\0h\0\x86q\0", 7), count)).text},
      {"globals", Pickle().raw(distinct).op('N').stop()},
      {"persistent ids", Pickle().op('N').ops(std::string(count, 'Q')).stop()},
  };
  for (const auto& [what, text] : floods) {
    const auto start = std::chrono::steady_clock::now();
    refusal(text);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5)) << what;
  }
}

TEST(PickleGlobals, Risks) {
  EXPECT_EQ(risk_name(GlobalRisk::Harmless), "harmless");
  EXPECT_EQ(risk_name(GlobalRisk::RunsCode), "runs code");
  EXPECT_EQ(risk_name(GlobalRisk::Dangerous), "dangerous");
  for (const auto& [module, name] : {std::pair("os", "system"),
                                     {"posix", "system"},
                                     {"builtins", "eval"},
                                     {"builtins", "getattr"},
                                     {"subprocess", "Popen"},
                                     {"dill._dill", "_create_code"},
                                     {"dill._dill", "_eval_repr"},
                                     {"dill._dill", "_create_filehandle"},
                                     {"dill._dill", "_import_module"},
                                     {"torch.storage", "_load_from_bytes"},
                                     {"torch", "load"},
                                     {"torch.hub", "load"},
                                     {"torch.jit._script", "x"},
                                     {"importlib", "import_module"},
                                     {"operator", "attrgetter"},
                                     {"torch", "os.system"},
                                     {"urllib.request", "urlopen"},
                                     {"runpy", "_run_code"},
                                     {"pip", "main"},
                                     {"numpy.testing._private.utils", "runstring"}}) {
    EXPECT_EQ(global_risk(module, name), GlobalRisk::Dangerous) << module << "." << name;
  }
  for (const auto& [module, name] : {std::pair("collections", "OrderedDict"),
                                     {"torch._utils", "_rebuild_tensor_v2"},
                                     {"torch", "FloatStorage"},
                                     {"torch", "float16"},
                                     {"torch.nn.parameter", "Parameter"},
                                     {"_codecs", "encode"},
                                     {"builtins", "set"}}) {
    EXPECT_EQ(global_risk(module, name), GlobalRisk::Harmless) << module << "." << name;
  }
  for (const auto& [module, name] :
       {std::pair("transformers", "LlamaConfig"), {"osmosis", "x"}, {"torch.nn.modules.linear", "Linear"}, {"__main__", "C"}}) {
    EXPECT_EQ(global_risk(module, name), GlobalRisk::RunsCode) << module << "." << name;
    EXPECT_TRUE(would_run_code(module, name));
  }
}

TEST(PickleGlobals, Python2NamesAreThePresentOnes) {
  const PickleTree tree = read(
      Pickle().mark().global("__builtin__", "eval").global("copy_reg", "_reconstructor").global("commands", "getoutput").tuple().stop());
  EXPECT_EQ(tree.globals()[0].full_name(), "builtins.eval");
  EXPECT_EQ(tree.globals()[1].full_name(), "copyreg._reconstructor");
  EXPECT_EQ(tree.globals()[2].full_name(), "subprocess.getoutput");
}

}  // namespace
}  // namespace miq
