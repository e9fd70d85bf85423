"""Our reader of PyTorch files against torch.load, on benign odd files made here.

    compare_torch.py TORCH_PROBE [FILE ...]

Every file is saved by torch or pickle, dumped by TORCH_PROBE, and compared value by value with what was saved: tensors
bit by bit, with shape, type and requires_grad. A second list holds what must be refused, with a word of the message. FILEs
named are compared with torch.load(weights_only=False): only give files that you trust. Exit 77 (skipped) where torch
is missing.
"""
import collections
import enum
import io
import json
import pickle
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

try:
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

warnings.filterwarnings("ignore")
DTYPES = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64",
}


class Tiny(torch.nn.Module):
    """A module with every kind of entry: parameters, buffers (one not persistent), a None, a tie, a list of modules."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(11, 6)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(6, 5), torch.nn.Linear(5, 6, bias=False)])
        self.norm = torch.nn.LayerNorm(6)
        self.head = torch.nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("kept", torch.arange(7))
        self.register_buffer("passing", torch.ones(3), persistent=False)
        self.register_parameter("nothing", None)
        self.note = {"bits": 4, "names": ["a", "b"], "pair": (1, 2.5)}


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self):
        self.left, self.right = torch.arange(3), "r"


class SlottedChild(Slotted):
    def __init__(self):
        super().__init__()
        self.more = [1]


class Plain:
    def __init__(self):
        self.hidden_size, self.scale, self.names = 64, 0.5, {"x": None}


class Colour(enum.Enum):
    RED = 1


def bits(tensor):
    # A clone has strides of its own: those of one element may be anything, and view() minds them.
    flat = tensor.detach().reshape(-1).clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def same(ours, theirs, data, where):
    def wrong(what):
        raise AssertionError(f"{where}: {what}: {str(ours)[:200]} is not {str(theirs)[:200]}")

    if isinstance(theirs, torch.Tensor):
        if ours.get("tensor") != DTYPES[theirs.dtype] or ours["shape"] != list(theirs.shape):
            wrong("type or shape")
        if data[ours["begin"]:ours["begin"] + ours["bytes"]] != bits(theirs):
            wrong("elements")
        if ours["parameter"] != isinstance(theirs, torch.nn.Parameter) or ours["grad"] != theirs.requires_grad:
            wrong("parameter or gradient")
    elif theirs is None or isinstance(theirs, bool):
        if ours is not theirs:
            wrong("value")
    elif isinstance(theirs, enum.Enum):
        if ours["args"] != [{"int": theirs.value}]:
            wrong("member")
    elif isinstance(theirs, int):
        if ours.get("int", ours.get("bigint")) != (theirs if "int" in ours else float(theirs)):
            wrong("number")
    elif isinstance(theirs, float):
        if struct.pack("<Q", int(ours["float"])) != struct.pack("<d", theirs):
            wrong("number")
    elif isinstance(theirs, str):
        if ours["str"] != theirs:
            wrong("text")
    elif isinstance(theirs, (bytes, bytearray)):
        if bytes.fromhex(ours["bytes"]) != theirs:
            wrong("bytes")
    elif isinstance(theirs, torch.dtype):
        if ours["global"] != str(theirs):
            wrong("dtype")
    elif isinstance(theirs, dict):
        if len(ours["dict"]) != len(theirs):
            wrong("length")
        for (our_key, our_value), (key, value) in zip(ours["dict"], theirs.items()):
            same(our_key, key, data, where)
            same(our_value, value, data, f"{where}[{key!r}]")
    elif isinstance(theirs, (set, frozenset)):
        found = {item.get("int", item.get("str")) for item in ours["set"]}
        if found != set(theirs):
            wrong("set")
    elif isinstance(theirs, (list, tuple)):
        items = ours["tuple" if isinstance(theirs, tuple) else "list"]
        if len(items) != len(theirs):
            wrong("length")
        for i, (item, their) in enumerate(zip(items, theirs)):
            same(item, their, data, f"{where}[{i}]")
    elif isinstance(theirs, torch.device):
        if ours["object"] != "torch.device":
            wrong("device")
    elif isinstance(theirs, type) or callable(theirs) and not isinstance(theirs, torch.nn.Module):
        if not ours["global"].endswith(theirs.__qualname__):
            wrong("global")
    else:
        if ours["object"] != f"{type(theirs).__module__}.{type(theirs).__qualname__}":
            wrong("class")
        attributes = dict(getattr(theirs, "__dict__", {}))
        for name in getattr(type(theirs), "__slots__", ()) + getattr(type(theirs).__mro__[1], "__slots__", ()):
            attributes[name] = getattr(theirs, name)
        if set(ours["attributes"]) != set(attributes):
            wrong("attributes")
        for name, value in attributes.items():
            same(ours["attributes"][name], value, data, f"{where}.{name}")


def zoo():
    """(name, value) pairs."""
    torch.manual_seed(5)
    base = torch.randn(40, 50)
    every = {}
    for dtype in DTYPES:
        raw = torch.randint(0, 256, (6, 40), dtype=torch.uint8)
        every[str(dtype)] = (raw % 2).bool() if dtype == torch.bool else raw.view(dtype)
    yield "every dtype", every
    yield "state dict", Tiny().state_dict()
    yield "module", Tiny()
    yield "wrapped", {"model": Tiny(), "config": Plain(), "epoch": 3, "state_dict": Tiny().state_dict(), "lr": 1e-3}
    yield "one tensor", base
    yield "scalar", torch.tensor(2.5)
    yield "empty", {"a": torch.empty(0), "b": torch.empty(3, 0, 2), "c": base[5:5], "d": base[40:, 3:]}
    yield "views", {"row": base[3], "column": base[:, 7], "block": base[2:30:3, 5:45:4],
                    "turned": base.t(), "tail": base.reshape(-1)[1999:]}
    yield "deep views", {"p": torch.randn(2, 3, 4, 5, 6).permute(4, 0, 2, 1, 3)[::2, :, 1:], "f": base.view(4, 10, 5, 10).transpose(1, 2)}
    yield "ones", torch.randn(1, 5, 1, 3, 1)[:, ::2].transpose(0, 3)
    yield "expanded", {"all": torch.tensor([1.5]).expand(300, 7), "rows": base[0].expand(9, 50), "columns": base[:, :1].expand(40, 6)}
    yield "overlapping", torch.arange(20).as_strided((5, 4, 3), (2, 1, 3), 1)
    yield "odd strides", torch.arange(4000, dtype=torch.float64).as_strided((7, 11, 5), (3, 101, 500), 13)
    yield "large and turned", torch.randn(700, 900).t()
    yield "shared", {"a": base, "b": base, "c": base[1:], "twice": [base, base]}
    yield "parameters", [torch.nn.Parameter(base), torch.nn.Parameter(torch.arange(4), requires_grad=False),
                         torch.randn(3, requires_grad=True)]
    yield "buffer", torch.nn.Buffer(torch.randn(4))
    yield "containers", {"set": {1, 2, 3}, "none": set(), "frozen": frozenset([4, 5]),
                         "tuple": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "list": [[], [1], list(range(2500))]}
    yield "bytes", {"empty": b"", "short": b"\x00\xff", "long": bytes(range(256)) * 300, "array": bytearray(b"ab\xe9"), "none": bytearray()}
    yield "texts", {"": "", "ü": "日本語 🙂", "long": "x" * 70000, "\n": "a\nb\0c"}
    yield "numbers", [0, -1, 255, 256, 65535, 65536, -65536, 2**31 - 1, 2**31, -2**31, -2**31 - 1,
                      2**63 - 1, -2**63, 2**63, 10**30, -(2**90), 1.5, -0.0, 1e300]
    yield "keys", {1: "a", (2, "b"): "c", None: 1, True: 2, 3.5: 3, b"k": 4}
    yield "ordered", collections.OrderedDict(a=1, b=torch.ones(2), c=collections.OrderedDict())
    yield "torch things", {"size": torch.Size([2, 3]), "dtype": torch.bfloat16, "device": torch.device("cpu"), "none": torch.Size([])}
    yield "objects", {"plain": Plain(), "slots": Slotted(), "child": SlottedChild(), "enum": Colour.RED,
                      "class": Plain, "function": torch.nn.functional.relu}
    yield "many", {f"layer.{i}.weight": torch.full((3,), float(i)) for i in range(1200)}
    yield "nested", nest(40)
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return
    config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=50)
    yield "a model of transformers", {"model": LlamaForCausalLM(config), "config": config}


def nest(depth):
    value = torch.arange(3)
    for i in range(depth):
        value = {"down": value} if i % 2 else [value]
    return value


def big_endian(data):
    """A file of torch.save as a big-endian machine writes it: every storage swapped, and the record that says so."""
    source = zipfile.ZipFile(io.BytesIO(data))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            if info.filename.endswith("/byteorder"):
                content = b"big"
            elif "/data/" in info.filename:
                content = b"".join(content[i:i + 4][::-1] for i in range(0, len(content), 4))
            target.writestr(info.filename, content)
    return out.getvalue()


def saved(value, **options):
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def legacy_fits(name):
    return name != "every dtype"  # torch cannot load its own legacy files of types without a storage class


def cases():
    for name, value in zoo():
        for protocol in (2, 3, 4, 5):
            yield f"{name}, zip, protocol {protocol}", saved(value, pickle_protocol=protocol), value
            if legacy_fits(name):
                legacy = saved(value, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
                yield f"{name}, legacy, protocol {protocol}", legacy, value
    values = {"a": torch.randn(5, 6), "b": torch.arange(9, dtype=torch.int32)[::2], "c": torch.randn(7, 3).t()}
    yield "big-endian", big_endian(saved(values)), values
    torch.serialization.set_crc32_options(False)
    unchecked = saved(values)
    torch.serialization.set_crc32_options(True)
    yield "without checksums", unchecked, values
    plain = {"words": ["a", b"\x01"], "numbers": (1, 2.5, 2**70), "set": {7}}
    for protocol in (2, 3, 4, 5):
        yield f"bare pickle, protocol {protocol}", pickle.dumps(plain, protocol), plain
    yield "bare pickle, one large text", pickle.dumps(["x" * 200000, b"y" * 200000] * 2, 4), ["x" * 200000, b"y" * 200000] * 2
    by_python = io.BytesIO()
    with zipfile.ZipFile(by_python, "w", zipfile.ZIP_STORED) as target:
        source = zipfile.ZipFile(io.BytesIO(saved(values)))
        for info in source.infolist():
            with target.open(info.filename, "w", force_zip64=True) as out:
                out.write(source.read(info))
    yield "packed again with zip64 fields", by_python.getvalue(), values


def refusals():
    """(name, bytes, a part of the message)."""
    yield "complex", saved(torch.zeros(3, dtype=torch.complex64)), "complex64"
    yield "sparse", saved(torch.eye(3).to_sparse()), "sparse"
    yield "sparse rows", saved(torch.eye(3).to_sparse_csr()), "sparse"
    yield "quantized", saved(torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)), "quantized"
    yield "meta", saved(torch.empty(3, device="meta")), "meta"
    yield "conjugated", saved(torch.zeros(3, dtype=torch.complex64).conj()), "complex64"
    yield "negated", saved(torch._neg_view(torch.randn(3))), "neg"
    yield "pickled alone", pickle.dumps(torch.randn(3)), "torch.save"
    yield "expanded enormously", saved(torch.zeros(1).expand(1 << 20, 1 << 20)), "unfolded"
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    yield "TorchScript", script.getvalue(), "TorchScript"
    deflated = io.BytesIO()
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as target:
        source = zipfile.ZipFile(io.BytesIO(saved(torch.randn(100))))
        for info in source.infolist():
            target.writestr(info.filename, source.read(info), zipfile.ZIP_DEFLATED)
    yield "deflated", deflated.getvalue(), "compressed"
    whole = saved(torch.arange(1000))
    at = whole.index(struct.pack("<q", 777))
    yield "a flipped bit", whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:], "checksum"
    yield "text protocol", pickle.dumps({"a": 1}, 0), "protocol"
    yield "protocol 1", pickle.dumps({"a": 1}, 1), "protocol"
    for length in (1, 50, 200, len(whole) // 2, len(whole) - 1):
        yield f"cut at {length}", whole[:length], ""


def dump(probe, folder, path):
    out, data = folder / "out.json", folder / "out.bin"
    done = subprocess.run([probe, "dump", path, out, data], capture_output=True, text=True)
    if done.returncode != 0:
        return None, None, done.stderr.strip()
    return json.loads(out.read_text()), data.read_bytes(), ""


def main():
    probe, files = sys.argv[1], sys.argv[2:]
    failed, count = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "file.pt"
        for title, content, value in cases():
            path.write_bytes(content)
            ours, data, message = dump(probe, folder, path)
            count += 1
            try:
                if ours is None:
                    raise AssertionError(f"refused: {message}")
                same(ours, value, data, "")
            except (AssertionError, KeyError, TypeError, AttributeError) as error:
                failed.append(f"{title}: {error!r}")
        refused = 0
        for title, content, part in refusals():
            path.write_bytes(content)
            ours, _, message = dump(probe, folder, path)
            refused += 1
            if ours is not None or part not in message or "file.pt" not in message:
                failed.append(f"{title}: {'accepted' if ours is not None else message}")
        for file in files:
            value = torch.load(file, weights_only=False)
            ours, data, message = dump(probe, folder, file)
            count += 1
            try:
                if ours is None:
                    raise AssertionError(f"refused: {message}")
                same(ours, value, data, file)
            except AssertionError as error:
                failed.append(str(error))
    print(f"{count} files equal, {refused} refused, {len(failed)} wrong")
    for line in failed[:20]:
        print(line)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
