"""Opens a container with the safetensors package and compares its tensors.

    compare_container.py FILE.miq EXPECTED.safetensors
    compare_container.py --program container_sample

Every dense tensor of FILE must be in EXPECTED under the same name with the same type, shape and bytes, and
be found by the package without any code of ours. Tensors in other encodings are decoded here from
formats/spec/miq.md alone, in plain Python (slow: small files), and compared as well. With --program, that
program makes both files first. Exit code 77 (skipped) where the package is missing.
"""

import argparse
import ctypes
import ctypes.util
import json
import math
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    from safetensors import deserialize, safe_open
except ImportError:
    print("skipped: the Python package 'safetensors' is not installed")
    sys.exit(77)

WIDTH = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4,
         "U64": 8, "I64": 8, "F64": 8}


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def as_bytes(value, dtype):
    """A float32 value in the decoded type, rounded to nearest even."""
    if dtype == "F32":
        return struct.pack("<f", value)
    if dtype == "F16":
        return struct.pack("<e", value)
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return struct.pack("<H", (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


class Stream:
    """Bits of a section, lowest first."""

    def __init__(self, data):
        self.value, self.at = int.from_bytes(data, "little"), 0

    def take(self, bits):
        value = self.value >> self.at & (1 << bits) - 1
        self.at += bits
        return value

    def to_byte(self):
        self.at = -(-self.at // 8) * 8


def decode_packed(entry, sections):
    rows, cols = entry["shape"]
    bits = list(sections["bits"])
    group_of = [0] * cols
    if len(bits) > 1:
        groups = Stream(sections["groups"])
        group_of = [groups.take(math.ceil(math.log2(len(bits)))) for _ in range(cols)]
    if "exponents" in sections:
        kind, exponents, ranges = sections["exponents"][0], sections["exponents"][1:], Stream(sections["scales"])
        scales = []
        for pair in range(len(bits) * rows):
            octave, mantissa = divmod(ranges.take(kind), 2 ** (kind - 3))
            span = (1 + mantissa / 2 ** (kind - 3)) * 2.0 ** (octave - 7 + exponents[pair % rows] - 127)
            scales.append(f32(span / (2 ** bits[pair // rows] - 1)))
    else:
        wide = len(sections["scales"]) == 4 * len(bits) * rows
        scales = struct.unpack(f"<{len(bits) * rows}{'f' if wide else 'e'}", sections["scales"])
    codes, zeros, mask = Stream(sections["codes"]), Stream(sections["zeros"]), Stream(sections.get("mask", b""))
    weights = [0.0] * (rows * cols)
    for group, width in enumerate(bits):
        for row in range(rows):
            zero = zeros.take(width)
            for column in range(cols):
                if group_of[column] == group and ("mask" not in sections or mask.take(1)):
                    weights[row * cols + column] = f32(scales[group * rows + row] * (codes.take(width) - zero))
        zeros.to_byte()
        codes.to_byte()
    return b"".join(as_bytes(weight, entry["dtype"]) for weight in weights)


def decode_bitmask(entry, sections):
    width, elements = WIDTH[entry["dtype"]], math.prod(entry["shape"])
    mask, values, out, at = Stream(sections["mask"]), sections["values"], [], 0
    for _ in range(elements):
        if mask.take(1):
            out.append(values[at:at + width])
            at += width
        else:
            out.append(bytes(width))
    return b"".join(out)


def decode_zstd(entry, sections):
    library = ctypes.util.find_library("zstd")
    if not library:
        return None
    width = WIDTH[entry["dtype"]]
    elements = math.prod(entry["shape"])
    planes = ctypes.create_string_buffer(width * elements)
    decompress = ctypes.CDLL(library).ZSTD_decompress
    decompress.restype = ctypes.c_size_t
    decompress.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    size = decompress(planes, len(planes), sections["data"], len(sections["data"]))
    assert size == len(planes), f"the frame holds {size} bytes"
    return b"".join(planes.raw[i::elements] for i in range(elements))


DECODE = {"packed": decode_packed, "bitmask": decode_bitmask, "zstd": decode_zstd}


def stored_tensors(path):
    return {name: (info["dtype"], list(info["shape"]), bytes(info["data"])) for name, info in deserialize(Path(path).read_bytes())}


def compare(container, expected):
    with safe_open(container, framework="np") as file:
        assert file.metadata()["format"] == "miq", file.metadata()
        names = set(file.keys())
    stored, wanted = stored_tensors(container), stored_tensors(expected)
    assert names == set(stored)
    json.loads(stored["miq/manifest.json"][2])
    table = json.loads(stored["miq/tensors.json"][2])
    assert set(table["tensors"]) == set(wanted), "other tensors than expected"
    counts, skipped = {}, []
    for name, entry in table["tensors"].items():
        dtype, shape, data = wanted[name]
        assert (entry["dtype"], entry["shape"]) == (dtype, shape), name
        if entry["encoding"] == "dense":
            assert stored[name] == (dtype, shape, data), f"{name}: not equal"
        else:
            sections = {key: stored[f"{name}#{key}"][2][:size] for key, size in entry["sections"].items()}
            decoded = DECODE[entry["encoding"]](entry, sections)
            if decoded is None:
                skipped.append(name)
                continue
            assert decoded == data, f"{name}: not equal after decoding"
        counts[entry["encoding"]] = counts.get(entry["encoding"], 0) + 1
    print("equal:", ", ".join(f"{count} {encoding}" for encoding, count in sorted(counts.items())))
    if skipped:
        print("not compared (the library zstd was not found):", ", ".join(skipped))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*")
    parser.add_argument("--program")
    arguments = parser.parse_args()
    if arguments.program:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([arguments.program, folder], check=True)
            compare(f"{folder}/sample.miq", f"{folder}/expected.safetensors")
    else:
        compare(*arguments.files)


if __name__ == "__main__":
    main()
