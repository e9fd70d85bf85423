// What the targets of JSON, safetensors, containers, weight indices and reports begin with, and each refusal of theirs.
#pragma once

#include <string>
#include <vector>

#include "miq/formats/json.h"
#include "miq/formats/safetensors.h"
#include "tests/formats/pickle_assembler.h"

namespace miq::test {

inline std::vector<std::string> json_seeds() {
  return {"{}", R"({"a":[1,2.5,-3e9,null,true,"\u00e9\n"]})", "[[[[]]]]", "\"\"", "", "[1,", "nul", "{\"a\":1,\"a\":2}", "\"\xff\"", "\"\\x\"", "1e999", "[1] x",
          "\xEF\xBB\xBF{}", std::string("[1]\0", 4), std::string(200, '['), R"({"a":)" + std::string(300, ' ') + "}", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18]"};
}

inline std::vector<std::string> safetensors_seeds() {
  std::vector<std::string> seeds;
  const auto header = [&](const std::string& json, std::size_t data = 0) { seeds.push_back(little(json.size(), 8) + json + std::string(data, 'x')); };
  seeds.push_back(safetensors_header({{"a", DType::F32, {2}}, {"b", DType::U8, {}}}, {{"format", "pt"}}) + std::string(9, 'x'));
  seeds.push_back(safetensors_header({}, {}));
  seeds.push_back(safetensors_header({{"a", DType::F16, {2, 3}}}, {{"a", "1"}, {"b", "2"}}) + std::string(12, 'x'));
  seeds.push_back(safetensors_header({{"a", DType::F64, {1}}}, {}) + std::string(7, 'x'));
  seeds.push_back(safetensors_header({{"a", DType::F64, {1}}}, {}) + std::string(9, 'x'));
  for (const char* text : {"", "GGUF", "1234567", "<html>.........", "{\"a\":1}......"}) seeds.push_back(text);
  seeds.push_back(little(std::uint64_t{1} << 40, 8) + "{}");
  seeds.push_back(little(99, 8) + "{}");
  for (const char* json : {"", "7", "[]", R"({"__metadata__":null})", R"({"__metadata__":7})", R"({"__metadata__":[]})", R"({"__metadata__":{"a":7}})", R"({"__metadata__":{"a":[]}})",
                           R"({"__metadata__":{"a":"1","a":"2"}})", R"({"__metadata__":{},"__metadata__":{}})", R"({"a":7})", R"({"a":[]})", R"({"a":{}})"}) {
    header(json);
  }
  const auto entry = [&](const std::string& fields, std::size_t data = 4) { header("{\"a\":{" + fields + "}}", data); };
  const std::string dtype = R"("dtype":"F32")", shape = R"("shape":[1])", offsets = R"("data_offsets":[0,4])";
  entry(dtype + "," + shape + "," + offsets);
  entry(shape + "," + offsets);
  entry(dtype + "," + offsets);
  entry(dtype + "," + shape);
  entry(dtype + "," + shape + R"(,"data_offsets":[0])");
  entry(dtype + "," + shape + R"(,"data_offsets":[0,4,8])");
  entry(dtype + "," + shape + R"(,"data_offsets":[4,0])");
  entry(dtype + "," + shape + R"(,"data_offsets":[2,6])", 6);
  entry(dtype + R"(,"shape":[2],)" + offsets);
  entry(dtype + R"(,"shape":[-1],)" + offsets);
  entry(dtype + R"(,"shape":[[1]],)" + offsets);
  entry(dtype + R"(,"shape":{"a":1},)" + offsets);
  entry(dtype + R"(,"shape":1,)" + offsets);
  entry(dtype + R"(,"shape":[9223372036854775808],)" + offsets);
  entry(dtype + R"(,"shape":[4294967296,4294967296],)" + offsets);
  entry(dtype + R"(,"shape":[0,3],"data_offsets":[0,0])", 0);
  entry(R"("dtype":"F31",)" + shape + "," + offsets);
  entry(R"("dtype":32,)" + shape + "," + offsets);
  entry(R"("dtype":["F32"],)" + shape + "," + offsets);
  entry(dtype + "," + dtype + "," + shape + "," + offsets);
  entry(dtype + "," + shape + "," + offsets + R"(,"more":1)");
  const std::string one = "{" + dtype + "," + shape + "," + offsets + "}";
  header("{\"a\":" + one + ",\"a\":" + one + "}", 4);
  header("{\"a\":" + one + ",\"b\":" + one + "}", 4);
  return seeds;
}

// "t", "h" or "p", the number of a base, and what is patched: see container_fuzz.cc.
inline std::vector<std::string> container_seeds() {
  std::vector<std::string> seeds;
  for (char base = '0'; base < '0' + 11; ++base) {
    seeds.push_back(std::string("t") + base + R"({"tensors":{"d":{"shape":[4,2]}}})");
    seeds.push_back(std::string("t") + base + "{}");
    seeds.push_back(std::string("p") + base + "0abcdefgh");
  }
  seeds.insert(seeds.end(), {R"(t1{"tensors":{"d":null}})", R"(t3{"tensors":{"d":{"sections":{"codes":9}}}})", R"(t7{"files":{"config.json":0}})", R"(t2{"manifest":7})", R"(h0{"version":"2"})",
                             R"(h0{"format":null})", "p3\x31zzzz", "p57{}", "p57"});
  // Texts of the header.
  for (const char* patch : {R"({"format":"pt"})", R"({"version":null})", R"({"version":""})", R"({"version":"one"})", R"({"version":"999"})", R"({"header_digest":null})",
                            R"({"manifest_digest":null})", R"({"manifest_digest":"0"})", R"({"checksums_digest":"0"})", "[]", "7"}) {
    seeds.push_back(std::string("h0") + patch);
  }
  // The table: the whole of it, files, and what is said of one tensor.
  for (const char* patch : {R"({"more":1})", R"({"files":7})", R"({"tensors":7})", R"({"manifest":"2"})", R"({"manifest":99})", R"({"tensors":{"e":{"encoding":"dense","dtype":"F32","shape":[1]}}})",
                            R"({"files":{"nowhere":1}})", R"({"files":{"a/b":1}})", R"({"files":{"..":1}})", R"({"files":{"\u0001":1}})", R"({"tensors":{"":{}}})", R"({"tensors":{"a#b":{}}})",
                            R"({"tensors":{"\u0001":{}}})", R"({"tensors":{"miq/a":{}}})", R"({"tensors":{"__metadata__":{}}})"}) {
    seeds.push_back(std::string("t0") + patch);
  }
  seeds.push_back("t0{\"files\":{\"" + std::string(300, 'f') + "\":1}}");
  seeds.push_back("t0{\"tensors\":{\"" + std::string(1100, 't') + "\":{}}}");
  for (const char* fields : {"7", R"({"encoding":null})", R"({"encoding":"gzip"})", R"({"dtype":7})", R"({"dtype":"F31"})", R"({"shape":null})", R"({"shape":[-1]})", R"({"shape":["2"]})",
                             R"({"shape":[9223372036854775808]})", R"({"dtype":"F16"})", R"({"more":1})", R"({"sections":{}})", R"({"sections":7})", R"({"sections":{"mask":-1}})",
                             R"({"sections":{"mask":null}})", R"({"sections":{"mask":0}})", R"({"sections":{"more":1}})", R"({"shape":[3,3]})", R"({"shape":[4294967296,4294967296]})"}) {
    for (const char base : {'0', '1'}) seeds.push_back(std::string("t") + base + R"({"tensors":{"d":)" + fields + "}}");
  }
  // The table of checksums (and the manifest): too short, not filled up, wrong.
  seeds.push_back("p07short");
  seeds.push_back("p07" + std::string(64, 'x'));
  seeds.push_back("p07" + std::string(64, '\0'));
  // Masks and frames of zstd: of unknown size, with a large window, with a dictionary, of one block of another length.
  seeds.push_back("p10" + std::string(1, '\xff'));
  seeds.push_back("p10" + std::string(1, '\x01'));
  const std::string magic = "p20\x28\xb5\x2f\xfd";
  for (const std::string& frame : {std::string("\x20\x18\xc1", 3), std::string("\0\0", 2), std::string("\x80\xa0\x18\0\0\0", 6), std::string("\x21\x07\x18", 3), std::string("\x20\x18\xc3\0\0x", 6),
                                   std::string("\x20\x17", 2), std::string("\x20\x18\xff\xff\xff", 5)}) {
    seeds.push_back(magic + frame);
  }
  seeds.push_back(magic);
  // Files that are none.
  for (const char* text : {"", "1234567", "GGUF.....", "{\"__metadata__\":{"}) seeds.push_back(text);
  seeds.push_back(little(std::uint64_t{1} << 50, 8) + "{}");
  seeds.push_back(safetensors_header({}, {}));
  // Aligned, so that the first byte of the length is none of the letters above.
  seeds.push_back(safetensors_header({}, {{"format", "miq"}, {"version", "1"}, {"header_digest", std::string(32, '0')}}, 64));
  seeds.push_back(safetensors_header({}, {{"format", "miq"}, {"version", "1"}}, 64));
  return seeds;
}

inline std::vector<std::string> index_seeds() {
  std::vector<std::string> seeds{R"({"metadata":{"total_size":8},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}})"};
  for (const char* text : {"", "[]", "{}", R"({"weight_map":7})", R"({"weight_map":{}})", R"({"weight_map":{"a":7}})", R"({"weight_map":{"a":""}})", R"({"weight_map":{"a":"../x.safetensors"}})",
                           R"({"weight_map":{"a":"x.bin"}})"}) {
    seeds.push_back(text);
  }
  return seeds;
}

// "M" patches the one model of a small report, "P" the report: see report_fuzz.cc.
inline std::vector<std::string> report_seeds() {
  std::vector<std::string> seeds{R"({"schema":"miq.eval/1","models":[]})", "[]", "{}", R"({"schema":"miq.eval/9"})"};
  for (const char* patch : {"{}", R"({"schema":7})", R"({"version":7})", R"({"threads":-1})", R"({"threads":18446744073709551615})", R"({"threads":1.5})", R"({"models":7})", R"({"models":[7]})",
                            R"({"texts":[7]})", R"({"texts":["b","b"],"tasks":["piqa"]})"}) {
    seeds.push_back(std::string("P") + patch);
  }
  for (const char* patch : {
           "{}", R"({"parameters":{"total":5}})", R"({"parameters":{"by_part":{"head":7,"mlp":1}}})", R"({"perplexity":{"alice29":{"value":2.5,"window_nll":[1,null]}}})",
           R"({"divergence":{"alice29":{"reference":"x","mean":1e300}}})", R"({"size":null,"structure":null})", R"({"source":7})", R"({"failures":[7]})", R"({"failures":["why"]})",
           R"({"conditions":{"device":"cpu","threads":2}})", R"({"bytes":{"by_encoding":{"packed":7}}})", R"({"bytes":7})", R"({"matrices":[7]})",
           R"({"matrices":[{"layer":0,"name":"q","weights":10,"encoding":"packed","code_bits":4,"effective_bits":1e300,"columns_by_bits":{"4":1}}]})",
           R"({"matrices":[{"encoding":"packed","columns_by_bits":{"four":1}}]})", R"({"matrices":[{"layer":99999999}]})", R"({"matrices":[{"error":"large"}]})",
           R"({"matrices":[{"error":1,"fallback":true,"groups":{"count":2,"smallest":1,"largest":3}}]})", R"({"matrices":[{"error":1,"fallback":7}]})",
           R"({"matrices":[{"error":1,"mutual_information":{"mean":1,"blocks":[[1,2],[3,4]]}}]})", R"({"matrices":[{"error":1,"mutual_information":{"blocks":[[1,2]]}}]})",
           R"({"matrices":[{"error":1,"mutual_information":{"blocks":[["1"]]}}]})",
           R"({"matrices":[{"error":1,"mutual_information":{"blocks":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}}]})",
           R"({"layers":[{"layer":0,"heads":2,"mlp_width":8,"width":4,"removed":0.5}]})", R"({"perplexity":{"alice29":{"value":null}}})", R"({"perplexity":{"alice29":{"window_nll":["x"]}}})",
           R"({"perplexity":{"alice29":{"failure":"why","value":null}}})", R"({"divergence":{"alice29":{"not_comparable":"why"}}})", R"({"divergence":{"alice29":{"failure":"why"}}})",
           R"({"zeroshot":{"piqa":{"acc":0.5,"acc_norm":0.25,"log_likelihoods":[[-1,null],[]]}}})", R"({"zeroshot":{"piqa":{"acc":null}}})", R"({"zeroshot":{"piqa":{"log_likelihoods":[7]}}})",
           R"({"zeroshot":{"piqa":{"log_likelihoods":[["x"]]}}})", R"({"generation":{"prompt":7,"new_tokens":8,"runs":[{"batch":1,"tokens_per_second":5.5}]}})",
           R"({"macs":{"products":9,"attention_length":5,"attention":2.5,"by_part":{"mlp":4}}})", R"({"throughput":{"tokens_per_second":1,"synthetic":true}})", R"({"memory":{"peak_bytes":-1}})",
           R"({"architecture":{"layers":99999999}})"}) {
    seeds.push_back(std::string("M") + patch);
  }
  return seeds;
}

}  // namespace miq::test
