// What the targets of configurations and tokenizers begin with, as merge patches of small good ones: every architecture's fields, every
// step of a tokenizer, and each refusal.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "miq/model/pretokenizer.h"
#include "tests/model/tokenizer_files.h"

namespace miq::test {

// The first byte's remainder by ten chooses the family: see kTypes of config_fuzz.cc.
enum class Family : char { Llama, Mistral, Qwen, Qwen2, Qwen3, Mixtral, Qwen2Moe, Qwen3Moe, Opt, Other };

inline std::vector<std::string> config_seeds() {
  std::vector<std::string> seeds;
  const auto add = [&](Family family, const std::string& patch) { seeds.push_back(std::string(1, static_cast<char>(family)) + patch); };
  for (char family = 0; family < 10; ++family) add(static_cast<Family>(family), "{}");
  // Fields that all families share, and each way in which one can be wrong.
  for (const char* patch : {
           "[]", "7", R"({"model_type":null})", R"({"model_type":5})", R"({"model_type":"gpt2"})", R"({"model_type":"gemma2"})", R"({"quantization_config":{"bits":4}})",
           R"({"logit_softcapping":30.0})", R"({"rope_interleaved":true,"attn_bias":false,"logit_scale":0})", R"({"hidden_size":null})", R"({"hidden_size":"32"})",
           R"({"hidden_size":0})", R"({"hidden_size":1099511627776})", R"({"hidden_size":30,"head_dim":null})", R"({"head_dim":7})", R"({"num_key_value_heads":3})",
           R"({"rms_norm_eps":0})", R"({"rms_norm_eps":"x"})", R"({"tie_word_embeddings":1})", R"({"tie_word_embeddings":true})", R"({"bos_token_id":[3,4],"eos_token_id":-1})",
           R"({"eos_token_id":"</s>"})", R"({"hidden_act":"gelu"})", R"({"hidden_act":5})", R"({"hidden_act":"swish"})", R"({"partial_rotary_factor":0.5})", R"({"rope_theta":5e5})",
           R"({"num_hidden_layers":99999999})", R"({"attention_bias":true,"mlp_bias":true})"}) {
    add(Family::Llama, patch);
  }
  for (const char* scaling : {
           "7", "{}", R"({"type":"linear","factor":2.0})", R"({"rope_type":"dynamic","factor":2.0})", R"({"rope_type":"default","unheard":1})", R"({"partial_rotary_factor":0.5})",
           R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64})",
           R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":4.0,"high_freq_factor":4.0})", R"({"rope_type":"yarn","original_max_position_embeddings":64})",
           R"({"rope_type":"yarn","factor":4.0,"attention_factor":0.5,"beta_fast":32,"beta_slow":1,"truncate":false})",
           R"({"rope_type":"yarn","factor":4.0,"mscale":1.0,"mscale_all_dim":0.7})", R"({"rope_type":"yarn","factor":0.5})", R"({"rope_type":"longrope"})"}) {
    add(Family::Llama, std::string(R"({"rope_scaling":)") + scaling + "}");
  }
  add(Family::Llama, R"({"rope_parameters":{"rope_type":"default","rope_theta":50000.0}})");
  // Families, by what only they have.
  add(Family::Mistral, R"({"sliding_window":16})");
  add(Family::Mistral, R"({"sliding_window":null})");
  for (const char* types : {R"(["sliding_attention","full_attention"])", R"(["full_attention"])", R"(["full_attention","linear_attention"])", "7"}) {
    add(Family::Mistral, std::string(R"({"sliding_window":16,"layer_types":)") + types + "}");
  }
  add(Family::Qwen2, R"({"use_sliding_window":true,"sliding_window":16,"max_window_layers":1})");
  add(Family::Qwen2, R"({"layer_types":["sliding_attention","full_attention"]})");
  add(Family::Qwen, R"({"use_dynamic_ntk":true,"use_logn_attn":true,"no_bias":false})");
  for (const char* patch : {R"({"rotary_pct":0.5})", R"({"scale_attn_weights":false})", R"({"apply_residual_connection_post_layernorm":true})", R"({"intermediate_size":49})",
                            R"({"kv_channels":null,"num_attention_heads":5})"}) {
    add(Family::Qwen, patch);
  }
  for (const char* patch : {R"({"activation_function":"gelu"})", R"({"activation_function":"gelu_new"})", R"({"activation_function":"tanh"})", R"({"layer_norm_elementwise_affine":false})",
                            R"({"num_attention_heads":5})", R"({"do_layer_norm_before":false,"word_embed_proj_dim":16,"enable_bias":false})"}) {
    add(Family::Opt, patch);
  }
  add(Family::Mixtral, R"({"num_local_experts":1,"num_experts_per_tok":2})");
  add(Family::Mixtral, R"({"num_hidden_layers":9,"num_local_experts":4294967296})");
  for (const char* patch : {R"({"num_experts":0})", R"({"num_experts_per_tok":5})", R"({"decoder_sparse_step":2})", R"({"mlp_only_layers":[0]})", R"({"mlp_only_layers":[0,"1"]})",
                            R"({"mlp_only_layers":7})", R"({"num_experts":null,"num_local_experts":4})", R"({"shared_expert_intermediate_size":0})"}) {
    add(Family::Qwen2Moe, patch);
    add(Family::Qwen3Moe, patch);
  }
  add(Family::Other, R"({"hidden_act":"gelu"})");
  // Our own form.
  for (const char* patch : {
           "{}", "[]", R"({"architecture":"none"})", R"({"architecture":null})", R"({"norm":"batch"})", R"({"norm":"layer","activation":"gelu","positions":"learned","head_bias":true})",
           R"({"bos_id":1,"eos_id":2,"sliced":true,"embedding":16})", R"({"layers":[]})", R"({"layers":7})", R"({"layers":[7]})", R"({"layers":[{"identity":true}]})",
           R"({"layers":[{"heads":4,"kv_heads":2,"head_dim":8,"mlp_width":48,"window":16,"input":16,"middle":16,"output":16}]})",
           R"({"layers":[{"heads":4,"kv_heads":3,"head_dim":8,"mlp_width":48}]})", R"({"rope_scaling":null})", R"({"rope_scaling":{"kind":"spiral"}})",
           R"({"rope_scaling":{"kind":"linear","factor":2.0}})", R"({"rope_scaling":{"kind":"dynamic","factor":2.0,"original_max_positions":64}})",
           R"({"rope_scaling":{"kind":"qwen_dynamic","original_max_positions":64}})",
           R"({"rope_scaling":{"kind":"llama3","factor":2.0,"original_max_positions":64,"low_frequency_factor":1.0,"high_frequency_factor":4.0}})",
           R"({"rope_scaling":{"kind":"yarn","factor":2.0,"original_max_positions":64,"attention_factor":1.0,"beta_fast":32.0,"beta_slow":1.0,"truncate":true}})"}) {
    seeds.push_back(std::string("n") + patch);
  }
  return seeds;
}

// The first byte says what is patched: see tokenizer_json_fuzz.cc.
inline std::vector<std::string> tokenizer_json_seeds() {
  std::vector<std::string> seeds;
  for (const char* kind : {"S", "W", "B", "F", "G", "L"}) seeds.push_back(std::string(kind) + "{}");
  const auto small = [&](const std::string& key, const std::vector<const char*>& values) {
    for (const char* value : values) seeds.push_back("S{\"" + key + "\":" + value + "}");
  };
  small("normalizer", {"7", "{}", R"({"type":7})", R"({"type":"Lowercase"})", R"({"type":"NFC"})", R"({"type":"NFD"})", R"({"type":"NFKC"})", R"({"type":"NFKD"})",
                       R"({"type":"Prepend","prepend":"▁"})", R"({"type":"Prepend"})", R"({"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Replace","pattern":" ","content":"▁"}]})",
                       R"({"type":"Sequence","normalizers":7})", R"({"type":"Replace","pattern":{"Regex":"a+"},"content":"b"})", R"({"type":"Replace","pattern":{"String":""},"content":"b"})"});
  small("pre_tokenizer", {R"({"type":"Whitespace"})", R"({"type":"Digits","individual_digits":true})", R"({"type":"ByteLevel","add_prefix_space":1})",
                          R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":true})",
                          R"({"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":false}]})",
                          R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]})", R"({"type":"Split","pattern":{"Regex":"a+"},"behavior":"Isolated"})",
                          R"({"type":"Split","pattern":" ","behavior":"Isolated"})", R"({"type":"Metaspace","replacement":"▁▁"})", R"({"type":"Metaspace","replacement":""})",
                          R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"never","split":false})", R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"first"})",
                          R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"often"})", R"({"type":"Metaspace","replacement":"▁","add_prefix_space":false})"});
  for (const SplitPattern& pattern : split_patterns()) {
    for (const auto& [behavior, invert] : {std::pair("Isolated", false), {"Removed", false}, {"Isolated", true}}) {
      seeds.push_back("S" + Json{{"pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", pattern.regex}}}, {"behavior", behavior}, {"invert", invert}}}}.dump());
    }
  }
  small("decoder", {R"({"type":"WordPiece"})", R"({"type":"ByteLevel"})", R"({"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]})",
                    R"({"type":"Replace","pattern":"▁","content":" "})", R"({"type":"Replace","pattern":{"Regex":"a"},"content":" "})", R"({"type":"Strip","content":" ","start":1,"stop":1})",
                    R"({"type":"Strip","content":" ","start":1.5,"stop":0})", R"({"type":"Strip","content":" ","start":18446744073709551615,"stop":0})",
                    R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"never"})", R"({"type":"Metaspace","replacement":"▁"})"});
  small("post_processor", {R"({"type":"Bert"})", R"({"type":"ByteLevel"})", R"({"type":"Sequence","processors":[{"type":"ByteLevel"}]})", R"({"type":"TemplateProcessing","single":[]})",
                           R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"B"}}]})", R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}},{"Sequence":{"id":"A"}}]})",
                           R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}},{"SpecialToken":{"id":"<s>"}}],"special_tokens":{"<s>":{"ids":[6]}}})",
                           R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"ids":[-1]}}})",
                           R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"ids":[999]}}})"});
  small("added_tokens", {"7", "[7]", "[{}]", R"([{"content":"x","id":-1}])", R"([{"content":"","id":6}])", R"([{"content":"x","id":99999999}])", R"([{"content":"a","id":6}])",
                         R"([{"content":"x","id":2}])", R"([{"content":"12","id":6,"single_word":true,"lstrip":true,"rstrip":true}])", R"([{"content":"12","id":6,"special":1}])"});
  small("model", {"null", "7", R"({"type":"Unigram"})", R"({"dropout":0.1})", R"({"dropout":0})", R"({"end_of_word_suffix":"</w>"})", R"({"vocab":null})", R"({"vocab":{"a":1}})",
                  R"({"vocab":{"a":-1}})", R"({"unk_token":"nowhere"})", R"({"unk_token":7})", R"({"merges":null})", R"({"merges":["ab"]})", R"({"merges":["a b c"]})", R"({"merges":[7]})",
                  R"({"merges":[["a",7]]})", R"({"merges":[["a","b"],"a b"]})", R"({"merges":["a x"]})", R"({"merges":["a é"]})", R"({"unk_token":null})", R"({"fuse_unk":true})",
                  R"({"ignore_merges":true})", R"({"byte_fallback":true})", R"({"vocab":{"<0xC3>":7,"<0xA9>":8,"é":null},"byte_fallback":true})",
                  R"({"vocab":{"<0xC3>":7,"<0xZ3>":8,"<0xC3>a":9,"<0xZ3>a":10},"merges":["<0xZ3> a","<0xC3> a"]})"});
  for (const char* file : {"7", "{}", R"({"model":{"type":"BPE","vocab":{"":0,"a":1},"merges":[]}})"}) seeds.push_back(file);
  // A GGUF's: byte-level, then in the manner of Llama.
  for (const char* pre : {"gpt-2", "llama-bpe", "qwen2", "deepseek"}) seeds.push_back(std::string(R"(G{"tokenizer.ggml.pre":")") + pre + "\"}");
  const auto gguf = [&](const char* kind, const std::string& key, const std::vector<const char*>& values) {
    for (const char* value : values) seeds.push_back(kind + ("{\"tokenizer.ggml." + key) + "\":" + value + "}");
  };
  gguf("G", "model", {"null", "7", R"("bert")"});
  gguf("G", "pre", {"null", "7"});
  gguf("G", "tokens", {"null", "[7]", R"(["a","a"])"});
  gguf("G", "token_type", {"null", "[1]", "7", "[1,1,1,1,1,1,1,1,1,1,1,1,1,7]", "[2,3,4,1,1,1,1,1,1,1,1,1,1,1]"});
  gguf("G", "merges", {"null", "[7]", R"(["ab"])", R"(["a b c"])", R"(["a z"])"});
  gguf("G", "add_bos_token", {"true", "7"});
  gguf("G", "add_space_prefix", {"true"});
  gguf("L", "scores", {"null", "[0]", R"([0,0,0,-1,-2,-3,"x"])"});
  gguf("L", "precompiled_charsmap", {"[]", "[1]"});
  gguf("L", "add_eos_token", {"true"});
  gguf("L", "bos_token_id", {"null", "99", "-1", R"("x")"});
  gguf("L", "token_type", {"[2,3,3,1,6,4,5]", "[2,2,3,1,1,1,1]", "[1,3,3,1,1,1,1]"});
  gguf("L", "remove_extra_whitespaces", {"true"});
  seeds.push_back("G[]");
  seeds.push_back(R"(G{"tokenizer.ggml.tokens":["a","a"],"tokenizer.ggml.token_type":null})");
  return seeds;
}

inline std::vector<std::string> sentencepiece_seeds() {
  std::vector<std::string> seeds;
  SentencePieceModel model;
  model.pieces = {{"<unk>", 0, PieceType::Unknown}, {"<s>", 0, PieceType::Control}, {"</s>", 0, PieceType::Control}, {"a", -1, PieceType::Normal},
                  {"b", -2, PieceType::Normal}, {"ab", -3, PieceType::Normal}, {"\xE2\x96\x81", -4, PieceType::Normal}, {"xy", 0, PieceType::UserDefined}};
  const auto add = [&](const std::string& proto, char config = 0) { seeds.push_back(std::string(1, config) + proto); };
  const std::string good = sentencepiece_proto(model);
  for (char config = 0; config < 4; ++config) add(good, config);
  const auto with = [&](const Piece& piece) {
    SentencePieceModel changed = model;
    changed.pieces.push_back(piece);
    add(sentencepiece_proto(changed));
  };
  with({"aab", -5, PieceType::Unused});
  with({"", -5, PieceType::Normal});
  with({"a", -5, PieceType::Normal});
  with({"c", NAN, PieceType::Normal});
  with({"<u>", 0, PieceType::Unknown});
  with({"c", 0, PieceType::Byte});
  with({"<0x41>", 0, PieceType::Byte});
  for (const int type : {0, 1, 3, 4, 9}) add(sentencepiece_proto(model, type));
  add(sentencepiece_proto(model, 2, "map"));
  SentencePieceModel other = model;
  other.whitespace_as_suffix = other.remove_extra_whitespaces = true;
  other.add_dummy_prefix = false;
  add(sentencepiece_proto(other));
  other.byte_fallback = true;
  add(sentencepiece_proto(other));
  other.pieces.erase(other.pieces.begin());
  add(sentencepiece_proto(other));
  // Every byte as a piece.
  model.pieces.resize(3);
  model.byte_fallback = true;
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    model.pieces.push_back({name, 0, PieceType::Byte});
  }
  add(sentencepiece_proto(model), 1);
  // The wire format: fields that nobody knows, of each type, and each way to break one.
  add(good + proto_number(9, 7) + proto_float(9, 1) + proto_bytes(9, "x") + varint(9 << 3 | 1) + std::string(8, 'x'));
  add(good + proto_bytes(2, proto_bytes(44, "?") + proto_bytes(46, "<s>") + proto_bytes(47, "</s>")));
  add("");
  add(proto_number(0, 1));
  add(varint(1 << 3 | 3));
  add(varint(1 << 3 | 2) + varint(99));
  add(varint(9 << 3 | 1) + "short");
  add(proto_number(1, 1));
  add(std::string(1, '\x80'));
  add(std::string(12, '\xff'));
  add(varint(9 << 3) + std::string(9, '\xff') + "\x02");
  add(varint(9 << 3) + std::string(9, '\xff') + "\x81");
  add(proto_bytes(1, proto_number(1, 1)));
  add(proto_bytes(1, proto_number(2, 1)));
  add(proto_bytes(1, proto_bytes(3, "x")));
  add(proto_bytes(1, proto_bytes(1, "x") + proto_number(3, 7)));
  add(proto_bytes(2, proto_bytes(24, "x")));
  return seeds;
}

}  // namespace miq::test
