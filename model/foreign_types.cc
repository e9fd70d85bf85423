// Listed because they would be taken for Llama by their tensors' names although they compute something
// else, or because people have them and a better answer than "unknown" can be given. Facts: the model
// folders of transformers.
#include "miq/model/foreign_types.h"

#include <algorithm>

namespace miq {
namespace {

constexpr std::string_view kOldAndSmall = "The nearest supported models of that time and size are OPT's (125M to 66B)";
constexpr std::string_view kQwen = "The nearest supported family is Qwen (2, 2.5 or 3)";
constexpr std::string_view kLlama = "The nearest supported family is Llama";
constexpr std::string_view kMixtral = "The nearest supported mixtures are Mixtral, Qwen2-MoE and Qwen3-MoE";
constexpr std::string_view kText = "Extract the language model and its text_config into a folder of their own, if that is of a supported family";
constexpr std::string_view kDecoder = "miq reads decoder-only language models";

constexpr ForeignType kTypes[] = {
    {"bloom", "ALiBi positions, a norm of the embedding and fused query_key_value matrices", kOldAndSmall},
    {"gpt2", "transposed Conv1D matrices and a GELU MLP", kOldAndSmall},
    {"gpt_neo", "alternating local attention and unscaled scores", kOldAndSmall},
    {"gpt_neox", "parallel residuals, rotation of a part of each head and fused query_key_value matrices", kOldAndSmall},
    {"gptj", "parallel residuals and interleaved rotary positions", kOldAndSmall},
    {"codegen", "parallel residuals and interleaved rotary positions", kOldAndSmall},
    {"gpt_bigcode", "multi-query attention with learned positions", kOldAndSmall},
    {"mpt", "ALiBi positions and fused Wqkv matrices", kLlama},
    {"falcon", "parallel residuals and fused query_key_value matrices", kLlama},
    {"RefinedWeb", "parallel residuals and fused query_key_value matrices", kLlama},
    {"RefinedWebModel", "parallel residuals and fused query_key_value matrices", kLlama},
    {"chatglm", "rotation of a part of each head, interleaved, and fused query_key_value matrices", kQwen},
    {"glm", "rotation of a part of each head, interleaved, and a fused gate_up_proj", kQwen},
    {"glm4", "rotation of a part of each head, four norms in a layer and a fused gate_up_proj", kQwen},
    {"glm4_moe", "rotation of a part of each head and sigmoid routing", kMixtral},
    {"gemma", "norms of 1 + weight and a scaled embedding under Llama's names", kLlama},
    {"gemma2", "norms of 1 + weight, a scaled embedding, soft caps and four norms in a layer", kLlama},
    {"gemma3", "norms of 1 + weight, a scaled embedding and two rotary bases", kLlama},
    {"gemma3_text", "norms of 1 + weight, a scaled embedding and two rotary bases", kLlama},
    {"phi", "parallel residuals and rotation of a part of each head", kLlama},
    {"phi-msft", "parallel residuals and rotation of a part of each head", kLlama},
    {"phi3", "fused qkv_proj and gate_up_proj matrices and longrope",
     "Where the context is 4k, split qkv_proj and gate_up_proj and publish it as llama; the mathematics is the same"},
    {"stablelm", "layer norms and rotation of a part of each head", kLlama},
    {"cohere", "parallel residuals, layer norms and interleaved rotary positions", kLlama},
    {"cohere2", "parallel residuals, layer norms and interleaved rotary positions", kLlama},
    {"olmo", "norms without weights under Llama's names", kLlama},
    {"olmo2", "norms after the blocks and over whole queries and keys", kQwen},
    {"granite", "multipliers of embedding, attention, residuals and logits under Llama's names", kLlama},
    {"granitemoe", "multipliers and merged expert matrices", kMixtral},
    {"smollm3", "layers without rotary positions under Llama's names", kLlama},
    {"helium", "interleaved rotary positions under Llama's names", kLlama},
    {"ernie4_5", "interleaved rotary positions under Llama's names", kLlama},
    {"ministral", "windows in some layers", "The nearest supported family is Mistral"},
    {"starcoder2", "layer norms with biases and an MLP without a gate", kLlama},
    {"persimmon", "norms with biases and a squared ReLU", kLlama},
    {"nemotron", "norms of 1 + weight, a squared ReLU and no gate", kLlama},
    {"baichuan", "a fused W_pack and, in the 13B model, ALiBi positions",
     "Split W_pack of the 7B model into q_proj, k_proj and v_proj and publish it as llama; the mathematics is the same"},
    {"internlm2", "interleaved fused wqkv matrices", "Convert it to Llama's form with the tools of its makers"},
    {"minicpm", "scaled embedding, residuals and logits under Llama's names", kLlama},
    {"deepseek_v2", "latent attention", kMixtral},
    {"deepseek_v3", "latent attention and sigmoid routing", kMixtral},
    {"dbrx", "fused Wqkv matrices and merged experts", kMixtral},
    {"gpt_oss", "attention sinks, clamped experts and MXFP4 weights", kMixtral},
    {"llama4", "chunked attention, layers without rotary positions and merged experts", kLlama},
    {"llama4_text", "chunked attention, layers without rotary positions and merged experts", kLlama},
    {"mllama", "images", kText},
    {"llava", "images", kText},
    {"qwen2_vl", "images, and rotary positions in three sections", kText},
    {"qwen2_5_vl", "images, and rotary positions in three sections", kText},
    {"qwen3_vl", "images, and rotary positions in three sections", kText},
    {"qwen3_next", "linear attention in most layers", "The nearest supported family is Qwen3-MoE"},
    {"mamba", "no attention at all", kLlama},
    {"mamba2", "no attention at all", kLlama},
    {"jamba", "state-space layers between those of attention", kMixtral},
    {"rwkv", "no attention at all", kLlama},
    {"bert", "an encoder", kDecoder},
    {"roberta", "an encoder", kDecoder},
    {"t5", "an encoder and a decoder", kDecoder},
    {"bart", "an encoder and a decoder", kDecoder},
};

}  // namespace

const ForeignType* find_foreign_type(std::string_view type) {
  const auto found = std::ranges::find(kTypes, type, &ForeignType::type);
  return found == std::end(kTypes) ? nullptr : found;
}

}  // namespace miq
