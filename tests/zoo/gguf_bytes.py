"""GGUF files by hand, so that every field can lie. Facts: ggml's docs/gguf.md."""

import struct

from zoo import Model, tokenizer

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
BLOCK = {0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 8: (32, 34)}  # elements and bytes: F32 F16 BF16 Q4_0 Q8_0


def string(text):
    content = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(content)) + content


def scalar(kind, value):
    return string(value) if kind == STRING else struct.pack("<" + FORMATS[kind], value)


def array(kind, values):
    return struct.pack("<IQ", kind, len(values)) + b"".join(scalar(kind, value) for value in values)


def entry(key, kind, value):
    """A metadata entry; `value` as bytes goes in as it is, whatever the type says."""
    return string(key) + struct.pack("<I", kind) + (value if isinstance(value, bytes) and kind != STRING else scalar(kind, value))


def info(name, dims, kind, offset):
    return string(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", dim) for dim in dims) + struct.pack("<IQ", kind, offset)


def assemble(entries, infos, data, version=3, magic=b"GGUF", tensors=None, values=None, alignment=32):
    head = magic + struct.pack("<IQQ", version, len(infos) if tensors is None else tensors, len(entries) if values is None else values)
    head += b"".join(entries) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + data


NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class Gguf:
    """The zoo's whole model as a GGUF file, in parts that can be changed before bytes() puts them together."""

    def __init__(self):
        config = Model().config
        vocabulary = sorted(tokenizer()["model"]["vocab"].items(), key=lambda item: item[1])
        self.entries = {
            "general.architecture": (STRING, "llama"),
            "general.name": (STRING, "zoo"),
            "llama.block_count": (U32, 1),
            "llama.context_length": (U32, config["max_position_embeddings"]),
            "llama.embedding_length": (U32, config["hidden_size"]),
            "llama.feed_forward_length": (U32, config["intermediate_size"]),
            "llama.attention.head_count": (U32, config["num_attention_heads"]),
            "llama.attention.head_count_kv": (U32, config["num_key_value_heads"]),
            "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
            "tokenizer.ggml.model": (STRING, "gpt2"),
            "tokenizer.ggml.pre": (STRING, "gpt-2"),
            "tokenizer.ggml.tokens": (ARRAY, array(STRING, [token for token, _ in vocabulary])),
            "tokenizer.ggml.token_type": (ARRAY, array(I32, [1] * len(vocabulary))),
            "tokenizer.ggml.merges": (ARRAY, array(STRING, [])),
            "tokenizer.ggml.bos_token_id": (U32, 0),
            "tokenizer.ggml.eos_token_id": (U32, 0),
        }
        self.tensors = {}  # name: (dims, type, offset, content)
        offset = 0
        for name, (shape, content) in Model().tensors().items():
            parts = name.split(".")
            name = NAMES.get(name) or f"blk.{parts[2]}.{LAYER['.'.join(parts[3:-1])]}.weight"
            self.tensors[name] = (shape[::-1], 0, offset, content)
            offset += len(content) + -len(content) % 32

    def bytes(self, extra_entries=(), extra_infos=(), tail=b"", alignment=32, **head):
        entries = [entry(key, kind, value) for key, (kind, value) in self.entries.items()]
        infos = [info(name, dims, kind, offset) for name, (dims, kind, offset, _) in self.tensors.items()]
        data = bytearray()
        for _, _, offset, content in self.tensors.values():
            data.extend(bytes(max(0, offset + len(content) - len(data))))
            data[offset : offset + len(content)] = content
        return assemble(entries + list(extra_entries), infos + list(extra_infos), bytes(data) + tail, alignment=alignment, **head)

    def change(self, key, kind, value):
        self.entries[key] = (kind, value)
        return self

    def without(self, key):
        self.entries.pop(key, None)
        self.tensors.pop(key, None)
        return self

    def tensor(self, name, dims=None, kind=None, offset=None, content=None):
        old = self.tensors[name]
        self.tensors[name] = tuple(old[i] if new is None else new for i, new in enumerate((dims, kind, offset, content)))
        return self

    def add(self, name, dims, kind, content):
        """Behind all others."""
        offset = max(offset + len(content) for _, _, offset, content in self.tensors.values())
        self.tensors[name] = (dims, kind, offset + -offset % 32, content)
        return self
