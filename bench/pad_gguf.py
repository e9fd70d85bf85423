#!/usr/bin/env python3
"""Widens a llama GGUF with zeros until every width is a multiple of 256; the model computes the same.

    bench/pad_gguf.py MODEL.gguf PADDED.gguf      (needs the packages gguf and numpy)

llama.cpp's types of 256 weights fall back to other ones where a width is no multiple of 256. The padded model has
none of that, so bench/llama_cpp.py measures on it what those types do by design, with real weights. Hidden
channels are added as zeros of the embedding; heads, in whole groups, as zero rows of q, k and v and zero columns of
o. An RMS norm divides by the mean square, which zeros lower by old/new: its weights get sqrt(old/new) and its
epsilon old/new. Every block costs its bytes whether it holds zeros or not, so bits a weight read as they would on
a model that is so wide; a block with few real weights is easier to fit, to llama.cpp's favour.
"""
import math, sys

import gguf
import numpy as np


def main():
    source, target = sys.argv[1:]
    reader = gguf.GGUFReader(source)
    get = lambda key: reader.fields[key].contents()
    arch = get("general.architecture")
    if arch != "llama":
        sys.exit(f"{source}: architecture {arch}; only llama is widened")
    hidden, heads, kv_heads = (get(f"llama.{key}") for key in ("embedding_length", "attention.head_count", "attention.head_count_kv"))
    size, group = hidden // heads, heads // kv_heads
    wide = hidden
    while wide % 256 or wide % (size * group):
        wide += 1
    new_heads = wide // size
    new_kv = new_heads // group
    # What a tensor's rows and columns are: hidden channels, query or key/value outputs, or something that stays.
    widths = {"h": (hidden, wide), "q": (heads * size, new_heads * size), "k": (kv_heads * size, new_kv * size), "-": (0, 0)}
    axes = {"token_embd": "-h", "output": "-h", "attn_q": "qh", "attn_k": "kh", "attn_v": "kh", "attn_output": "hq", "ffn_gate": "-h", "ffn_up": "-h",
            "ffn_down": "h-"}

    writer = gguf.GGUFWriter(target, arch)
    changed = {"llama.embedding_length": wide, "llama.attention.head_count": new_heads, "llama.attention.head_count_kv": new_kv,
               "llama.attention.layer_norm_rms_epsilon": get("llama.attention.layer_norm_rms_epsilon") * hidden / wide, "general.file_type": 0}
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, changed.get(field.name, field.contents()), kind, element)
    for tensor in reader.tensors:
        data = np.ascontiguousarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        kind = tensor.name.split(".")[-2]
        if kind.endswith("norm"):
            data = np.pad(data * np.float32(math.sqrt(hidden / wide)), (0, wide - hidden))
        elif kind in axes:
            data = np.pad(data, [(0, widths[axis][1] - widths[axis][0]) for axis in axes[kind]])
        elif kind != "rope_freqs":
            sys.exit(f"{source}: it is not known how to widen {tensor.name}")
        writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{target}: hidden {hidden} -> {wide}, heads {heads} -> {new_heads}, of keys and values {kv_heads} -> {new_kv}")


if __name__ == "__main__":
    main()
