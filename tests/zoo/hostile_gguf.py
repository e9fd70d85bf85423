"""GGUF files that lie.

Classes from llama.cpp's tests/test-gguf.cpp, Databricks' and Talos' reports of 2024 (CVE-2024-23496, CVE-2024-21802, …),
GHSA-vgg9-87g3-85w8, llama.cpp#24759, #25969, #27188 and #27203, ferrox#24.
"""

import struct

from gguf_bytes import ARRAY, BOOL, F32, F64, I32, STRING, U32, U64, U8, Gguf, array, assemble, entry, info, string
from zoo import Entry

Q = struct.Struct("<Q").pack
HUGE = 1 << 60
EMBEDDING, UP = "token_embd.weight", "blk.0.ffn_up.weight"


def nested(depth):
    return struct.pack("<IQ", ARRAY, 1) * depth


def starts():
    whole = Gguf().bytes()
    yield "magic_only", b"GGUF", "cut short", True, "4 bytes"
    yield "magic_and_version", whole[:8], "the number of tensors takes 8 bytes", True, "8 bytes"
    yield "magic_cut", b"GGU", "", False, "3 bytes"
    yield "version_0", Gguf().bytes(version=0), "GGUF version 0", True, "test-gguf.cpp"
    yield "version_1", Gguf().bytes(version=1), "GGUF version 1", True, "32-bit counts"
    yield "version_4", Gguf().bytes(version=4), "GGUF version 4", True, "from the future"
    yield "version_2_32", Gguf().bytes(version=2**32 - 1), "GGUF version 4294967295", True, "negative when signed"
    yield "big_endian", b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(100), "big-endian", True, "version 3 byte-swapped"
    for name, counts in {
        "tensors_2_60": (HUGE, 0),
        "values_2_60": (0, HUGE),
        "tensors_2_63": (1 << 63, 0),
        "values_2_64": (0, 2**64 - 1),
        "tensors_2_64_by_64": (2**64 // 64, 0),
    }.items():
        yield "count_" + name, assemble(
            [], [], bytes(100), tensors=counts[0], values=counts[1]
        ), "bytes left can hold", True, "61 GB from 24 bytes: ferrox#24"
    yield "count_of_values_too_large", Gguf().bytes(values=17), "", True, "tensors read as metadata"
    yield "count_of_values_too_small", Gguf().bytes(values=15), "", True, "metadata read as tensors"
    yield "count_of_tensors_too_large", Gguf().bytes(tensors=12), "", True, "data read as tensors"
    yield "nothing_inside", assemble([], [], b""), "general.architecture", False, "no metadata"
    for size in (100, 1000, len(whole) // 2):
        yield f"cut_at_{size}", whole[:size], "cut short" if size > 24 else "", size < 6000, "an interrupted download"
    yield "one_byte_short", whole[:-1], "beyond the end of the file", False, "an interrupted download"


def metadata():
    def extra(*parts, **more):
        return Gguf().bytes(extra_entries=parts, **more)

    yield "key_2_63_long", extra(Q(1 << 63) + b"key"), "takes 9223372036854775808 bytes", True, "CVE-2024-23496: length + 1 wraps"
    yield "key_2_64_long", extra(Q(2**64 - 1) + b"key"), "takes 18446744073709551615 bytes", True, "CVE-2024-23496: malloc(0)"
    yield "key_empty", extra(entry("", U8, 1)), "key is empty", True, "test-gguf.cpp"
    yield "key_too_long", extra(entry("k" * 70000, U8, 1)), "key of 70000 bytes", True, "docs/gguf.md: 2^16 - 1"
    yield "key_twice", extra(entry("general.name", STRING, "other")), "appears twice", True, "which one counts?"
    yield "value_2_63_long", extra(
        string("k") + struct.pack("<I", STRING) + Q(1 << 63)
    ), "takes 9223372036854775808 bytes", True, "CVE-2024-23496"
    yield "value_1_beyond_file", assemble(
        [string("k") + struct.pack("<I", STRING) + Q(9) + b"8 bytes!"], [], b"", alignment=1
    ), "takes 9 bytes, 8 are left", True, "off by one"
    yield "type_13", extra(entry("k", 13, b"\0")), "unknown type 13", True, "test-gguf.cpp"
    yield "type_2_32", extra(entry("k", 2**32 - 1, b"\0")), "unknown type 4294967295", True, "an index of -1"
    yield "bool_2", extra(entry("k", BOOL, b"\2")), "truth value of 2", True, "undefined behaviour as a C++ bool"
    yield "bools_2", extra(
        entry("k", ARRAY, array(U8, [0, 1, 2]).replace(b"\0\0\0\0", struct.pack("<I", BOOL), 1))
    ), "truth value of 2", True, "within an array"
    yield "array_2_60", extra(entry("k", ARRAY, struct.pack("<IQ", U8, HUGE))), "bytes left can hold", True, "memory for what is not there"
    yield "array_2_61_of_8", extra(entry("k", ARRAY, struct.pack("<IQ", U64, 1 << 61))), "bytes left can hold", True, "count * 8 wraps to 0"
    yield "array_2_62_of_4", extra(
        entry("k", ARRAY, struct.pack("<IQ", F32, (1 << 62) + 1))
    ), "bytes left can hold", True, "count * 4 wraps to 4"
    yield "array_of_2_60_texts", extra(
        entry("k", ARRAY, struct.pack("<IQ", STRING, HUGE))
    ), "bytes left can hold", True, "CVE-2024-21802's kind"
    yield "array_of_long_text", extra(
        entry("k", ARRAY, struct.pack("<IQQ", STRING, 1, 1 << 62))
    ), "takes 4611686018427387904 bytes", True, ""
    yield "array_of_arrays", extra(entry("k", ARRAY, nested(1) + array(U8, [1]))), "array of arrays", True, "test-gguf.cpp"
    yield "array_nested_100000", extra(
        entry("k", ARRAY, nested(100_000))
    ), "array of arrays", True, "recursion; llama.cpp#27188 hung on 43 bytes"
    yield "array_of_type_13", extra(entry("k", ARRAY, struct.pack("<IQ", 13, 0))), "array of the unknown type 13", True, "type_size[13]"
    for value in (0, 3, 48, 1 << 31, 2**32 - 1):
        yield f"alignment_{value}", extra(entry("general.alignment", U32, value)), f"general.alignment is {value}", True, "ggml#1516"
    yield "alignment_as_text", extra(entry("general.alignment", STRING, "32")), "not an unsigned 32-bit number", True, ""
    yield "alignment_64_bits", extra(entry("general.alignment", U64, 32)), "not an unsigned 32-bit number", True, "test-gguf.cpp"
    yield "alignment_not_obeyed", extra(
        entry("general.alignment", U32, 4096)
    ), "no multiple of the alignment 4096", True, "offsets of another alignment"


def shapes():
    def extra(*parts, **more):
        return Gguf().bytes(extra_infos=parts, **more)

    yield "tensor_name_2_63_long", extra(Q(1 << 63) + b"name"), "takes 9223372036854775808 bytes", True, "CVE-2024-23496"
    yield "tensor_name_empty", extra(info("", [8], 0, 0)), "name is empty", True, ""
    yield "tensor_name_65_long", extra(info("n" * 65, [8], 0, 0)), "name of 65 bytes", True, "GGML_MAX_NAME"
    yield "tensor_twice", extra(info(UP, [8], 0, 0)), "appears twice", True, "which one counts?"
    yield "dimensions_5", extra(info("x", [1] * 5, 0, 0)), "has 5 dimensions", True, "GGML_MAX_DIMS"
    yield "dimensions_2_32", extra(string("x") + struct.pack("<I", 2**32 - 1)), "has 4294967295 dimensions", True, "CVE-2024-21836's kind"
    yield "dimension_2_63", extra(info("x", [1 << 63], 0, 0)), "a dimension of 9223372036854775808", True, "negative"
    yield "dimension_2_64", extra(info("x", [2**64 - 1, 2], 0, 0)), "a dimension of 18446744073709551615", True, "-1"
    yield "elements_wrap_to_0", extra(info("x", [1 << 32, 1 << 32], 0, 0)), "too large for any memory", True, "llama.cpp#27203"
    yield "elements_wrap_below_0", extra(info("x", [1 << 62, 2], 0, 0)), "", False, "llama.cpp#27203: the product is negative"
    yield "elements_wrap_to_8", extra(
        info("x", [(1 << 61) + 1, 8], 0, 0)
    ), "too large for any memory", True, "GHSA-96jg-mvhq-q7q7: small after wrapping"
    yield "bytes_wrap", extra(info("x", [1 << 62, 1], 0, 0)), "too large for any memory", True, "elements * 4 wraps to 0"
    yield "zero_beside_overflow", extra(info("x", [0, 1 << 62, 1 << 62], 0, 0)), "", False, "0 hides the product"
    yield "size_beyond_file", extra(info("x", [1 << 40], 0, 0)), "beyond the end of the file", False, "4 TB"
    yield "offset_2_64", extra(
        info("x", [8], 0, 2**64 - 32)
    ), "beyond the end of the file", False, "GHSA-vgg9-87g3-85w8: offset + size wraps"
    yield "offset_2_63", extra(info("x", [8], 0, 1 << 63)), "beyond the end of the file", False, "negative"
    yield "offset_not_aligned", extra(info("x", [8], 0, 4)), "no multiple of the alignment", True, "test-gguf.cpp"
    yield "offset_overlaps", Gguf().tensor(UP, offset=0).bytes(), "overlaps the tensor before it", True, "two tensors, one range"
    yield "blocks_cut", extra(info("x", [33], 8, 0)), "cannot be cut into Q8_0 blocks of 32", True, "row no multiple of the block"
    yield "blocks_of_zero_rows", extra(info("x", [31, 0], 2, 0)), "cannot be cut into", True, ""
    yield "size_of_blocks_wraps", extra(info("x", [1 << 62, 8], 2, 0)), "", False, "GHSA-96jg-mvhq-q7q7"


def models():
    finite = struct.pack("<e", 1.0) + bytes(32)
    infinite, nan = (struct.pack("<e", float(kind)) + bytes(32) for kind in ("inf", "nan"))

    def scales(scale):
        return Gguf().tensor(EMBEDDING, kind=8, content=finite * 255 + scale)

    yield "scale_infinite", scales(infinite).bytes(), "a scale that is not finite", False, "ik_llama.cpp#285"
    yield "scale_nan", scales(nan).bytes(), "a scale that is not finite", False, "ik_llama.cpp#285"
    yield "blocks_of_another_type", Gguf().tensor(EMBEDDING, kind=2).tensor(UP, kind=8).bytes(), "", False, "F32 data called Q4_0 and Q8_0"
    yield "type_99", Gguf().tensor(EMBEDDING, kind=99).bytes(), "type 99", False, "listed, not decoded"
    yield "type_removed", Gguf().tensor(EMBEDDING, kind=4).bytes(), "type 4", False, "Q4_2, gone since 2023"
    yield "type_not_decoded", Gguf().tensor(EMBEDDING, kind=15).bytes(), "", False, "Q8_K exists only in memory"
    yield "architecture_unknown", Gguf().change("general.architecture", STRING, "mamba2").bytes(), "'mamba2'", False, ""
    yield "architecture_number", Gguf().change("general.architecture", U32, 7).bytes(), "general.architecture", False, "another type"
    yield "architecture_long", Gguf().change(
        "general.architecture", STRING, "x" * 1_000_000
    ).bytes(), "", False, "the message must not repeat 1 MB"
    yield "architecture_escapes", Gguf().change(
        "general.architecture", STRING, "\x1b]0;owned\x07\x1b[2J\u009b2J"
    ).bytes(), "is not supported", False, "moves the cursor, renames the terminal"
    yield "layers_2_32", Gguf().change("llama.block_count", U32, 2**32 - 1).bytes(), "layers", False, "memory for layers that are not there"
    yield "layers_100000", Gguf().change(
        "llama.block_count", U32, 100_000
    ).bytes(), "100000 layers", False, "their names alone would take 180 MB"
    yield "layers_0", Gguf().change("llama.block_count", U32, 0).bytes(), "llama.block_count", False, ""
    yield "layers_negative", Gguf().change("llama.block_count", I32, -1).bytes(), "llama.block_count", False, ""
    yield "layers_missing", Gguf().without("llama.block_count").bytes(), "llama.block_count", False, ""
    yield "heads_0", Gguf().change("llama.attention.head_count", U32, 0).bytes(), "head_count", False, "division by zero"
    yield "heads_3", Gguf().change("llama.attention.head_count", U32, 3).bytes(), "head", False, "no divisor of the width"
    yield "kv_heads_more", Gguf().change("llama.attention.head_count_kv", U32, 8).bytes(), "heads", False, "more than heads"
    yield "heads_2_31", Gguf().change("llama.attention.head_count", U32, 1 << 31).bytes(), "head", False, "head_dim of 0"
    yield "epsilon_nan", Gguf().change(
        "llama.attention.layer_norm_rms_epsilon", F32, float("nan")
    ).bytes(), "layer_norm_rms_epsilon", False, ""
    yield "epsilon_negative", Gguf().change(
        "llama.attention.layer_norm_rms_epsilon", F32, -1.0
    ).bytes(), "layer_norm_rms_epsilon", False, ""
    yield "theta_infinite", Gguf().change("llama.rope.freq_base", F32, float("inf")).bytes(), "freq_base", False, ""
    yield "rope_partly", Gguf().change(
        "llama.rope.dimension_count", U32, 2
    ).bytes(), "rope.dimension_count", False, "plausible, wrong results"
    yield "rope_scaling_unknown", Gguf().change(
        "llama.rope.scaling.type", STRING, "evil"
    ).bytes(), "'evil'", False, "plausible, wrong results"
    yield "tensor_missing", Gguf().without(UP).bytes(), "up_proj", False, "reading uninitialised weights: vllm#34930"
    yield "tensor_unknown", Gguf().add("blk.0.secret.weight", [8], 0, bytes(32)).bytes(), "blk.0.secret.weight", False, ""
    yield "tensor_of_layer_9", Gguf().add(
        "blk.9.ffn_up.weight", [8, 12], 0, bytes(384)
    ).bytes(), "blk.9.ffn_up.weight", False, "beyond the layers"
    yield "tensor_of_layer_2_64", Gguf().add(
        "blk.18446744073709551616.ffn_up.weight", [8, 12], 0, bytes(384)
    ).bytes(), "blk.1844674", False, "wraps to 0"
    yield "embedding_flat", Gguf().tensor(EMBEDDING, dims=[8192]).bytes(), EMBEDDING, False, "one dimension"
    yield "embedding_transposed", Gguf().tensor(EMBEDDING, dims=[256, 32]).bytes(), "", False, "a vocabulary of 32"
    yield "rows_odd_for_heads", Gguf().tensor("blk.0.attn_k.weight", dims=[512, 1]).bytes(), "attn_k", False, "halves of one row"
    yield "tokens_missing", Gguf().without("tokenizer.ggml.tokens").bytes(), "tokenizer.ggml.tokens", False, ""
    yield "tokens_numbers", Gguf().change("tokenizer.ggml.tokens", ARRAY, array(F64, [1.0] * 256)).bytes(), "not a string", False, ""
    yield "tokens_not_utf8", Gguf().change(
        "tokenizer.ggml.tokens", ARRAY, array(STRING, [b"\xff\xfe"] * 256)
    ).bytes(), "no UTF-8", False, ""
    yield "tokens_alike", Gguf().change("tokenizer.ggml.tokens", ARRAY, array(STRING, ["a"] * 256)).bytes(), "", False, "which id is 'a'?"
    yield "tokens_beyond_rows", Gguf().change("tokenizer.ggml.tokens", ARRAY, array(STRING, [f"t{i}" for i in range(300)])).without(
        "tokenizer.ggml.token_type"
    ).bytes(), "", False, "ids beyond the embedding"
    yield "token_types_fewer", Gguf().change(
        "tokenizer.ggml.token_type", ARRAY, array(I32, [1])
    ).bytes(), "token types", False, "read beyond the array"
    yield "token_type_9", Gguf().change(
        "tokenizer.ggml.token_type", ARRAY, array(I32, [9] * 256)
    ).bytes(), "unknown type for token", False, ""
    yield "merges_without_space", Gguf().change("tokenizer.ggml.merges", ARRAY, array(STRING, ["ab"])).bytes(), "merge", False, ""
    yield "merges_of_unknown", Gguf().change(
        "tokenizer.ggml.merges", ARRAY, array(STRING, ["zz qq"])
    ).bytes(), "", False, "pieces that are no tokens"
    yield "tokenizer_unknown", Gguf().change("tokenizer.ggml.model", STRING, "wordpiece").bytes(), "wordpiece", False, ""
    yield "pre_unknown", Gguf().change("tokenizer.ggml.pre", STRING, "evil").bytes(), "evil", False, ""
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(253)]
    bad = (
        Gguf()
        .change("tokenizer.ggml.model", STRING, "llama")
        .without("tokenizer.ggml.pre")
        .change("tokenizer.ggml.scores", ARRAY, array(F32, [0.0] * 256))
    )
    bad.change("tokenizer.ggml.token_type", ARRAY, array(I32, [2, 3, 3] + [6] * 253)).without("tokenizer.ggml.merges")
    pieces[9] = "<0x-1>"
    yield "byte_token_negative", bad.change(
        "tokenizer.ggml.tokens", ARRAY, array(STRING, pieces)
    ).bytes(), "0x-1", False, "llama.cpp#25969: a write before the table"
    pieces[9] = "<0x06>"
    yield "score_nan", bad.change("tokenizer.ggml.tokens", ARRAY, array(STRING, pieces)).change(
        "tokenizer.ggml.scores", ARRAY, array(F32, [float("nan")] * 256)
    ).bytes(), "not finite", False, ""
    yield "bos_beyond_tokens", Gguf().change("tokenizer.ggml.bos_token_id", U32, 1 << 30).change(
        "tokenizer.ggml.add_bos_token", BOOL, 1
    ).bytes(), "bos", False, "an index beyond the table"


def entries():
    yield Entry(
        "gguf_control.gguf", Gguf().bytes(), (), inspect=("llama", "zoo"), why="the file that all others here damage: it must convert"
    )
    for maker in (starts, metadata, shapes, models):
        for name, content, words, offset, *why in maker():
            # A file that is right but no model is described all the same, with the reason.
            described = maker is models or name in ("nothing_inside", "zero_beside_overflow")
            yield Entry(
                f"gguf_{name}.gguf",
                content,
                (words,),
                inspect="either" if described else "refused",
                offset=offset,
                why=why[0] if why else "",
            )
