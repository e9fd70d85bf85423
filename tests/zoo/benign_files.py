"""Odd but right safetensors and GGUF files: (name, bytes). What they hold is what the official packages read."""

import json
import tempfile

import gguf
import numpy as np
import torch
from safetensors.numpy import save as save_numpy
from safetensors.torch import save as save_torch

from gguf_bytes import ARRAY, BOOL, F32, F64, FORMATS, I8, I16, I32, I64, STRING, U8, U16, U32, U64, array, assemble, entry, info
from zoo import floats, safetensors, with_header

EIGHT = floats([1.0, -2.0])


def one(name="a", **fields):
    return {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields}


def raw(header, data=EIGHT, **options):
    return with_header(json.dumps(header, **options), data)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def safetensors_files():
    every = [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    ]
    patterns = torch.arange(256, dtype=torch.uint8)
    yield "every_type", save_torch(
        {str(kind): (patterns % 2).bool() if kind == torch.bool else patterns.clone().view(kind) for kind in every}
    )
    yield "odd_sizes", save_torch(
        {"byte": torch.ones(1, dtype=torch.uint8), "double": torch.ones(3, dtype=torch.float64), "half": torch.ones(5, dtype=torch.float16)}
    )
    yield "by_numpy", save_numpy({"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.array(2.5)})
    yield "metadata_of_transformers", save_torch({"a": random(3, 4)}, {"format": "pt"})
    yield "nothing", with_header("{}")
    yield "nothing_padded", with_header("{}      ")
    yield "metadata_alone", with_header('{"__metadata__":{"k":"v"}}')
    yield "metadata_empty", raw({"__metadata__": {}} | one())
    yield "metadata_null", with_header('{"__metadata__":null,"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', EIGHT)
    yield "metadata_long", raw({"__metadata__": {"notes": "x" * 1_000_000}} | one())
    yield "metadata_texts", raw({"__metadata__": {"": "", "ключ": "值 🙂", 'quote"': "line\nline\t\u0000"}} | one())
    yield "metadata_last", raw(one() | {"__metadata__": {"k": "v"}})
    yield "metadata_many", raw({"__metadata__": {str(i): str(i * i) for i in range(5000)}} | one())
    yield "not_padded", raw(one("abc"))
    yield "padded_to_4096", with_header(json.dumps(one()).ljust(4088), EIGHT)
    yield "padded_with_lines", with_header(json.dumps(one()) + "\n\t\r\n ", EIGHT)
    yield "space_first", with_header("\n  " + json.dumps(one()), EIGHT)
    yield "indented", raw(one(), indent=4)
    yield "no_spaces", raw(one(), separators=(",", ":"))
    yield "fields_in_other_order", with_header('{"a":{"data_offsets":[0,8],"shape":[2],"dtype":"F32"}}', EIGHT)
    yield "offsets_in_other_order", raw(one("z") | one("a", data_offsets=[8, 16]), EIGHT * 2)
    yield "escaped_names", with_header('{"\\u0061\\/\\"\\\\":{"\\u0064type":"F\\u0033\\u0032","shape":[2],"data_offsets":[0,8]}}', EIGHT)
    yield "name_empty", raw(one(""))
    yield "name_non_ascii", raw(one("модель.вес.権重.🙂"), ensure_ascii=False)
    yield "name_surrogates", raw(one("🙂🙃"))
    yield "name_with_zero", raw(one("a\0b"))
    yield "name_with_control", raw(one("a\x1b[2J\r\n"))
    yield "name_path", raw(one("../../etc/passwd"))
    yield "name_long", raw(one("n" * 100_000))
    yield "name_like_field", raw(one("dtype") | one("shape", data_offsets=[8, 16]), EIGHT * 2)
    yield "scalar", raw(one(shape=[], data_offsets=[0, 4]), EIGHT[:4])
    yield "ones", raw(one(shape=[1] * 60 + [2]))
    yield "empty_tensors", raw(
        {
            str(i): {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]}
            for i, shape in enumerate([[0], [0, 5], [3, 0, 2], [1 << 40, 0]])
        },
        b"",
    )
    yield "empty_between", raw(
        one("a") | {"b": {"dtype": "I64", "shape": [0], "data_offsets": [8, 8]}} | one("c", data_offsets=[8, 16]), EIGHT * 2
    )
    yield "many", safetensors({f"t{i}": ([1], floats([i])) for i in range(5000)})
    yield "not_numbers", safetensors({"a": ([6], floats([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3.4e38]))})
    yield "not_a_boolean", with_header(json.dumps(one(dtype="BOOL", shape=[8])), bytes(range(8)))
    yield "one_megabyte", save_torch({"a": random(512, 512)})


def written(fill, **options):
    with tempfile.NamedTemporaryFile() as file:
        writer = gguf.GGUFWriter(file.name, "llama", **options)
        fill(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return open(file.name, "rb").read()


NUMBERS = {
    U8: 255,
    I8: -128,
    U16: 65535,
    I16: -32768,
    U32: 2**32 - 1,
    I32: -(2**31),
    U64: 2**64 - 1,
    I64: -(2**63),
    F32: 0.1,
    F64: 1e-300,
    BOOL: 1,
}


def gguf_files():
    numbers = [entry(f"k.{kind}", kind, value) for kind, value in NUMBERS.items()]
    arrays = [entry(f"a.{kind}", ARRAY, array(kind, [value, 0, 1])) for kind, value in NUMBERS.items()]
    tensor = ([info("t", [2], 0, 0)], EIGHT)
    yield "every_number", assemble(numbers, *tensor)
    yield "every_array", assemble(arrays, *tensor)
    yield "empty_arrays", assemble([entry(f"a.{kind}", ARRAY, array(kind, [])) for kind in [*FORMATS, STRING]], *tensor)
    yield "texts", assemble(
        [entry("empty", STRING, ""), entry("long", STRING, "x" * 300_000), entry("other", STRING, "日本語 🙂 \0 \n \x1b")], *tensor
    )
    yield "arrays_of_texts", assemble(
        [entry("a", ARRAY, array(STRING, ["", "é", "x" * 1000])), entry("many", ARRAY, array(STRING, [str(i) for i in range(30_000)]))],
        *tensor,
    )
    yield "numbers_odd", assemble(
        [entry("nan", F32, float("nan")), entry("infinite", F64, float("-inf")), entry("zero", F64, -0.0)], *tensor
    )
    yield "no_metadata", assemble([], *tensor)
    yield "no_tensors", assemble(numbers, [], b"")
    yield "version_2", assemble(numbers, *tensor, version=2)
    yield "key_long", assemble([entry("k" * 65535, U8, 1)], *tensor)
    yield "keys_many", assemble([entry(f"k.{i}", U32, i) for i in range(5000)], *tensor)
    yield "names", assemble([], [info("n" * 63, [2], 0, 0), info("имя", [2], 0, 32), info("a b/c", [2], 0, 64)], (EIGHT + bytes(24)) * 3)
    for alignment in (8, 64, 4096):
        yield f"alignment_{alignment}", assemble(
            [entry("general.alignment", U32, alignment)],
            [info("a", [2], 0, 0), info("b", [2], 0, alignment)],
            EIGHT + bytes(alignment - 8) + EIGHT,
            alignment=alignment,
        )
    yield "four_dimensions", assemble([], [info("t", [2, 3, 4, 5], 0, 0)], floats(range(120)))
    yield "ones", assemble([], [info("t", [2, 1, 1, 1], 0, 0)], EIGHT)
    yield "other_order", assemble([], [info("b", [2], 0, 32), info("a", [2], 0, 0)], EIGHT + bytes(24) + EIGHT)
    yield "gap", assemble([], [info("a", [2], 0, 0), info("b", [2], 0, 1024)], EIGHT + bytes(1016) + EIGHT)
    yield "bytes_behind", assemble([], *tensor) + b"padding" * 100
    yield "many_tensors", assemble(
        [], [info(f"t.{i}", [1], 0, 32 * i) for i in range(3000)], b"".join(floats([i]) + bytes(28) for i in range(3000))
    )

    def types(writer):
        for kind in (np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64):
            writer.add_tensor(kind.__name__, (np.arange(64) % 100).astype(kind).reshape(2, 32))

    yield "types_of_numbers", written(types)

    def quantized(writer):
        data = random(4, 256).numpy()
        for kind in ("BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
            kind = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(kind.name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        for kind in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "Q8_K"):
            kind = gguf.GGMLQuantizationType[kind]
            block, size = gguf.GGML_QUANT_SIZES[kind]
            writer.add_tensor(kind.name, np.full((4, 256 // block * size), 17, np.uint8), raw_dtype=kind)

    yield "types_of_blocks", written(quantized)

    def long_rows(writer):
        writer.add_tensor("t", random(3, 100_000).numpy())

    yield "long_rows", written(long_rows)
    yield "by_the_package", written(
        lambda writer: (
            writer.add_array("names", ["a", "b"]),
            writer.add_bool("flag", False),
            writer.add_tensor("x", np.zeros((5, 7), np.float32)),
        )
    )
