// GGUF files that the fuzzer begins with: every type of block and of metadata, a tokenizer in the metadata, and each refusal.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "miq/formats/gguf.h"
#include "tests/formats/gguf_maker.h"

namespace miq::test {

// One tensor of each type, and where it can be decoded the same with bits that make no finite scale.
inline void add_gguf_blocks(std::vector<std::string>& seeds) {
  for (std::uint32_t type = 0; type < 48; ++type) {
    const auto [elements, bytes] = ggml_block(type);
    gguf_maker::Maker file;
    file.start(1, 0).tensor("t", {elements == 0 ? 3 : elements}, type, 0).align();
    seeds.push_back(file.text + std::string(bytes, '\x11'));
    if (ggml_type_decodable(type)) seeds.push_back(file.text + std::string(bytes, '\xff'));
  }
}

inline void add_gguf_metadata(std::vector<std::string>& seeds) {
  using namespace gguf_maker;
  const auto add = [&](const Maker& maker) { seeds.push_back(maker.text); };
  Maker each, arrays;
  each.start(0, 12);
  arrays.start(0, 12);
  for (const std::uint32_t type : {U8, I8, U16, I16, U32, I32, F32, Bool, String, U64, I64, F64}) {
    const std::string key(1, static_cast<char>('a' + type));
    const std::string value = type == Bool ? std::string(1, '\1') : type == String ? std::string(8, '\0') : std::string(type < 2 ? 1 : type < 4 ? 2 : type < 8 ? 4 : 8, '\x22');
    each.key(key, type).raw(value);
    arrays.key(key, Array).u32(type).u64(2).raw(value + value);
    add(Maker().start(0, 1).key("k", Array).u32(type).u64(1 << 20).raw(std::string(8, '\0')));
  }
  add(each);
  add(arrays);
  add(Maker().start(0, 1).key("k", 13).u64(0));
  add(Maker().start(0, 1).key("k", Array).u32(13).u64(0));
  add(Maker().start(0, 1).key("k", Array).u32(Array).u64(0));
  add(Maker().start(0, 1).key("k", Bool).raw("\2"));
  add(Maker().start(0, 1).key("", U8).raw("1"));
  add(Maker().start(0, 2).key("k", U8).raw("1").key("k", U8).raw("1"));
  add(Maker().start(0, 1).key("general.alignment", U32).u32(3));
  add(Maker().start(0, 1).key("general.alignment", U64).u64(32));
  add(Maker().start(0, 1).u64(100).raw("0123456789"));
  for (const char* beginning : {"", "GG", "gguf....", "version https://git-lfs", "PK\x03\x04"}) seeds.push_back(beginning);
  for (const std::uint32_t version : {0u, 2u, 4u, 0x03000000u}) add(Maker().start(0, 0, version));
  add(Maker().start(9, 0));
  add(Maker().start(0, 9));
}

inline void add_gguf_tensors(std::vector<std::string>& seeds) {
  using namespace gguf_maker;
  const auto tensor = [&](const std::string& name, const std::vector<std::uint64_t>& shape, std::uint32_t type, std::uint64_t offset) {
    seeds.push_back(Maker().start(1, 0).tensor(name, shape, type, offset).align().raw(std::string(64, 'x')).text);
  };
  tensor("", {4}, 0, 0);
  tensor(std::string(65, 'n'), {4}, 0, 0);
  tensor("a", {}, 0, 0);
  tensor("a", {0, 4}, 2, 0);
  tensor("a", {1, 1, 1, 1, 1}, 0, 0);
  tensor("a", {std::uint64_t{1} << 63}, 0, 0);
  tensor("a", {std::uint64_t{1} << 62, 4}, 24, 0);
  tensor("a", {std::uint64_t{1} << 62}, 0, 0);
  tensor("a", {33}, 2, 0);
  tensor("a", {4}, 0, 16);
  tensor("a", {4}, 0, 4096);
  tensor("a", {4}, 0, UINT64_MAX - 31);
  const auto two = [&](const char* second, std::uint64_t offset) {
    seeds.push_back(Maker().start(2, 0).tensor("a", {16}, 0, 0).tensor(second, {16}, 0, offset).align().raw(std::string(128, 'x')).text);
  };
  two("a", 64);
  two("b", 64);
  two("b", 32);
}

// Tokenizers as metadata, which become JSON: numbers, lists and texts of each kind.
inline void add_gguf_tokenizers(std::vector<std::string>& seeds) {
  using namespace gguf_maker;
  const auto llama = [] { return Maker().start(0, 5).key("tokenizer.ggml.model", String).string("llama"); };
  const auto tokens = [](Maker maker, const std::string& last) {
    maker.key("tokenizer.ggml.tokens", Array).u32(String).u64(4);
    return maker.string("<unk>").string("<s>").string("</s>").string(last);
  };
  const auto scores = [](Maker maker, float last) { return maker.key("tokenizer.ggml.scores", Array).u32(F32).u64(4).put(0.f).put(0.f).put(0.f).put(last); };
  const auto types = [](Maker maker) { return maker.key("tokenizer.ggml.token_type", Array).u32(I32).u64(4).u32(2).u32(3).u32(3).u32(1); };
  seeds.push_back(types(scores(tokens(llama(), "a"), -1)).key("tokenizer.ggml.bos_token_id", U32).u32(1).text);
  seeds.push_back(types(scores(tokens(llama(), "\xff"), -1)).key("tokenizer.ggml.pre", String).string("").text);
  seeds.push_back(types(scores(tokens(llama(), "a"), INFINITY)).key("tokenizer.ggml.x", F64).put(0.5).text);
  seeds.push_back(types(scores(tokens(llama(), "a"), -1)).key("tokenizer.ggml.add_bos_token", Bool).raw(std::string(1, '\0')).text);
  seeds.push_back(types(scores(tokens(llama(), "a"), -1)).key("tokenizer.ggml.x", Array).u32(Bool).u64(2).raw(std::string(1, '\0') + "\1").text);
  seeds.push_back(types(scores(tokens(llama(), "a"), -1)).key("tokenizer.ggml.x", Array).u32(U8).u64(2).raw("\2\1").text);
  seeds.push_back(types(scores(tokens(llama(), "a"), -1)).key("tokenizer.ggml.x", F32).put(INFINITY).text);
  seeds.push_back(types(scores(tokens(llama(), "a"), -1)).key("tokenizer.ggml.x", I64).put<std::int64_t>(-1).text);
  seeds.push_back(types(scores(tokens(llama(), "a"), -1)).key("tokenizer.ggml.x", String).string("\xff").text);
}

inline std::vector<std::string> gguf_seeds() {
  std::vector<std::string> seeds;
  add_gguf_blocks(seeds);
  add_gguf_metadata(seeds);
  add_gguf_tensors(seeds);
  add_gguf_tokenizers(seeds);
  return seeds;
}

}  // namespace miq::test
