"""Tokenizers, and whole models in PyTorch files (state dicts, modules, SliceGPT's pair), that are well-formed and do not fit.

tokenizers#2060 (patterns that hang), llama.cpp#25969 (byte tokens), sentencepiece#1263, #1265 and #1267; SliceGPT's hf_utils.py.
"""

import json
import struct

from pickle_bytes import BUILD, DICT, EMPTY_TUPLE, MARK, NEW, SET_ITEMS, call, glob, storage, tensor, text, value
from torch_bytes import TorchZip
from zoo import Entry, Model, encoded, floats, tokenizer


def altered(change):
    made = tokenizer()
    change(made)
    return encoded(made)


def model_of(**changed):
    return altered(lambda made: made["model"].update(changed))


def pattern(regex):
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return altered(lambda made: made.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [split, made["pre_tokenizer"]]}))


def tokenizers():
    vocabulary = tokenizer()["model"]["vocab"]
    yield "empty", b"", "not valid JSON", "an interrupted download"
    yield "array", b"[]", "tokenizer", "another type"
    yield "no_model", altered(lambda made: made.pop("model")), "model", ""
    yield "model_unknown", model_of(type="WordPiece"), "WordPiece", "another algorithm"
    yield "model_text", altered(lambda made: made.update(model="BPE")), "model", "another type"
    yield "vocabulary_list", model_of(vocab=list(vocabulary)), "vocab", "another type"
    yield "vocabulary_missing", model_of(vocab=None), "vocab", ""
    yield "id_negative", model_of(vocab=vocabulary | {"a": -1}), "", "llama.cpp#25969: a write before the table"
    yield "id_2_31", model_of(vocab=vocabulary | {"a": 1 << 31}), "", "memory for what is not there"
    yield "id_2_64", model_of(vocab=vocabulary | {"a": 2**64}), "", "wraps to 0"
    yield "id_real", model_of(vocab=vocabulary | {"a": 1.5}), "", "another type"
    yield "id_twice", model_of(vocab=vocabulary | {"b": vocabulary["a"]}), "", "which piece is it?"
    yield "id_beyond_rows", model_of(vocab=vocabulary | {"new": 256}), "256", "LMFlow#627"
    yield "piece_twice", json.dumps(tokenizer()).replace('"a": ', '"a": 3, "a": ', 1).encode(), "appears twice", "which id is it?"
    yield "merges_of_unknown", model_of(merges=["z q"]), "", "pieces that are no tokens"
    yield "merges_of_one", model_of(merges=["ab"]), "merge", "no pair"
    yield "merges_of_three", model_of(merges=[["a", "b", "c"]]), "merge", "no pair"
    yield "merges_numbers", model_of(merges=[1, 2]), "merge", "another type"
    yield "regex_hangs", pattern("(a+)+$"), "pattern", "tokenizers#2060: exponential"
    yield "regex_hangs_slowly", pattern("(.*)*x"), "pattern", "exponential"
    yield "regex_nested", pattern("(" * 50_000 + ")" * 50_000), "pattern", "recursion in the compiler"
    yield "regex_repeated", pattern("a{1000}{1000}{1000}"), "pattern", "memory of the automaton"
    yield "regex_broken", pattern("("), "pattern", ""
    yield "regex_long", pattern("x" * 1_000_000), "pattern", "the message must not repeat it"
    yield "normalizer_unknown", altered(lambda made: made.update(normalizer={"type": "Evil"})), "Evil", ""
    yield "normalizer_grows", altered(
        lambda made: made.update(normalizer={"type": "Replace", "pattern": {"Regex": ".*"}, "content": "x" * 1000})
    ), "", "each pass a thousand times longer"
    yield "charsmap", altered(
        lambda made: made.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    ), "Precompiled", "sentencepiece#1265: a trie of the file's choice"
    yield "post_processor_unknown", altered(lambda made: made.update(post_processor={"type": "Evil"})), "Evil", ""
    yield "template_id_beyond", altered(
        lambda made: made.update(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1 << 40], "tokens": ["<s>"]}},
            }
        )
    ), "", "an index beyond the table"
    yield "template_unknown", altered(
        lambda made: made.update(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        )
    ), "", "a token that is not there"
    yield "added_beyond_rows", altered(
        lambda made: made.update(
            added_tokens=[
                {
                    "id": 70_000,
                    "content": "<x>",
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
            ]
        )
    ), "", "an index beyond the table"
    yield "added_negative", altered(
        lambda made: made.update(
            added_tokens=[
                {"id": -1, "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            ]
        )
    ), "", ""
    yield "added_empty", altered(
        lambda made: made.update(
            added_tokens=[
                {"id": 0, "content": "", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            ]
        )
    ), "", "matches everywhere"
    yield "deep", b'{"model":' + b"[" * 100_000, "nested deeper", "recursion"
    yield "byte_order_mark", b"\xef\xbb\xbf" + encoded(tokenizer()), "byte order mark", ""


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def chunk(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def piece(content, score=0.0, kind=1):
    return chunk(1, chunk(1, content) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind))


def sentencepieces():
    good = piece(b"<unk>", kind=2) + piece(b"<s>", kind=3) + piece(b"</s>", kind=3)
    good += b"".join(piece(b"<0x%02X>" % byte, kind=6) for byte in range(256))
    trainer = chunk(2, b"\x18\x02\x98\x02\x01")  # BPE that falls back to bytes
    yield "empty", b"", "", "an interrupted download"
    yield "text", b"<unk>\t0\n", "", "a .vocab file"
    yield "cut", good[:-3], "", "an interrupted download"
    yield "length_beyond", b"\x0a" + varint(1 << 40) + b"abc", "", "memory for what is not there"
    yield "length_2_64", b"\x0a" + varint(2**64 - 1) + b"abc", "", "position + length wraps"
    yield "varint_endless", b"\x0a" + b"\xff" * 40, "64 bits", "more than 10 bytes"
    yield "varint_beyond", b"\x0a" + b"\xff" * 9 + b"\x7f", "", "more than 64 bits"
    yield "group", b"\x0b" * 100_000, "wire type 3", "groups: recursion"
    yield "field_0", b"\x00\x00" + good, "number 0", "no such field"
    yield "wire_type_7", b"\x0f" + good, "wire type 7", "no such type"
    yield "score_nan", good + trainer + piece(b"x", float("nan")), "not a number", "order without order"
    yield "piece_not_utf8", piece(b"\xff\xfe") + good + trainer, "", ""
    yield "piece_twice", good + piece(b"a") + piece(b"a") + trainer, "there twice", "which id is it?"
    yield "piece_empty", good + piece(b"") + trainer, "is empty", "matches everywhere"
    yield "kind_9", good + piece(b"x", kind=9) + trainer, "unknown type 9", "no such kind"
    yield "byte_negative", good + piece(b"<0x-1>", kind=6) + trainer, "not <0x00> to <0xFF>", "llama.cpp#25969: a write before the table"
    yield "byte_long", good + piece(b"<0x100>", kind=6) + trainer, "not <0x00> to <0xFF>", "a write behind the table"
    yield "byte_twice", good + piece(b"<0x00>", kind=6) + trainer, "there twice", "which id is it?"
    yield "charsmap", good + trainer + chunk(3, chunk(2, struct.pack("<I", 1 << 30) + b"trie")), "precompiled_charsmap", "sentencepiece#1265: a size that lies"
    yield "model_type_9", good + chunk(2, b"\x18\x09"), "type", "no such algorithm"


def state(**changed):
    """A folder with pytorch_model.bin; `changed` replaces tensors by op-codes, or (None) takes them out."""
    zipped, model = TorchZip(), Model()
    items = {name: zipped.tensor(shape, content) for name, (shape, content) in model.tensors().items()} | changed
    tree = TorchZip.dict_of({name: item for name, item in items.items() if item is not None})
    return model.folder(**{"model.safetensors": None, "pytorch_model.bin": zipped.bytes(tree)})


NORM, UP = "model.norm.weight", "model.layers.0.mlp.up_proj.weight"


def states():
    yield "missing", state(**{NORM: None}), NORM, "vllm#34930"
    yield "left_over", state(**{"adapter.weight": tensor(storage("0", 8192), [2])}), "adapter.weight", "a tensor that no one reads"
    yield "wrong_shape", state(**{NORM: tensor(storage("0", 8192), [16])}), NORM, ""
    yield "expanded", state(**{NORM: tensor(storage("0", 8192), [1 << 40], stride=[0])}), "", "a small storage, enormously expanded"
    yield "call_for_tensor", state(**{NORM: call("posix system", "touch canary")}), NORM, "a call where a weight should be"
    yield "text_for_tensor", state(**{NORM: text("weight")}), NORM, "a text where a weight should be"
    yield "whole_storage", state(**{NORM: storage("0", 8192)}), NORM, "a storage where a weight should be"
    flipped = state()
    bits = bytearray(flipped["pytorch_model.bin"])
    bits[bits.index(Model().tensors()[UP][1])] ^= 1
    yield "flipped_bit", flipped | {"pytorch_model.bin": bytes(bits)}, "checksum", "a bit of a weight"
    yield "integers", state(**{NORM: tensor(storage("0", 8192, kind="IntStorage"), [32])}), "", "type confusion: one storage of two types"
    model = Model()
    base = {"model.safetensors": None}
    yield "empty_bin", model.folder(**base, **{"pytorch_model.bin": b""}), "pytorch_model.bin", "an interrupted download"
    yield "bin_is_lfs", model.folder(
        **base, **{"pytorch_model.bin": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"}
    ), "git lfs pull", "cloned without LFS"
    yield "bin_is_list", model.folder(**base, **{"pytorch_model.bin": TorchZip().bytes(value([1, 2]))}), "", "no dict"
    yield "bin_is_call", model.folder(
        **base, **{"pytorch_model.bin": TorchZip().bytes(call("posix system", "touch canary"))}
    ), "", "a call in place of the dict"
    yield "bin_laughs", model.folder(**base, **{"pytorch_model.bin": TorchZip().bytes(_laughs())}), "", "10^60 dicts when walked"
    yield "bin_cycle", model.folder(
        **base, **{"pytorch_model.bin": TorchZip().bytes(DICT + b"q\0" + text("model") + b"h\0s" + text("state_dict") + b"h\0s")}
    ), "", "'model' is the dict itself"


def _laughs():
    body = value({"weight": 1})
    for level in range(60):
        body += (
            b"q" + bytes([level]) + b"0" + DICT + MARK + b"".join(text(f"module{i}") + b"h" + bytes([level]) for i in range(10)) + SET_ITEMS
        )
    return body


def module(attributes, name="evil Module"):
    base = {"_parameters": {}, "_buffers": {}, "_modules": {}, "_non_persistent_buffers_set": call("builtins set", []), "training": False}
    return glob(*name.split()) + EMPTY_TUPLE + NEW + value(base | attributes) + BUILD


def modules():
    def whole(item):
        return TorchZip().add("0", floats([1, 2])).bytes(value({"model": item, "tokenizer": None}))

    weight = tensor(storage("0", 2), [2])
    yield "of_nothing", whole(module({})), "no weights"
    yield "of_a_call", whole(call("builtins eval", "open('canary', 'w')")), "a call in place of the module"
    yield "unknown_family", whole(module({"_parameters": {"weight": weight}})), "no model"
    yield "in_itself", whole(
        glob("evil", "Module")
        + EMPTY_TUPLE
        + NEW
        + b"q\1"
        + value({"_parameters": {}, "_buffers": {}, "_modules": {"down": b"h\1"}})
        + BUILD
    ), "its own part: endless names"
    deep = module({"_parameters": {"weight": weight}})
    for _ in range(3000):
        deep = glob("evil", "Module") + EMPTY_TUPLE + NEW + DICT + text("_modules") + DICT + text("m") + deep + b"ss" + BUILD
    yield "deep", whole(deep), "3000 modules within each other: recursion, names of megabytes"
    shared = glob("evil", "Module") + EMPTY_TUPLE + NEW + value({"_parameters": {"weight": weight}}) + BUILD
    for level in range(60):
        shared += (
            b"q"
            + bytes([level + 1])
            + b"0"
            + glob("evil", "Module")
            + EMPTY_TUPLE
            + NEW
            + DICT
            + text("_modules")
            + DICT
            + MARK
            + b"".join(text(f"m{i}") + b"h" + bytes([level + 1]) for i in range(10))
            + SET_ITEMS
            + b"s"
            + BUILD
        )
    yield "laughs", whole(shared), "10^60 modules when walked"
    yield "names_of_paths", whole(module({"_parameters": {"../../canary": weight}})), "names that lead elsewhere"
    yield "names_of_numbers", whole(module({"_parameters": {"\ud800": weight}})), "names that are no UTF-8"
    yield "parts_no_dict", whole(module({"_modules": [1, 2], "_parameters": 5})), "other types"
    yield "state_no_dict", whole(glob("evil", "Module") + EMPTY_TUPLE + NEW + text("state") + BUILD), "another type"
    yield "two_models", TorchZip().add("0", floats([1, 2])).bytes(
        value({"model": {"weight": weight}, "state_dict": {"weight": weight}})
    ), "which one counts?"
    yield "config_path", TorchZip().add("0", floats([1, 2])).bytes(
        value({"model": {"weight": weight}, "config": {"model_type": "llama", "_name_or_path": "../../etc"}})
    ), "a path to a base model"
    yield "slicegpt_ratio_nan", TorchZip().add("0", floats([1, 2])).bytes(
        value(
            {
                "model": {"model.layers.0.attn_shortcut_Q": tensor(storage("0", 2), [1, 2])},
                "method": "SliceGPT",
                "pruning_ratio": float("nan"),
            }
        )
    ), "no ratio"


def sliced():
    def pair(schedule, **more):
        zipped = TorchZip()
        items = {name: zipped.tensor(shape, content) for name, (shape, content) in Model().tensors().items()}
        items["model.layers.0.attn_shortcut_Q"] = zipped.tensor([32, 24], bytes(4 * 32 * 24))
        files = Model().folder(
            **{"model.safetensors": None, "zoo_0.25.pt": zipped.bytes(TorchZip.dict_of(items)), "zoo_0.25.json": schedule} | more
        )
        return {name: content for name, content in files.items() if content is not None}

    yield "no_json", pair(None), "tensors of an unsliced model with one rotation"
    for name, schedule in {
        "empty": b"",
        "array": b"[]",
        "nothing": b"{}",
        "negative": b'{"sparsity":-1}',
        "over_1": b'{"sparsity":1.5}',
        "text": b'{"sparsity":"0.25"}',
        "widths_huge": encoded({"hidden_size": 32, "sparsity": 0.25, "slice_head": True, "attention_input_dimensions": {"0": 1 << 62}}),
        "widths_other": encoded({"hidden_size": 32, "const_dimension": 24, "attention_input_dimensions": {"0": 16}}),
        "deep": b'{"sparsity":' + b"[" * 100_000,
        "other_model": encoded({"hidden_size": 4096, "sparsity": 0.25}),
    }.items():
        yield "json_" + name, pair(schedule), "the json and the tensors disagree"
    yield "two_pts", pair(b"{}", **{"other_0.1.pt": b"PK\x03\x04"}), "which one counts?"
    yield "pt_is_text", pair(b"{}", **{"zoo_0.25.pt": b"hello"}), "no PyTorch file"


def entries():
    for name, content, words, why in tokenizers():
        yield Entry("tokenizer_" + name, Model().folder(**{"tokenizer.json": content}), (words,), at="tokenizer_" + name, why=why)
    for name, content, words, why in sentencepieces():
        yield Entry(
            "sentencepiece_" + name,
            Model().folder(**{"tokenizer.json": None, "tokenizer.model": content}),
            (words,),
            at="sentencepiece_" + name,
            why=why,
        )
    yield Entry("state_control", state(), (), inspect=("llama",), why="the folder that the others damage: it must convert")
    for name, files, words, why in states():
        yield Entry("state_" + name, files, (words,), at="state_" + name, inspect="either", why=why)
    for name, content, why in modules():
        yield Entry(f"module_{name}.bin", content, ("",), inspect="either", why=why, torch=("tensors of",))
    for name, files, why in sliced():
        yield Entry("sliced_" + name, files, ("",), at="sliced_" + name, inspect="either", why=why)
