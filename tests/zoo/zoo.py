"""What the makers of the zoo share: the entry of its tables, and a tiny whole model to damage.

Everything here is Python's standard library alone and gives the same bytes on every run.
"""

import functools
import json
import random
import struct
from dataclasses import dataclass, field
from typing import Union

CANARY = "canary"  # what a hostile file would create in the working folder if anything in it were executed


class Link(str):
    """A symbolic link to this target, in place of a file's bytes."""


class Fifo:
    """A named pipe in place of a file: opening it to read would block for ever."""


@dataclass
class Entry:
    """One checkpoint of the zoo and what must happen to it.

    files    the bytes of one file, or {name: bytes, Link or Fifo} of a folder
    refused  words that the message must hold where convert-checkpoint refuses it; empty: it must convert
    inspect  words that inspect-checkpoint must print where it describes the file as plain data (exit 0), "refused" where
             it must refuse it with the same words as convert-checkpoint, and "either" where both are right
    at       the file that the message must name; by default the only one
    offset   the message must say at which byte
    why      the reason; an advisory, issue or source where there is one
    """

    name: str
    files: Union[bytes, dict]
    refused: tuple = ()
    inspect: Union[tuple, str] = "refused"
    at: str = ""
    offset: bool = False
    why: str = ""
    torch: Union[tuple, str, None] = (
        None  # for PyTorch files: what the reader alone must say, words or "refused" (with the words of `refused`)
    )
    memory: int = 64 << 20  # bytes of memory above those of an idle process that it may take

    def __post_init__(self):
        self.refused = (self.refused,) if isinstance(self.refused, str) else tuple(self.refused)


@dataclass
class Model:
    """A whole Llama of one layer, as a Hugging Face folder would hold it."""

    config: dict = field(
        default_factory=lambda: {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 256,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64,
            "tie_word_embeddings": True,
            "hidden_act": "silu",
        }
    )

    def tensors(self):
        """{name: (shape, bytes)}, float32, in the order of their names."""
        width, inner, vocabulary = (self.config[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
        heads, kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        layer = {
            "self_attn.q_proj": [width, width],
            "self_attn.k_proj": [width // heads * kv_heads, width],
            "self_attn.v_proj": [width // heads * kv_heads, width],
            "self_attn.o_proj": [width, width],
            "mlp.gate_proj": [inner, width],
            "mlp.up_proj": [inner, width],
            "mlp.down_proj": [width, inner],
            "input_layernorm": [width],
            "post_attention_layernorm": [width],
        }
        shapes = {"model.embed_tokens.weight": [vocabulary, width], "model.norm.weight": [width]}
        shapes |= {
            f"model.layers.{i}.{name}.weight": shape for i in range(self.config["num_hidden_layers"]) for name, shape in layer.items()
        }
        return {name: (shapes[name], normal_bytes(product(shapes[name]), name)) for name in sorted(shapes)}

    def folder(self, **changed):
        """The folder's files; a keyword with an underscore for each dot and dash changes or (None) removes one."""
        files = {
            "config.json": encoded(self.config),
            "tokenizer.json": encoded(tokenizer()),
            "model.safetensors": safetensors(self.tensors()),
        }
        return {name: content for name, content in (files | changed).items() if content is not None}


@functools.cache
def normal_bytes(elements, draw_from):
    draw = random.Random(draw_from)
    return floats(draw.gauss(0, 0.3) for _ in range(elements))


def product(numbers):
    result = 1
    for number in numbers:
        result *= number
    return result


def floats(values):
    return b"".join(struct.pack("<f", value) for value in values)


def encoded(value):
    return json.dumps(value).encode()


def tokenizer():
    """A byte-level BPE without merges: one id for each byte."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    characters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {characters[byte]: byte for byte in range(256)},
            "merges": [],
        },
    }


def safetensors(tensors, metadata=None, dtype="F32", padding=b""):
    """A well-formed file of {name: (shape, bytes)}."""
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    return with_header(json.dumps(header, separators=(",", ":")).encode() + padding, data)


def with_header(header, data=b"", length=None):
    if isinstance(header, str):
        header = header.encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data
