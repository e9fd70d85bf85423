"""Safetensors files that lie: each the only damaged part of an otherwise whole model folder.

Classes from safetensors' own tests and attacks/README.md, the Trail of Bits audit of 2023, and the duplicate-key hole.
"""

import json

from zoo import Entry, Model, floats, safetensors, with_header

EIGHT = floats([1.0, 2.0])


def one(**fields):
    """A header of one tensor 'a' of two floats, with fields changed, added, or (None) left out."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields
    return json.dumps({"a": {key: value for key, value in entry.items() if value is not None}})


def pair(first, second, size=16):
    return with_header(
        json.dumps(
            {"a": {"dtype": "F32", "shape": [2], "data_offsets": first}, "b": {"dtype": "F32", "shape": [2], "data_offsets": second}}
        ),
        bytes(size),
    )


def swap(text, old, new):
    assert old in text
    return text.replace(old, new)


A = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
WRAPS = [1 << 32, 1 << 32, 2]  # elements modulo 2^64: 0

# (name, bytes, words, has an offset, why)
FILES = [
    ("empty", b"", "is empty", False, "an interrupted download"),
    ("seven_bytes", bytes(7), "cut short: 7 bytes", False, "shorter than the first field"),
    ("header_of_zero_bytes", bytes(8), "not valid JSON", True, "no header at all"),
    ("header_of_spaces", with_header(" " * 64), "not valid JSON", True, "white space only"),
    ("header_beyond_file", with_header(one(), EIGHT, 1 << 20), "cut short: a header of 1048576 bytes", True, "attacks/README.md"),
    ("header_one_beyond_file", with_header("{}", b"", 3), "of which 2 are there", True, "off by one"),
    ("header_2_63", with_header(one(), EIGHT, 1 << 63), "a header of 9223372036854775808 bytes", True, "a signed length would be negative"),
    ("header_2_64", with_header(one(), EIGHT, 2**64 - 1), "a header of 18446744073709551615 bytes", True, "8 + length wraps to 7"),
    ("header_2_64_less_8", with_header(one(), EIGHT, 2**64 - 8), "more than the 100000000 allowed", True, "8 + length wraps to 0"),
    ("header_over_limit", with_header(one(), EIGHT, 100_000_001), "more than the 100000000 allowed", True, "the reference's own limit"),
    ("header_one_short", with_header(one(), EIGHT, len(one()) - 1), "not valid JSON", True, "the closing brace is data"),
    ("header_one_long", with_header(one(), b"\x01" + bytes(7), len(one()) + 1), "not valid JSON", True, "a byte of data is header"),
    ("header_array", with_header("[]"), "an array, not an object", True, "another JSON type"),
    ("header_number", with_header("42"), "not an object", True, "another JSON type"),
    ("header_null", with_header("null"), "not an object", True, "another JSON type"),
    ("two_documents", with_header(one() + "{}", EIGHT), "not valid JSON", True, "a second document behind the first"),
    ("trailing_comma", with_header("{" + A + ",}", EIGHT), "not valid JSON", True, "lenient parsers differ"),
    ("comment", with_header("{/* */" + A + "}", EIGHT), "not valid JSON", True, "lenient parsers differ"),
    ("single_quotes", with_header(one().replace('"', "'"), EIGHT), "not valid JSON", True, "lenient parsers differ"),
    ("zero_byte", with_header(one() + "\0" + '{"b":1}', EIGHT), "zero byte", True, "C strings end there"),
    ("raw_newline_in_name", with_header(swap("{" + A + "}", '"a"', '"a\n"'), EIGHT), "not valid JSON", True, "control character"),
    ("name_not_utf8", with_header(one().encode().replace(b'"a"', b'"\xff\xfe"'), EIGHT), "not valid JSON", True, "the format says UTF-8"),
    ("name_overlong_utf8", with_header(one().encode().replace(b'"a"', b'"\xc0\xaf"'), EIGHT), "not valid JSON", True, "'/' in two bytes"),
    ("name_lone_surrogate", with_header(one().replace('"a"', '"\\ud800"'), EIGHT), "not valid JSON", True, "no character"),
    ("name_utf8_surrogate", with_header(one().encode().replace(b'"a"', b'"\xed\xa0\x80"'), EIGHT), "not valid JSON", True, "CESU-8"),
    ("deep_arrays", with_header("[" * 200_000), "an array, not an object", True, "recursion: rapidjson#2282"),
    ("deep_objects", with_header('{"a":' * 200_000), "", True, "recursion"),
    ("deep_field", with_header('{"a":{"x":' + "[" * 200_000), "unknown field", True, "recursion within a field that is skipped"),
    ("deep_metadata", with_header('{"__metadata__":{"k":' + "[" * 100_000), "must be texts", True, "recursion within metadata"),
    ("same_name_twice", with_header("{" + A + "," + A + "}", EIGHT), "appears twice", True, "the reference keeps the last"),
    (
        "same_name_escaped",
        with_header("{" + A + "," + A.replace('"a"', '"\\u0061"') + "}", EIGHT),
        "appears twice",
        True,
        "the same name spelled otherwise",
    ),
    (
        "dtype_twice",
        with_header('{"a":{"dtype":"F32","dtype":"U8","shape":[2],"data_offsets":[0,8]}}', EIGHT),
        "dtype appears twice",
        True,
        "readers differ in which one counts",
    ),
    (
        "offsets_twice",
        with_header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"data_offsets":[8,16]}}', bytes(16)),
        "data_offsets appears twice",
        True,
        "readers differ in which one counts",
    ),
    ("metadata_twice", with_header('{"__metadata__":{},"__metadata__":{},' + A + "}", EIGHT), "__metadata__ appears twice", True, ""),
    ("metadata_key_twice", with_header('{"__metadata__":{"k":"v","k":"w"},' + A + "}", EIGHT), "appears twice", True, ""),
    ("metadata_number", with_header('{"__metadata__":{"k":1},' + A + "}", EIGHT), "must be texts", True, "the format: text to text"),
    ("metadata_object", with_header('{"__metadata__":{"k":{}},' + A + "}", EIGHT), "must be texts", True, "nesting"),
    ("metadata_array", with_header('{"__metadata__":[],' + A + "}", EIGHT), "", True, "another type"),
    ("metadata_as_tensor", with_header(one().replace('"a"', '"__metadata__"'), EIGHT), "must be texts", True, "a tensor of that name"),
    ("tensor_null", with_header('{"a":null}'), "not described by an object", True, ""),
    ("tensor_array", with_header('{"a":["F32",[2],[0,8]]}', EIGHT), "described by an array", True, "serde takes it for the object"),
    ("no_dtype", with_header(one(dtype=None), EIGHT), "has no dtype", True, ""),
    ("no_shape", with_header(one(shape=None), EIGHT), "has no shape", True, ""),
    ("no_offsets", with_header(one(data_offsets=None), EIGHT), "has no data_offsets", True, ""),
    ("unknown_field", with_header(one(extra=1), EIGHT), "unknown field", True, "could hide anything"),
    ("dtype_unknown", with_header(one(dtype="F128"), EIGHT), "'F128' is unknown", True, ""),
    ("dtype_lower_case", with_header(one(dtype="f32"), EIGHT), "'f32' is unknown", True, "the format's names are upper case"),
    ("dtype_of_4_bits", with_header(one(dtype="F4", shape=[16]), EIGHT), "'F4' is unknown", True, "half bytes"),
    ("dtype_number", with_header(one(dtype=5), EIGHT), "dtype has a wrong form", True, ""),
    ("dtype_long", with_header(one(dtype="F" * 100_000), EIGHT), "is unknown", True, "the message must not repeat 100 KB"),
    ("shape_number", with_header(one(shape=2), EIGHT), "shape has a wrong form", True, ""),
    ("shape_nested", with_header(one(shape=[[2]]), EIGHT), "", True, ""),
    ("shape_negative", with_header(one(shape=[-1, -2]), EIGHT), "something other than a count", True, "two negatives make 2 elements"),
    ("shape_real", with_header(one(shape=[2.0]), EIGHT), "something other than a count", True, ""),
    ("shape_text", with_header(one(shape=["2"]), EIGHT), "something other than a count", True, ""),
    ("shape_true", with_header(one(shape=[True, 2]), EIGHT), "something other than a count", True, ""),
    ("shape_2_63", with_header(one(shape=[1 << 63, 2]), EIGHT), "a dimension of 9223372036854775808", True, "wraps to 0"),
    ("shape_2_64", with_header(one(shape=[2**64 + 2]), EIGHT), "something other than a count", True, "wraps to 2"),
    ("shape_wraps_to_zero", with_header(one(shape=WRAPS, data_offsets=[0, 0])), "too large for any memory", True, "product modulo 2^64"),
    (
        "shape_wraps_to_size",
        with_header(one(shape=[(1 << 62) + 2], dtype="F32"), EIGHT),
        "too large for any memory",
        True,
        "elements * 4 modulo 2^64 is 8",
    ),
    (
        "shape_zero_hides_overflow",
        with_header(one(shape=[0] + WRAPS, data_offsets=[0, 0])),
        "too large for any memory",
        True,
        "the reference multiplies in order and refuses",
    ),
    ("shape_of_another_size", with_header(one(shape=[3]), EIGHT), "make 12 bytes", True, "read beyond the tensor"),
    ("shape_smaller", with_header(one(shape=[1]), EIGHT), "make 4 bytes", True, "hidden bytes"),
    ("offsets_one", with_header(one(data_offsets=[0]), EIGHT), "fewer than two numbers", True, ""),
    ("offsets_three", with_header(one(data_offsets=[0, 8, 16]), EIGHT), "more than two numbers", True, ""),
    ("offsets_negative", with_header(one(data_offsets=[-8, 0]), EIGHT), "something other than a count", True, "attacks/README.md"),
    ("offsets_text", with_header(one(data_offsets="0,8"), EIGHT), "wrong form", True, ""),
    (
        "offsets_real",
        with_header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8e0]}}', EIGHT),
        "something other than a count",
        True,
        "",
    ),
    ("offsets_reversed", with_header(one(data_offsets=[8, 0]), EIGHT), "ends before it begins", True, "a negative size"),
    (
        "offsets_2_64",
        with_header(one(data_offsets=[2**64 - 8, 2**64 - 1], dtype="U8", shape=[7]), EIGHT),
        "leaves a hole",
        False,
        "begin of the data + begin wraps",
    ),
    (
        "end_beyond_file",
        with_header(one(shape=[1 << 40], data_offsets=[0, 1 << 42]), EIGHT),
        "cut short: its header describes",
        False,
        "a 4 TB tensor in a file of bytes: nothing may be allocated",
    ),
    ("first_not_at_zero", with_header(one(data_offsets=[8, 16]), bytes(16)), "leaves a hole", True, "hidden bytes in front"),
    ("hole", pair([0, 8], [12, 20], 20), "leaves a hole before it, from 8", True, "polyglots (Trail of Bits)"),
    ("overlap", pair([0, 8], [4, 12], 12), "overlaps", True, "attacks/README.md"),
    ("same_range_twice", pair([0, 8], [0, 8], 8), "overlaps", True, "two names, one range"),
    (
        "empty_tensor_inside_another",
        with_header("{" + A + ',"b":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}', EIGHT),
        "overlaps",
        True,
        "",
    ),
    (
        "bytes_behind",
        with_header(one(), EIGHT + b"PK\x05\x06" + bytes(18)),
        "22 bytes lie behind the last tensor",
        True,
        "a zip as a tail: polyglot",
    ),
    ("one_byte_short", with_header(one(), EIGHT[:-1]), "cut short", False, "an interrupted download"),
    ("byte_order_mark", with_header("\ufeff" + one(), EIGHT), "not valid JSON", True, "nlohmann skips it, the reference refuses it"),
    ("utf16", with_header(one().encode("utf-16-le"), EIGHT), "not valid JSON", True, ""),
    ("nan_as_number", with_header(swap("{" + A + "}", "[2]", "[NaN]"), EIGHT), "not valid JSON", True, "Python's json would read it"),
    ("leading_zero", with_header(swap("{" + A + "}", "[2]", "[02]"), EIGHT), "not valid JSON", True, "octal for some"),
    ("huge_exponent", with_header(swap("{" + A + "}", "[2]", "[1e999999999]"), EIGHT), "", True, "slow or infinite"),
    (
        "lfs_pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n",
        "git lfs pull",
        False,
        "reported often",
    ),
    ("web_page", b"<!DOCTYPE html><html><body>404</body></html>", "is a web page", False, "a failed download"),
    ("gguf_inside", b"GGUF" + bytes(60), "is a GGUF file", False, "renamed"),
    (
        "pickle_inside",
        b"\x80\x02cposix\nsystem\nX\x0c\x00\x00\x00touch canary\x85R.",
        "is a pickle",
        False,
        "readers that fall back to pickle",
    ),
    ("zip_inside", b"PK\x03\x04" + bytes(60), "is a zip archive", False, "renamed"),
    ("gzip_inside", b"\x1f\x8b\x08\x00" + bytes(60), "compressed with gzip", False, "not unpacked: bombs"),
]


def of_model():
    """Well-formed files that are not this model."""
    model = Model()
    tensors = model.tensors()
    embedding = "model.embed_tokens.weight"
    yield "tensor_missing", {
        name: value for name, value in tensors.items() if name != "model.norm.weight"
    }, "model.norm.weight", "vllm#34930"
    yield "tensor_left_over", tensors | {
        "model.layers.1.mlp.up_proj.weight": tensors["model.layers.0.mlp.up_proj.weight"]
    }, "model.layers.1.mlp.up_proj", ""
    yield "tensor_from_elsewhere", tensors | {"adapter.weight": ([2], EIGHT)}, "adapter.weight", ""
    yield "tensor_transposed", tensors | {
        "model.layers.0.mlp.up_proj.weight": ([32, 64], tensors["model.layers.0.mlp.up_proj.weight"][1])
    }, "mlp.up_proj", ""
    yield "tensor_of_three_dimensions", tensors | {
        "model.norm.weight": ([1, 32, 1], tensors["model.norm.weight"][1])
    }, "model.norm.weight", ""
    yield "tensor_without_dimensions", tensors | {"model.norm.weight": ([], floats([1]))}, "model.norm.weight", ""
    yield "tensor_empty", tensors | {embedding: ([0, 32], b"")}, embedding, "vocabulary of nothing"
    yield "vocabulary_smaller", tensors | {
        embedding: ([255, 32], tensors[embedding][1][:-128])
    }, embedding, "ids beyond the rows: LMFlow#627"


def entries():
    model = Model()
    yield Entry(
        "safetensors_control", model.folder(), (), inspect=("llama",), why="the folder that all others here damage: it must convert"
    )
    for name, content, words, offset, why in FILES:
        yield Entry(
            "safetensors_" + name, model.folder(**{"model.safetensors": content}), words, at="model.safetensors", offset=offset, why=why
        )
    for name, tensors, word, why in of_model():
        yield Entry(
            "safetensors_" + name, model.folder(**{"model.safetensors": safetensors(tensors)}), word, at="safetensors_" + name, why=why
        )
    whole = model.folder()["model.safetensors"]
    yield Entry(
        "safetensors_integers",
        model.folder(**{"model.safetensors": whole.replace(b'"F32"', b'"I32"')}),
        ("I32",),
        at="safetensors_integers",
        why="integers where weights must be: quantized by a tool that says nothing",
    )
