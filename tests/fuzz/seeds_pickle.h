// Pickles that the fuzzer begins with: every op-code, the ways Python writes its objects, and each refusal of the interpreter.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/formats/pickle_assembler.h"

namespace miq::test {

// Op-codes with the arguments that they take, and what must be refused.
inline void add_pickle_opcodes(std::vector<std::string>& seeds) {
  const auto add = [&](const Pickle& pickle) { seeds.push_back(pickle.stop()); };
  const auto text = [](int op, std::size_t width, std::size_t length) { return Pickle().op(op).raw(little(length, width)).raw(std::string(length, 't')); };
  add(Pickle().mark().op('N').op('N').op(0x88).op(0x88).op(0x89).op(')').op(')').tuple());
  add(Pickle().mark().op('J').raw(little(7, 4)).op('M').raw(little(7, 2)).num(7).op('G').raw(little(0x3f, 8)).tuple());
  for (const char last : {'\0', '\xff', '\x7f'}) {
    add(Pickle().mark().op(0x8a).op(0).op(0x8a).op(2).raw("a" + std::string(1, last)).op(0x8a).op(9).raw(std::string(8, last) + last).op(0x8b).raw(little(16, 4)).raw(std::string(16, last)).tuple());
    add(Pickle().op(0x8a).op(16).raw(std::string(15, 'x') + last));
  }
  add(Pickle().op(0x8b).raw(little(17, 4)).raw(std::string(17, 'x')));
  for (const int op : {0x8c, static_cast<int>('U'), static_cast<int>('C')}) add(text(op, 1, 3));
  for (const int op : {static_cast<int>('X'), static_cast<int>('T'), static_cast<int>('B')}) add(text(op, 4, 3));
  for (const int op : {0x8d, 0x8e, 0x96}) add(text(op, 8, 3));
  seeds.push_back(Pickle().op('X').raw(little(99, 4)).text);
  for (const char op : std::string("ILFSVgpPiold2\x82\x83\x84\x97\x98\x80#")) add(Pickle().op('N').op(op));
  // Containers.
  add(Pickle().op('N').mark().num(1).op('1').mark().op('0').op('N').op('0'));
  add(Pickle().num(1).op(0x85).num(2).op(0x86).num(3).op('N').op(0x87));
  add(Pickle().op(']').num(1).op('a').mark().num(2).num(3).op('e'));
  add(Pickle().op('}').num(1).num(2).op('s').mark().str("a").num(3).str("b").num(4).op('u'));
  add(Pickle(4).op(0x8f).mark().num(1).op(0x90).mark().num(2).op(0x91).op(0x86));
  // Two lists that grow in turn, and two dicts.
  add(Pickle().op(']').put(0).op(']').put(1).op('0').num(1).op('a').get(1).num(2).op('a').op('0').get(0).num(3).op('a').op('0').get(1).num(4).op('a').op(0x86));
  add(Pickle().op('}').put(0).op('}').put(1).num(1).num(1).op('s').op('0').num(2).num(2).op('s').get(1).num(3).num(3).op('s').op('0').num(4).num(4).op('s'));
  add(Pickle().op('}').str("a").num(1).op('s').str("a").num(1).op('s'));
  add(Pickle().op('}').num(1).num(1).op('s').str(std::string(300, 'k')).num(1).op('s'));
  add(Pickle().op('}').mark().num(1).op('u'));
  add(Pickle().num(1).num(2).op('a'));
  add(Pickle().op(']').num(1).num(2).op('s'));
  add(Pickle().num(1).op('}').op('b'));
  add(Pickle().op('t'));
  add(Pickle().mark());
  add(Pickle().op('N').op('N'));
  add(Pickle());
  add(Pickle().op('0'));
  // The memo.
  add(Pickle().op('N').op('r').raw(little(1, 4)).num(2).put(0).put(0).num(3).put(1).op('j').raw(little(1, 4)).op(0x87));
  add(Pickle().get(7));
  add(Pickle(4).op('N').op(0x94).op(0x94));
  // Globals and calls.
  for (const auto& [module, name] : {std::pair("copy_reg", "_reconstructor"), {"", "n"}, {"m", ""}}) add(Pickle().global(module, name));
  seeds.push_back(Pickle().op('c').raw("m").text);
  add(Pickle().op('c').raw(std::string(600, 'm')));
  add(Pickle(4).str("m").str("n").op(0x93));
  add(Pickle(4).num(1).str("n").op(0x93));
  add(Pickle(4).str("m").str(std::string(513, 'n')).op(0x93));
  add(Pickle(4).global("m", "C").op(')').op('}').op(0x92));
  add(Pickle().num(1).op(')').op('R'));
  add(Pickle().num(1).op('R'));
  add(Pickle().global("m", "C").op(')').op(0x81).op('}').op('b').op('}').op('b'));
  add(Pickle().num(1).op('Q'));
  // Beginnings, ends and frames.
  const auto frame = [](std::uint64_t length) { return Pickle(4).op(0x95).raw(little(length, 8)); };
  add(frame(2).op('N'));
  add(frame(0).op('N'));
  add(frame(1).op('N'));
  add(frame(3).op('N'));
  add(frame(3).str("abc"));
  add(frame(12).op(0x95).raw(little(1, 8)).op('N'));
  add(frame(99).op('N'));
  for (const int protocol : {1, 5, 6}) add(Pickle(protocol).op('N'));
  seeds.push_back("");
  seeds.push_back("(dp0\n.");
  seeds.push_back(Pickle().op('N').stop() + "x");
  seeds.push_back(Pickle().op('N').text);
}

// What Python's objects are written as: bytes, dicts, sets, classes by name and by value.
inline void add_pickle_objects(std::vector<std::string>& seeds) {
  const auto add = [&](const Pickle& pickle) { seeds.push_back(pickle.stop()); };
  const auto call = [](const char* module, const char* name, const std::function<void(Pickle&)>& arguments) {
    Pickle pickle;
    pickle.global(module, name).mark();
    arguments(pickle);
    return pickle.tuple().op('R');
  };
  for (const char* bytes : {"plain\xc3\xa9", "\xc4\x80", "\xc3(", "\xc3"}) add(call("_codecs", "encode", [&](Pickle& p) { p.str(bytes).str("latin1"); }));
  add(call("_codecs", "encode", [](Pickle& p) { p.str("a").str("utf-7"); }));
  add(call("builtins", "bytes", [](Pickle&) {}));
  add(call("builtins", "bytearray", [](Pickle& p) { p.op('C').op(1).raw("x"); }));
  for (const char* codec : {"latin-1", "rot13"}) {
    add(call("builtins", "bytearray", [&](Pickle& p) { p.global("_codecs", "encode").str("x").str(codec).op(0x86).op('R'); }));
  }
  add(call("collections", "OrderedDict", [](Pickle& p) { p.op(']').op(']').str("a").op('a').num(1).op('a').op('a').op(']').op('a'); }));
  add(call("collections", "OrderedDict", [](Pickle&) {}).str("a").num(1).op('s').op('}').op('b'));
  add(call("collections", "Counter", [](Pickle& p) { p.op('}').str("a").num(1).op('s'); }));
  add(call("collections", "deque", [](Pickle&) {}).num(1).op('a'));
  add(call("builtins", "dict", [](Pickle&) {}));
  add(call("builtins", "set", [](Pickle& p) { p.op(']').num(1).op('a'); }));
  add(call("torch", "Size", [](Pickle& p) { p.numbers({2, 3}); }));
  add(call("torch", "device", [](Pickle& p) { p.str("cpu"); }));
  add(call("copy_reg", "_reconstructor", [](Pickle& p) { p.global("m", "C").global("builtins", "object").op('N'); }).op('}').str("a").num(1).op('s').op('b'));
  add(Pickle().global("torch", "float32").global("torch", "FloatStorage").op(0x86));
  add(Pickle().global("torch", "os.system").global("os", "system").op(0x86));
  add(Pickle().global("m", "os.system").global("builtins", "getattr").op(0x86));
  // Objects with attributes, slots, items and pairs.
  const auto object = [] { return Pickle().global("m", "C").op(')').op(0x81); };
  add(object().op('}').str("a").num(1).op('s').op('}').str("a").num(2).op('s').op(0x86).op('b'));
  add(object().op('N').op('}').num(1).num(2).op('s').op(0x86).op('b'));
  add(object().num(1).op(0x85).op('b'));
  add(object().num(1).op('a').str("k").num(2).op('s'));
  add(object().str("k").num(2).op('s').op('}').str("a").op('N').op('s').op('b'));
  // Classes by value, with a base.
  for (const auto& [module, name] : {std::pair("dill._dill", "_create_type"), {"types", "new_class"}, {"builtins", "type"}, {"cloudpickle.cloudpickle", "_make_skeleton_class"}}) {
    const bool shifted = module[0] == 'd' || module[0] == 'c';
    add(call(module, name, [&](Pickle& p) {
          if (shifted) p.global("builtins", "type");
          p.str("D").global("m", "C").op(0x85).op('}').str("__module__").str("m").op('s');
        }).op(')').op(0x81));
  }
  add(call("builtins", "type", [](Pickle& p) { p.num(1).op(')').op('}'); }).op(')').op(0x81));
  add(Pickle().mark().str("module").global("m", "C").str("").tuple().op('Q').op(')').op(0x81));
  add(Pickle().num(1).op(0x85).op('Q').op(')').op(0x81));
  // What JSON leaves out: depth, cycles, size; and texts that are no UTF-8.
  add(Pickle().op(']').put(0).get(0).op('a'));
  Pickle deep, many, pairs, state;
  many.mark(), pairs.op('}').mark(), state.global("m", "C").op(')').op(0x81).op('}').mark();
  for (int i = 0; i < 120; ++i) {
    deep.op(']');
    many.op('N');
    pairs.num(i).op('N');
    state.str(std::to_string(i)).op('N');
  }
  for (int i = 1; i < 120; ++i) deep.op('a');
  add(deep);
  add(many.tuple());
  add(pairs.op('u'));
  add(state.op('u').op('b'));
  add(Pickle().str(std::string(1100, 'x')));
  add(Pickle().op('}').str(std::string(700, 'x')).op('N').op('s').str(std::string(700, 'y')).op('N').op('s'));
  add(Pickle().op('}').num(1).op(0x85).op('N').op('s'));
  for (const char* bad : {"\xc3\xa9\xe2\x96\x81\xf0\x9f\x98\x80", "\xc3", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xff", "\xe2\x96", "\xf0\x9f\x98"}) add(Pickle().str(bad));
}

inline std::vector<std::string> pickle_seeds() {
  std::vector<std::string> seeds;
  add_pickle_opcodes(seeds);
  add_pickle_objects(seeds);
  return seeds;
}

}  // namespace miq::test
