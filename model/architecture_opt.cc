// Shapes are [out, in]. The order of the layer's rows is the order of the forward pass. Learned positions
// begin at row 2 of their table; opt-350m alone normalises after the residual sum, has no last norm and
// joins embedding and head of another width by projections. Facts: transformers models/opt/modeling_opt.py,
// configuration_opt.py. Sliced models: the norms are fused, which gives the head a bias, and two rotations
// a layer carry the residual stream (Ashkboos et al. 2024, arXiv:2401.15024; slicegpt/adapters/opt_adapter.py).
#include "miq/model/architecture_opt.h"

#include "miq/model/config_fields.h"

namespace miq {
namespace {

constexpr std::string_view kModelTypes[] = {"opt"};
constexpr std::int64_t kFirstPosition = 2;

bool has_norm_weights(const Config& c) { return c.norm != NormKind::FusedRms; }
bool projected(const Config& c) { return !c.sliced && c.embedding != 0 && c.embedding != c.hidden; }

constexpr GlobalTensorRule kGlobals[] = {
    {"model.decoder.embed_tokens.weight", Role::Embedding, false, Part::Embedding,
     [](const Config& c) { return Shape{c.vocabulary, embedding_width(c)}; }},
    {"model.decoder.embed_positions.weight", Role::Positions, false, Part::PositionEmbedding,
     [](const Config& c) { return Shape{c.max_positions + c.position_offset, c.sliced ? embedding_width(c) : c.hidden}; }},
    {"model.decoder.project_in.weight", Role::EmbeddingProjection, false, Part::Projection,
     [](const Config& c) { return Shape{c.hidden, c.embedding}; }, projected},
    {"model.decoder.project_out.weight", Role::OutputProjection, false, Part::Projection,
     [](const Config& c) { return Shape{c.embedding, c.hidden}; }, projected},
    {"model.decoder.final_layer_norm.weight", Role::FinalNorm, false, Part::FinalNorm, [](const Config& c) { return Shape{c.hidden}; },
     [](const Config& c) { return c.final_norm && has_norm_weights(c); }},
    {"model.decoder.final_layer_norm.bias", Role::FinalNorm, true, Part::FinalNorm, [](const Config& c) { return Shape{c.hidden}; },
     [](const Config& c) { return c.final_norm && has_norm_weights(c); }},
    {"lm_head.weight", Role::Head, false, Part::Head, [](const Config& c) { return Shape{c.vocabulary, head_width(c)}; }},
    {"lm_head.bias", Role::Head, true, Part::Head, [](const Config& c) { return Shape{c.vocabulary}; },
     [](const Config& c) { return c.head_bias; }},
};

bool layer_norm_weights(const Config& c, const LayerConfig&) { return has_norm_weights(c); }
bool sliced(const Config& c, const LayerConfig&) { return c.sliced; }
bool query_bias(const Config& c, const LayerConfig&) { return c.query_bias; }
bool output_bias(const Config& c, const LayerConfig&) { return c.output_bias; }
bool mlp_bias(const Config& c, const LayerConfig&) { return c.mlp_bias; }

Shape vector_shape(const Config& c, const LayerConfig&) { return {c.hidden}; }
Shape query_shape(const Config& c, const LayerConfig& l) { return {l.heads * l.head_dim, input_width(c, l)}; }
Shape query_bias_shape(const Config&, const LayerConfig& l) { return {l.heads * l.head_dim}; }
Shape key_value_shape(const Config& c, const LayerConfig& l) { return {l.kv_heads * l.head_dim, input_width(c, l)}; }
Shape key_value_bias_shape(const Config&, const LayerConfig& l) { return {l.kv_heads * l.head_dim}; }
Shape attention_output_shape(const Config& c, const LayerConfig& l) { return {middle_width(c, l), l.heads * l.head_dim}; }
Shape attention_output_bias_shape(const Config& c, const LayerConfig& l) { return {middle_width(c, l)}; }
Shape attention_rotation_shape(const Config& c, const LayerConfig& l) { return {input_width(c, l), middle_width(c, l)}; }
Shape up_shape(const Config& c, const LayerConfig& l) { return {l.mlp_width, middle_width(c, l)}; }
Shape up_bias_shape(const Config&, const LayerConfig& l) { return {l.mlp_width}; }
Shape down_shape(const Config& c, const LayerConfig& l) { return {output_width(c, l), l.mlp_width}; }
Shape down_bias_shape(const Config& c, const LayerConfig& l) { return {output_width(c, l)}; }
Shape mlp_rotation_shape(const Config& c, const LayerConfig& l) { return {middle_width(c, l), output_width(c, l)}; }

using enum InputSite;
constexpr LayerTensorRule kLayer[] = {
    {"self_attn_layer_norm.weight", Role::InputNorm, false, Part::InputNorm, false, Attention, vector_shape, layer_norm_weights},
    {"self_attn_layer_norm.bias", Role::InputNorm, true, Part::InputNorm, false, Attention, vector_shape, layer_norm_weights},
    {"self_attn.q_proj.weight", Role::Query, false, Part::Attention, true, Attention, query_shape},
    {"self_attn.q_proj.bias", Role::Query, true, Part::Attention, false, Attention, query_bias_shape, query_bias},
    {"self_attn.k_proj.weight", Role::Key, false, Part::Attention, true, Attention, key_value_shape},
    {"self_attn.k_proj.bias", Role::Key, true, Part::Attention, false, Attention, key_value_bias_shape, query_bias},
    {"self_attn.v_proj.weight", Role::Value, false, Part::Attention, true, Attention, key_value_shape},
    {"self_attn.v_proj.bias", Role::Value, true, Part::Attention, false, Attention, key_value_bias_shape, query_bias},
    {"self_attn.out_proj.weight", Role::AttentionOutput, false, Part::Attention, true, AttentionOutput, attention_output_shape},
    {"self_attn.out_proj.bias", Role::AttentionOutput, true, Part::Attention, false, AttentionOutput, attention_output_bias_shape,
     output_bias},
    {"attn_shortcut_Q", Role::AttentionRotation, false, Part::Rotation, false, Attention, attention_rotation_shape, sliced},
    {"final_layer_norm.weight", Role::MlpNorm, false, Part::PostAttentionNorm, false, Mlp, vector_shape, layer_norm_weights},
    {"final_layer_norm.bias", Role::MlpNorm, true, Part::PostAttentionNorm, false, Mlp, vector_shape, layer_norm_weights},
    {"fc1.weight", Role::Up, false, Part::Mlp, true, Mlp, up_shape},
    {"fc1.bias", Role::Up, true, Part::Mlp, false, Mlp, up_bias_shape, mlp_bias},
    {"fc2.weight", Role::Down, false, Part::Mlp, true, MlpOutput, down_shape},
    {"fc2.bias", Role::Down, true, Part::Mlp, false, MlpOutput, down_bias_shape, mlp_bias},
    {"mlp_shortcut_Q", Role::MlpRotation, false, Part::Rotation, false, Mlp, mlp_rotation_shape, sliced},
};

constexpr std::string_view kIgnored[] = {"decoder.version"};  // of fairseq

constexpr std::string_view kConfigKeys[] = {
    "ffn_dim", "activation_function", "do_layer_norm_before", "_remove_final_layer_norm", "word_embed_proj_dim", "enable_bias",
    "layer_norm_elementwise_affine"};

Activation activation_of(const ConfigFields& fields) {
  const std::string name = fields.has("activation_function") ? fields.text("activation_function") : "relu";
  if (name == "relu") return Activation::Relu;
  if (name == "gelu") return Activation::Gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::GeluTanh;
  fields.refuse("activation_function", "one of relu, gelu, gelu_new, gelu_pytorch_tanh");
}

void read_config(const ConfigFields& fields, Config& config) {
  config.tied_head = fields.flag_or("tie_word_embeddings", true);  // transformers' default where the file is silent
  config.norm = NormKind::Layer;
  config.norm_epsilon = 1e-5;  // torch.nn.LayerNorm's; the config has no key for it
  config.norm_first = fields.flag_or("do_layer_norm_before", true);
  config.final_norm = config.norm_first && !fields.flag_or("_remove_final_layer_norm", false);
  if (!fields.flag_or("layer_norm_elementwise_affine", true)) {
    throw FormatError(fields.name(), "key 'layer_norm_elementwise_affine' is false: layer norms without weights are not supported");
  }
  config.activation = activation_of(fields);
  config.gated_mlp = false;
  config.query_bias = config.output_bias = config.mlp_bias = fields.flag_or("enable_bias", true);
  config.positions = Positions::Learned;
  config.position_offset = kFirstPosition;
  const std::int64_t embedding = fields.size_or("word_embed_proj_dim", config.hidden);
  config.embedding = embedding == config.hidden ? 0 : embedding;
  LayerConfig layer;
  layer.heads = layer.kv_heads = fields.size("num_attention_heads");
  if (config.hidden % layer.heads != 0) {
    throw FormatError(fields.name(), "hidden_size " + std::to_string(config.hidden) + " is no multiple of num_attention_heads " +
                                         std::to_string(layer.heads));
  }
  layer.head_dim = config.hidden / layer.heads;
  layer.mlp_width = fields.size("ffn_dim");
  set_layers(fields, "num_hidden_layers", layer, config);
}

}  // namespace

const Architecture kOpt{"opt", kModelTypes, "model.decoder.layers.", kGlobals, kLayer, kIgnored, kConfigKeys, read_config};

}  // namespace miq
