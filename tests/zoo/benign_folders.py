"""Odd but right model folders: (name, {file: bytes}, {tensor: (type, shape, bytes)} as it must come out of the conversion)."""

import collections
import json

import torch
from safetensors.torch import save

from benign_torch import saved
from zoo import Link, Model, encoded, floats, safetensors

INDEX = "model.safetensors.index.json"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def folder(tensors=None, config=None, **files):
    model = Model()
    content = {} if tensors is None else {"model.safetensors": safetensors(tensors)}
    made = model.folder(**({"config.json": encoded(model.config | (config or {}))} | content | files))
    return {name: item for name, item in made.items() if item is not None}


def wanted(tensors=None, dtype="F32"):
    return {name: (dtype, shape, content) for name, (shape, content) in (Model().tensors() if tensors is None else tensors).items()}


def as_torch(tensors):
    return collections.OrderedDict(
        (name, torch.frombuffer(bytearray(content), dtype=torch.float32).reshape(shape)) for name, (shape, content) in tensors.items()
    )


def sharded(names, groups, metadata=None, index=INDEX, maker=safetensors):
    """A folder in shards: names[i] holds the tensors of groups[i]."""
    tensors = Model().tensors()
    content = {"weight_map": {tensor: name for name, group in zip(names, groups) for tensor in group}}
    if metadata is not None:
        content["metadata"] = metadata
    files = {name: maker({tensor: tensors[tensor] for tensor in group}) for name, group in zip(names, groups)}
    return folder(**({"model.safetensors": None, index: encoded(content)} | files))


def folders():
    tensors = Model().tensors()
    names = list(tensors)
    total = {"total_size": sum(len(content) for _, content in tensors.values())}
    yield "plain", folder(), wanted()
    yield "one_tensor_a_shard", sharded(
        [f"model-{i + 1:05}-of-{len(names):05}.safetensors" for i in range(len(names))], [[name] for name in names], total
    ), wanted()
    yield "one_shard", sharded(["model-00001-of-00001.safetensors"], [names], total), wanted()
    yield "shards_by_name", sharded(
        ["embedding.safetensors", "layers.safetensors", "слой.safetensors"], [names[:1], names[1:6], names[6:]], total
    ), wanted()
    yield "shards_interleaved", sharded(["a.safetensors", "b.safetensors"], [names[::2], names[1::2]], total), wanted()
    yield "index_without_metadata", sharded(["a.safetensors", "b.safetensors"], [names[:5], names[5:]]), wanted()
    yield "index_metadata_more", sharded(
        ["a.safetensors"], [names], {"total_size": 70016.0, "total_parameters": 17504, "note": None}
    ), wanted()
    cache = {f"../blobs_{i}/blob": content for i, content in enumerate(folder().values())}
    yield "hub_cache", dict(zip(folder(), (Link(name) for name in cache))) | cache, wanted()
    yield "head_stored_too", folder(tensors | {HEAD: tensors[EMBEDDING]}), wanted()
    yield "head_in_place_of_embedding", folder(
        {HEAD: tensors[EMBEDDING]} | {name: tensors[name] for name in names if name != EMBEDDING}
    ), wanted()
    untied = tensors | {HEAD: ([256, 32], floats(range(256 * 32)))}
    yield "head_of_its_own", folder(untied, {"tie_word_embeddings": False}), wanted(untied)
    yield "rotary_buffers", folder(
        tensors
        | {
            "model.layers.0.self_attn.rotary_emb.inv_freq": ([4], floats([1, 0.1, 0.01, 0.001])),
            "model.rotary_emb.inv_freq": ([4], floats([1] * 4)),
        }
    ), wanted()
    yield "no_prefix", folder({name.removeprefix("model."): item for name, item in tensors.items()}), wanted()
    yield "data_parallel", folder({"module." + name: item for name, item in tensors.items()}), wanted()
    yield "compiled", folder({"_orig_mod." + name: item for name, item in tensors.items()}), wanted()
    yield "offsets_in_other_order", folder({name: tensors[name] for name in reversed(names)}), wanted()
    for kind, name in ((torch.float16, "F16"), (torch.bfloat16, "BF16"), (torch.float64, "F64")):
        cast = {key: item.to(kind) for key, item in as_torch(tensors).items()}
        yield "type_" + name, folder(**{"model.safetensors": save(cast, {"format": "pt"})}), {
            key: (name, list(item.shape), item.contiguous().view(torch.uint8).numpy().tobytes()) for key, item in cast.items()
        }
    mixed = {key: item.to(torch.bfloat16 if "norm" in key else torch.float16) for key, item in as_torch(tensors).items()}
    yield "types_mixed", folder(**{"model.safetensors": save(mixed)}), {
        key: ("BF16" if "norm" in key else "F16", list(item.shape), item.contiguous().view(torch.uint8).numpy().tobytes())
        for key, item in mixed.items()
    }
    harmless = {
        "_name_or_path": "/home/someone/model",
        "torch_dtype": "float32",
        "dtype": "float32",
        "use_cache": True,
        "transformers_version": "4.99.0",
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": None,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "pad_token_id": None,
        "my_note": {"deep": [1, [2]]},
    }
    yield "config_of_many_keys", folder(config=harmless), wanted()
    yield "config_rope_parameters", folder(config={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}), wanted()
    yield "config_rope_linear", folder(config={"rope_scaling": {"type": "linear", "factor": 2.0}}), wanted()
    yield "config_no_kv_heads", folder(
        tensors
        | {
            name: tensors["model.layers.0.self_attn.q_proj.weight"]
            for name in ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight")
        },
        {"num_key_value_heads": None},
    ), wanted(
        tensors
        | {
            name: tensors["model.layers.0.self_attn.q_proj.weight"]
            for name in ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight")
        }
    )
    yield "config_indented", folder(**{"config.json": json.dumps(Model().config, indent=8).replace("\n", "\r\n").encode()}), wanted()
    yield "config_activation_name", folder(config={"hidden_act": "swish"}), wanted()
    yield "rows_padded", folder(tensors | {EMBEDDING: ([264, 32], tensors[EMBEDDING][1] + bytes(8 * 128))}, {"vocab_size": 264}), wanted(
        tensors | {EMBEDDING: ([264, 32], tensors[EMBEDDING][1] + bytes(8 * 128))}
    )
    yield "other_files", folder(
        **{
            "README.md": b"# Model",
            "generation_config.json": b"{}",
            ".gitattributes": b"",
            "training_args.bin": b"\x80\x02cos\nsystem\n.",
            "onnx/model.onnx": b"x",
            "optimizer.pt": b"PK\x03\x04",
            "figure.png": b"\x89PNG",
        }
    ), wanted()
    yield "safetensors_and_bin", folder(**{"pytorch_model.bin": saved(as_torch(tensors))}), wanted()
    yield "bin", folder(**{"model.safetensors": None, "pytorch_model.bin": saved(as_torch(tensors))}), wanted()
    yield "bin_legacy", folder(
        **{"model.safetensors": None, "pytorch_model.bin": saved(as_torch(tensors), _use_new_zipfile_serialization=False)}
    ), wanted()
    yield "bin_of_parameters", folder(
        **{
            "model.safetensors": None,
            "pytorch_model.bin": saved({name: torch.nn.Parameter(item) for name, item in as_torch(tensors).items()}),
        }
    ), wanted()
    turned = {name: item.t().contiguous().t() if item.dim() == 2 else item for name, item in as_torch(tensors).items()}
    yield "bin_of_transposed_views", folder(**{"model.safetensors": None, "pytorch_model.bin": saved(turned)}), wanted()
    whole = torch.cat([item.reshape(-1) for item in as_torch(tensors).values()])
    slices, at = {}, 0
    for name, item in as_torch(tensors).items():
        slices[name] = whole[at : at + item.numel()].view(item.shape)
        at += item.numel()
    yield "bin_of_one_storage", folder(**{"model.safetensors": None, "pytorch_model.bin": saved(slices)}), wanted()
    tied = as_torch(tensors)
    tied[HEAD] = tied[EMBEDDING]
    yield "bin_tied", folder(**{"model.safetensors": None, "pytorch_model.bin": saved(tied)}), wanted()
    yield "bin_sharded", sharded(
        ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
        [names[:5], names[5:]],
        total,
        "pytorch_model.bin.index.json",
        lambda group: saved(as_torch(group)),
    ), wanted()
