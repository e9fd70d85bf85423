"""The forward pass of every supported family against transformers, on small models with random weights.

    compare_families.py MODEL_LOGITS [NAME…]

Each model is saved by save_pretrained, read by miq, and run on one text that is longer than its original
positions; logits must agree: max |a - b| / max |b| < 1e-4. The same models are written as GGUF files, with
llama.cpp's names and row orders, and as folders with the keys of older configs. Exit 77 (skipped) where a
package is missing.
"""
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import gguf
    import numpy as np
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

LIMIT = 1e-4
TOKENS = 150
SIZES = dict(vocab_size=101, hidden_size=36, intermediate_size=52, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
             max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
OPT_SIZES = dict(vocab_size=101, hidden_size=36, ffn_dim=52, num_hidden_layers=2, num_attention_heads=6, max_position_embeddings=TOKENS, dropout=0.0,
                 word_embed_proj_dim=36, bos_token_id=2, eos_token_id=2)
EXPERTS = dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=22)


def rope(kind, theta=10000.0, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


# name: config class and what differs from SIZES
CASES = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", dict(tie_word_embeddings=True, head_dim=10)),
    "llama-biases": ("Llama", dict(attention_bias=True, mlp_bias=True)),
    "llama-linear": ("Llama", rope("linear", factor=2.5)),
    "llama-dynamic": ("Llama", rope("dynamic", factor=2.0)),
    "llama-llama3": ("Llama", dict(head_dim=32, **rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64))),
    "llama-yarn": ("Llama", rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "llama-yarn-betas": ("Llama", dict(head_dim=32, **rope("yarn", factor=3.0, original_max_position_embeddings=48, beta_fast=16, beta_slow=2, attention_factor=0.9))),
    "mistral": ("Mistral", dict(sliding_window=7)),
    "mistral-no-window": ("Mistral", dict(sliding_window=None, head_dim=8)),
    "mixtral": ("Mixtral", dict(num_local_experts=5, num_experts_per_tok=2)),
    "mixtral-window": ("Mixtral", dict(num_local_experts=4, num_experts_per_tok=3, sliding_window=11)),
    "qwen2": ("Qwen2", {}),
    "qwen2-windows": ("Qwen2", dict(use_sliding_window=True, sliding_window=9, max_window_layers=1)),
    "qwen2-yarn": ("Qwen2", rope("yarn", 1000000.0, factor=4.0, original_max_position_embeddings=64)),
    "qwen3": ("Qwen3", dict(head_dim=8, tie_word_embeddings=True)),
    "qwen3-windows": ("Qwen3", dict(head_dim=16, use_sliding_window=True, sliding_window=9, layer_types=["sliding_attention", "full_attention"])),
    "qwen2_moe": ("Qwen2Moe", dict(shared_expert_intermediate_size=30, **EXPERTS)),
    "qwen2_moe-mixed": ("Qwen2Moe", dict(shared_expert_intermediate_size=30, norm_topk_prob=True, decoder_sparse_step=2, use_sliding_window=True,
                                         sliding_window=9, **EXPERTS)),
    "qwen3_moe": ("Qwen3Moe", dict(head_dim=8, norm_topk_prob=True, **EXPERTS)),
    "qwen3_moe-plain-layer": ("Qwen3Moe", dict(head_dim=8, mlp_only_layers=[0], use_sliding_window=True, sliding_window=13, **EXPERTS)),
    "opt": ("OPT", {}),
    "opt-350m": ("OPT", dict(do_layer_norm_before=False, word_embed_proj_dim=20)),
    "opt-gelu": ("OPT", dict(activation_function="gelu", tie_word_embeddings=False)),
}


def random_model(kind, changes, seed):
    torch.manual_seed(seed)
    config = getattr(transformers, kind + "Config")(**{**(OPT_SIZES if kind == "OPT" else SIZES), **changes})
    # The grouped products of experts want aligned sizes.
    experts = dict(experts_implementation="eager") if kind.endswith("Moe") or kind == "Mixtral" else {}
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", **experts).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            elif parameter.dim() == 1:
                parameter.normal_(0, 0.5)
            else:
                parameter.normal_(0, 1.5 / math.sqrt(parameter.shape[-1]) if "embed" not in name or config.tie_word_embeddings else 1)
    return model


def their_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


class Comparison:
    def __init__(self, program):
        self.program, self.failures, self.worst = program, [], 0.0

    def check(self, name, source, expected, ids):
        result = subprocess.run([self.program, str(source), ",".join(map(str, ids))], capture_output=True)
        if result.returncode != 0:
            self.failures.append(f"{name}: {result.stderr.decode()}")
            return
        got = np.frombuffer(result.stdout, dtype="<f4").reshape(expected.shape)
        error = float(np.abs(got - expected).max() / np.abs(expected).max())
        print(f"{name:32s} {error:.2e}{'  ' + result.stderr.decode().strip() if result.stderr else ''}")
        self.worst = max(self.worst, error)
        if not error < LIMIT:
            self.failures.append(f"{name}: logits differ by {error:.2e}")


def classic_config(folder):
    """config.json as transformers 4 wrote it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if "rope_parameters" not in config:
        return
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    kind = parameters.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type" if kind != "llama3" else "rope_type": kind, **parameters}
    config.pop("layer_types", None) if config.get("sliding_window") is None else None
    if "num_local_experts" in config and config["model_type"] != "mixtral":
        config["num_experts"] = config.pop("num_local_experts")
    config["torch_dtype"] = config.pop("dtype", "float32")
    path.write_text(json.dumps(config))


def qwen1_folder(folder, model, **changes):
    """The weights of a Qwen2 model under the first Qwen's names."""
    tensors, renamed = model.state_dict(), {}
    for name, value in tensors.items():
        name = name.replace("model.embed_tokens", "transformer.wte").replace("model.norm", "transformer.ln_f").replace("model.layers", "transformer.h")
        for old, new in [("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2"), ("self_attn.o_proj", "attn.c_proj"),
                         ("mlp.gate_proj", "mlp.w2"), ("mlp.up_proj", "mlp.w1"), ("mlp.down_proj", "mlp.c_proj")]:
            name = name.replace(old, new)
        if ".q_proj" in name:
            original = "model.layers" + name.removeprefix("transformer.h")
            value = torch.cat([tensors[original.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
            name = name.replace("self_attn.q_proj", "attn.c_attn")
        if ".k_proj" not in name and ".v_proj" not in name:
            renamed[name] = value.clone().contiguous()
    folder.mkdir()
    save_file(renamed, folder / "model.safetensors")
    c = model.config
    config = dict(model_type="qwen", architectures=["QWenLMHeadModel"], vocab_size=c.vocab_size, hidden_size=c.hidden_size,
                  num_hidden_layers=c.num_hidden_layers, num_attention_heads=c.num_attention_heads, layer_norm_epsilon=c.rms_norm_eps,
                  kv_channels=c.hidden_size // c.num_attention_heads, rotary_emb_base=10000, rotary_pct=1.0, seq_length=64,
                  max_position_embeddings=256, intermediate_size=2 * c.intermediate_size, no_bias=True, scale_attn_weights=True,
                  attn_dropout_prob=0.0, emb_dropout_prob=0.0, initializer_range=0.02, use_cache=True, use_flash_attn="auto",
                  use_dynamic_ntk=False, use_logn_attn=False, softmax_in_fp32=False, tie_word_embeddings=False)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


GGUF_NAMES = [
    ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"), ("model.layers", "blk"),
    ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"), ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"), ("mlp.shared_expert.up_proj", "ffn_up_shexp"), ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"), ("block_sparse_moe.gate", "ffn_gate_inp"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"), ("mlp.gate.", "ffn_gate_inp."),
]
EXPERT_NAMES = [("w1", "ffn_gate_exps"), ("w3", "ffn_up_exps"), ("w2", "ffn_down_exps"), ("gate_proj", "ffn_gate_exps"), ("up_proj", "ffn_up_exps"),
                ("down_proj", "ffn_down_exps")]


def gguf_tensors(model, arch, folder):
    """The tensors as convert_hf_to_gguf.py stores them: rows of q and k interleaved for llama, experts merged."""
    config, out, experts = model.config, {}, {}
    for name, value in load_file(folder / "model.safetensors").items():
        array = value.numpy()
        if ".experts." in name:
            layer, expert, kind = name.split(".")[2], int(name.split(".")[5]), name.split(".")[6]
            experts.setdefault(f"blk.{layer}.{dict(EXPERT_NAMES)[kind]}.weight", {})[expert] = array
            continue
        if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            array = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        for old, new in GGUF_NAMES:
            name = name.replace(old, new)
        out[name] = np.ascontiguousarray(array[0] if "inp_shexp" in name else array)
    for name, parts in experts.items():
        out[name] = np.stack([parts[i] for i in range(len(parts))])
    return out


def write_gguf(model, folder, path, arch, parts=1):
    c = model.config
    tensors = gguf_tensors(model, arch, folder)
    rope_settings = c.rope_parameters
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    if rope_settings["rope_type"] == "llama3":
        inverse = model.model.rotary_emb.inv_freq.double()
        plain = rope_settings["rope_theta"] ** (-torch.arange(0, head_dim, 2).double() / head_dim)
        tensors["rope_freqs.weight"] = (plain / inverse).float().numpy()
    names = sorted(tensors)
    for part in range(parts):
        writer = gguf.GGUFWriter(path if parts == 1 else str(path).replace(".gguf", f"-{part + 1:05d}-of-{parts:05d}.gguf"), arch)
        if part == 0:
            writer.add_context_length(c.max_position_embeddings)
            writer.add_embedding_length(c.hidden_size)
            writer.add_block_count(c.num_hidden_layers)
            writer.add_feed_forward_length(c.intermediate_size)
            writer.add_head_count(c.num_attention_heads)
            writer.add_head_count_kv(c.num_key_value_heads)
            writer.add_key_length(head_dim)
            writer.add_layer_norm_rms_eps(c.rms_norm_eps)
            writer.add_rope_freq_base(rope_settings["rope_theta"])
            if rope_settings["rope_type"] in ("linear", "yarn"):
                writer.add_rope_scaling_type(gguf.RopeScalingType(rope_settings["rope_type"]))
                writer.add_rope_scaling_factor(rope_settings["factor"])
            if rope_settings["rope_type"] == "yarn":
                writer.add_rope_scaling_orig_ctx_len(rope_settings["original_max_position_embeddings"])
            if hasattr(c, "num_experts_per_tok"):
                writer.add_expert_count(getattr(c, "num_local_experts", None) or c.num_experts)
                writer.add_expert_used_count(c.num_experts_per_tok)
        if parts > 1:
            writer.add_uint16("split.no", part)
            writer.add_uint16("split.count", parts)
            writer.add_int32("split.tensors.count", len(names))
        for name in names[part::parts]:
            writer.add_tensor(name, tensors[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


# name in CASES: architecture of llama.cpp. Windows are not in these files.
GGUF_CASES = {"llama": "llama", "llama-tied": "llama", "llama-linear": "llama", "llama-yarn": "llama", "llama-llama3": "llama", "mistral-no-window": "llama",
              "mixtral": "llama", "qwen2": "qwen2", "qwen2-yarn": "qwen2", "qwen3": "qwen3", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}


def compare_qwen1(comparison, folder, ids):
    plain = random_model("Qwen2", dict(num_key_value_heads=6), 77)
    qwen1_folder(folder / "qwen", plain)
    comparison.check("qwen", folder / "qwen", their_logits(plain, ids), ids)
    # Its own code for texts beyond seq_length, as modeling_qwen.py has it: a larger base, and queries scaled by
    # the logarithm of their position, which commutes with the rotation.
    trained, dim = 64, 6
    alpha = max(2 ** math.ceil(math.log(len(ids) / trained, 2) + 1) - 1, 1)
    longer = random_model("Qwen2", dict(num_key_value_heads=6, **rope("default", 10000.0 * alpha ** (dim / (dim - 2)))), 77)
    factors = torch.tensor([math.log(i, trained) if i > trained else 1.0 for i in range(1, len(ids) + 1)])
    for layer in longer.model.layers:
        layer.self_attn.q_proj.register_forward_hook(lambda module, inputs, output: output * factors[:, None])
    qwen1_folder(folder / "qwen-long", longer, use_dynamic_ntk=True, use_logn_attn=True)
    comparison.check("qwen-long", folder / "qwen-long", their_logits(longer, ids), ids)
    comparison.check("qwen-long, short text", folder / "qwen-long", their_logits(plain, ids[:50]), ids[:50])


def compare_unknown_type(comparison, folder, ids):
    """A model type of nobody's whose tensors are Llama's."""
    model = random_model("Llama", {}, 5)
    model.save_pretrained(folder / "unknown")
    config = json.loads((folder / "unknown/config.json").read_text())
    (folder / "unknown/config.json").write_text(json.dumps({**config, "model_type": "nobodys_llama", "architectures": ["NobodysForCausalLM"]}))
    comparison.check("unknown type", folder / "unknown", their_logits(model, ids), ids)


def main():
    comparison = Comparison(sys.argv[1])
    chosen = sys.argv[2:] or list(CASES)
    rng = np.random.default_rng(3)
    ids = rng.integers(0, SIZES["vocab_size"], TOKENS).tolist()
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for seed, name in enumerate(chosen):
            kind, changes = CASES[name]
            model = random_model(kind, changes, seed)
            expected = their_logits(model, ids)
            model.save_pretrained(folder / name)
            comparison.check(name, folder / name, expected, ids)
            if name in GGUF_CASES:
                write_gguf(model, folder / name, folder / f"{name}.gguf", GGUF_CASES[name])
                comparison.check(name + ", GGUF", folder / f"{name}.gguf", expected, ids)
            if name == "llama":
                write_gguf(model, folder / name, folder / "parts.gguf", "llama", 3)
                comparison.check("llama, GGUF in parts", folder / "parts-00002-of-00003.gguf", expected, ids)
            classic_config(folder / name)
            comparison.check(name + ", classic config", folder / name, expected, ids)
        if not sys.argv[2:]:
            compare_qwen1(comparison, folder, ids)
            compare_unknown_type(comparison, folder, ids)
    print(f"worst {comparison.worst:.2e}; transformers {transformers.__version__}")
    for failure in comparison.failures:
        print("FAILED", failure)
    return 1 if comparison.failures else 0


if __name__ == "__main__":
    sys.exit(main())
