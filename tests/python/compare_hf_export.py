"""Folders through convert-checkpoint and back, against transformers.

    compare_hf_export.py CONVERT_CHECKPOINT

Small random models of several kinds are saved by transformers (safetensors, one file or shards) and by torch
(pytorch_model.bin), converted to a container and written out with --to hf. The folder must load with
AutoModelForCausalLM, hold every tensor bit by bit, and give equal logits; the container made of the folder must
be the first one, byte for byte. Exit code 77 (skipped) where torch or transformers is missing.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM
except ImportError as error:
    print("skipped:", error)
    sys.exit(77)


def lattice(weight, bits=4):
    """Half of the weights zero, the others on 2^bits values per row, as SparseGPT leaves them."""
    low, high = weight.amin(1, keepdim=True).clamp(max=0), weight.amax(1, keepdim=True).clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    zero = torch.round(-low / scale)
    quantized = scale * (torch.clamp(torch.round(weight / scale) + zero, 0, 2**bits - 1) - zero)
    return quantized * (torch.rand_like(weight) > 0.5)


def llama(**changes):
    sizes = dict(vocab_size=101, hidden_size=48, intermediate_size=72, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=128, tie_word_embeddings=False)
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))


def opt():
    return OPTForCausalLM(OPTConfig(vocab_size=101, hidden_size=48, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
                                    word_embed_proj_dim=48))


def fake_quantized():
    model = llama(tie_word_embeddings=True)
    with torch.no_grad():
        for module in model.model.layers.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(lattice(module.weight))
    return model


MODELS = {"llama": (lambda: llama(), torch.float32), "tied bf16": (lambda: llama(tie_word_embeddings=True), torch.bfloat16),
          "llama-3 rope": (lambda: llama(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                                                         "high_freq_factor": 4.0, "original_max_position_embeddings": 32}), torch.float32),
          "fake-quantized": (fake_quantized, torch.float32), "fake-quantized f16": (fake_quantized, torch.float16), "opt": (opt, torch.float32)}


def tensors_of(folder):
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def check_tensors(expected, found, what):
    assert set(expected) == set(found), f"{what}: {set(expected) ^ set(found)}"
    for name, tensor in expected.items():
        assert same_bits(tensor, found[name]), f"{what}: {name} differs"


def logits(folder, dtype):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        return model(torch.arange(40).remainder(101).unsqueeze(0)).logits


def save_as_bin(source, folder, shards):
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = tensors_of(source)
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    names = sorted(tensors)
    index = {"metadata": {"total_size": 0}, "weight_map": {}}
    for shard in range(shards):
        file = f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        part = {name: tensors[name] for name in names[shard::shards]}
        torch.save(part, folder / file, _use_new_zipfile_serialization=shard % 2 == 0)
        index["weight_map"].update(dict.fromkeys(part, file))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    torch.save({"not": "weights"}, folder / "training_args.bin")


def check(convert, work, make, dtype):
    def run(*arguments):
        subprocess.run([convert, "--quiet", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)

    torch.manual_seed(1)
    source, container = work / "source", work / "model.miq"
    make().to(dtype).save_pretrained(source)
    run(source, "-o", container)
    run(container, "-o", work / "out", "--to", "hf")
    check_tensors(tensors_of(source), tensors_of(work / "out"), "folder")
    assert (source / "config.json").read_bytes() == (work / "out" / "config.json").read_bytes()
    assert torch.equal(logits(source, dtype), logits(work / "out", dtype)), "logits"
    run(work / "out", "-o", work / "again.miq")
    assert container.read_bytes() == (work / "again.miq").read_bytes(), "the container did not come back"

    run(container, "-o", work / "shards", "--to", "hf", "--shard-size", "20KB")
    assert len(list((work / "shards").glob("*.safetensors"))) > 2
    check_tensors(tensors_of(source), tensors_of(work / "shards"), "shards")
    assert torch.equal(logits(source, dtype), logits(work / "shards", dtype)), "logits of the shards"
    for narrow in (torch.bfloat16, torch.float16):
        name = "BF16" if narrow == torch.bfloat16 else "F16"
        if dtype in (torch.float32, narrow):
            run(container, "-o", work / name, "--to", "hf", "--dtype", name)
            check_tensors({key: value.to(narrow) for key, value in tensors_of(source).items()}, tensors_of(work / name), name)
            assert AutoModelForCausalLM.from_pretrained(work / name).dtype == narrow

    for shards in (1, 3):
        save_as_bin(source, work / f"bin{shards}", shards)
        run(work / f"bin{shards}", "-o", work / f"bin{shards}.miq")
        run(work / f"bin{shards}.miq", "-o", work / f"bin{shards}-out", "--to", "hf")
        check_tensors(tensors_of(source), tensors_of(work / f"bin{shards}-out"), f"pytorch_model.bin in {shards}")


def check_fp8(convert, work):
    """Matrices in FP8 (e4m3): kept as they are both ways. transformers has no forward pass in that type."""
    torch.manual_seed(2)
    source = work / "source"
    llama().save_pretrained(source)
    tensors = {name: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for name, t in tensors_of(source).items()}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    for start, end in ((source, "model.miq"), (work / "model.miq", "out"), (work / "out", "again.miq")):
        to = ["--to", "hf"] if end == "out" else []
        subprocess.run([convert, "--quiet", str(start), "-o", str(work / end), *to], check=True, stdout=subprocess.DEVNULL)
    check_tensors(tensors, tensors_of(work / "out"), "FP8")
    assert (work / "model.miq").read_bytes() == (work / "again.miq").read_bytes(), "FP8: the container did not come back"
    print("equal: FP8 weights")


def main():
    convert = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        check_fp8(convert, Path(folder))
    for name, (make, dtype) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            check(convert, Path(folder), make, dtype)
        print("equal:", name)


if __name__ == "__main__":
    main()
