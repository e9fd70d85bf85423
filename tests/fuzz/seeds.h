// Inputs that each fuzz target begins with, made by code: the smallest things that a reader takes, and one for each of its layers.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "miq/formats/journal.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/record_bytes.h"
#include "miq/formats/safetensors.h"
#include "tests/formats/pickle_assembler.h"
#include "tests/model/tokenizer_files.h"

namespace miq::test {

inline std::string gguf_seed() {
  const auto text = [](const std::string& value) { return little(value.size(), 8) + value; };
  std::string file = "GGUF" + little(3, 4) + little(1, 8) + little(3, 8);
  file += text("general.alignment") + little(4, 4) + little(32, 4);
  file += text("general.name") + little(8, 4) + text("m");
  file += text("list") + little(9, 4) + little(5, 4) + little(2, 8) + little(1, 4) + little(2, 4);
  file += text("t") + little(2, 4) + little(32, 8) + little(2, 8) + little(2, 4) + little(0, 8);
  file.resize((file.size() + 31) / 32 * 32, '\0');
  return file + std::string(36, '\x11');
}

inline std::string journal_seed() {
  const std::string folder = (std::filesystem::temp_directory_path() / ("miq_seed_" + std::to_string(::getpid()))).string();
  std::string log;
  {
    Journal journal = Journal::create(folder, Json{{"a", 1}});
    for (const std::string& text : {std::string("first"), std::string(100, 'x')}) {
      const Bytes pieces[] = {Bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size())};
      journal.append(pieces);
    }
    log = read_text_file(folder + "/log");
    journal.remove();
  }
  return log;
}

inline std::map<std::string, std::vector<std::string>> fuzz_seeds() {
  std::map<std::string, std::vector<std::string>> seeds;
  const Pickle tensor = Pickle().tensor("FloatStorage", "0", 16, 2, {2, 3}, {3, 1});
  const Pickle dict = Pickle().op('}').put(0).mark().str("w").tensor("HalfStorage", "0", 32, 0, {4}, {1}).op('u');
  seeds["json"] = {"{}", R"({"a":[1,2.5,-3e9,null,true,"\u00e9\n"]})", "[[[[]]]]", "\"\""};
  seeds["safetensors"] = {safetensors_header({{"a", DType::F32, {2}}, {"b", DType::U8, {}}}, {{"format", "pt"}}) + std::string(9, 'x'), safetensors_header({}, {})};
  seeds["gguf"] = {gguf_seed()};
  seeds["journal"] = {journal_seed(), std::string("\1\1\0\0\0\0\0\0\0a\2\1\0\0\0\0\0\0\0abcdefgh", 28)};
  seeds["pickle"] = {tensor.stop(), dict.stop(), Pickle().global("m", "C").op(')').op(0x81).op('}').str("a").num(1).op('s').op('b').stop(),
                     Pickle(4).op(0x95).raw(little(6, 8)).raw(std::string("\x8c\x01") + "a").op(0x94).op(0x85).stop()};
  seeds["torch_file"] = {"!" + tensor.stop(), "!" + dict.stop(),
                         ZipMaker().add("x/data.pkl", tensor.stop()).add("x/byteorder", "little").add("x/data/0", std::string(64, 'a')).add("x/version", "3\n").make()};
  const std::string storages = Pickle().op(']').str("0").op('a').stop() + little(12, 8) + std::string(48, 'b');
  seeds["legacy"] = {"o" + Pickle().op('N').stop(), "k" + storages, "x" + Pickle().op('M').raw(little(1001, 2)).stop()};
  for (char base = '0'; base < '9'; ++base) {
    seeds["container"].push_back(std::string("t") + base + R"({"tensors":{"d":{"shape":[4,2]}}})");
    seeds["container"].push_back(std::string("p") + base + "0abcdefgh");
  }
  seeds["container"].insert(seeds["container"].end(),
                            {R"(t1{"tensors":{"d":null}})", R"(t3{"tensors":{"d":{"sections":{"codes":9}}}})", R"(t7{"files":{"config.json":0}})", R"(t2{"manifest":7})",
                             R"(h0{"version":"2"})", R"(h0{"format":null})", "p2\x30\x28\xb5\x2f\xfd", "p2\x30\x28\xb5\x2f\xfd\x20\x18\xc1", "p3\x31zzzz", "p57{}", "p57"});
  SentencePieceModel model;
  model.pieces = {{"<unk>", 0, PieceType::Unknown}, {"<s>", 0, PieceType::Control}, {"</s>", 0, PieceType::Control}, {"a", -1, PieceType::Normal},
                  {"b", -2, PieceType::Normal}, {"ab", -3, PieceType::Normal}, {"\xE2\x96\x81", -4, PieceType::Normal}, {"xy", 0, PieceType::UserDefined}};
  seeds["sentencepiece"] = {std::string(1, '\0') + sentencepiece_proto(model), std::string(1, '\2') + sentencepiece_proto(model)};
  model.pieces.resize(3);
  model.byte_fallback = true;
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    model.pieces.push_back({name, 0, PieceType::Byte});
  }
  seeds["sentencepiece"].push_back(std::string(1, '\1') + sentencepiece_proto(model));
  for (const char* kind : {"S", "W", "B", "F", "G", "L"}) seeds["tokenizer_json"].push_back(std::string(kind) + "{}");
  seeds["tokenizer_json"].insert(seeds["tokenizer_json"].end(),
                                 {R"(S{"normalizer":{"type":"Replace","pattern":{"String":" "},"content":"▁"},"decoder":{"type":"Replace","pattern":{"String":"▁"},"content":" "}})",
                                  R"(S{"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true}})",
                                  R"(S{"added_tokens":[{"id":7,"content":"12","special":false,"lstrip":true,"rstrip":true,"single_word":true,"normalized":true}]})",
                                  R"(S{"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[6],"tokens":["<s>"]}}}})"});
  for (char type = 0; type < 10; ++type) seeds["config"].push_back(std::string(1, type) + "{}");
  seeds["config"].insert(seeds["config"].end(), {"n{}", std::string(1, '\0') + R"({"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64}})",
                                                 "\3" R"({"use_sliding_window":true,"sliding_window":16,"max_window_layers":1})"});
  seeds["index"] = {R"({"metadata":{"total_size":8},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}})"};
  seeds["results"] = {std::string(32, 'a') + little(2, 8) + std::string(8, 'x') + std::string(32, 'b') + little(0, 8) + std::string(20, '\0')};
  seeds["report"] = {"P{}", "M{}", R"(M{"parameters":{"total":5}})", R"({"schema":"miq.eval/1","models":[]})", R"(M{"perplexity":{"alice29":{"value":2.5,"window_nll":[1,null]}}})",
                     R"(M{"divergence":{"alice29":{"reference":"x","mean":1e300}}})", R"(M{"size":null,"structure":null})"};
  return seeds;
}

}  // namespace miq::test
