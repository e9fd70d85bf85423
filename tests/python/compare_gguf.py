"""Our GGUF decoder against the gguf package: every type on random blocks, and any files named.

    compare_gguf.py FORMAT_PROBE [FILE.gguf ...]

Values must be equal bit by bit. Exit 77 (skipped) where the packages are missing.
"""
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    import gguf
    import numpy as np
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

Type = gguf.GGMLQuantizationType
# Where the 16-bit scales and minima lie in a block: those must be finite.
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0], Type.IQ4_XS: [0],
}


def random_rows(random, kind, rows, blocks):
    """Random bytes of `rows` rows, with scales of every exponent but the one of infinity and NaN."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    data = random.integers(0, 256, (rows * blocks, size), dtype=np.uint8)
    for place in SCALES[kind]:
        infinite = (data[:, place + 1] & 0x7C) == 0x7C
        data[infinite, place + 1] &= 0xFB
    return data.reshape(rows, blocks * size)


def write_zoo(path):
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, "zoo")
    for kind in SCALES:
        writer.add_tensor(f"random.{kind.name}", random_rows(random, kind, 37, 5), raw_dtype=kind)
    # Every 16-bit code, NaN included.
    codes = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    writer.add_tensor("all.F16", codes.view(np.float16), raw_dtype=Type.F16)
    writer.add_tensor("all.BF16", codes.view(np.uint8), raw_dtype=Type.BF16)
    writer.add_tensor("random.F32", random.integers(0, 2**32, (64, 64), dtype=np.uint32).view(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def compare(probe, path, folder):
    out = folder / "decoded"
    start = time.monotonic()
    subprocess.run([probe, "decode", path, out], check=True)
    seconds = time.monotonic() - start
    decoded = np.fromfile(out, dtype=np.float32)
    at = 0
    wrong = []
    kinds = {}
    tensors = sorted(gguf.GGUFReader(path).tensors, key=lambda tensor: tensor.name.encode())
    for tensor in tensors:
        wanted = np.ascontiguousarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32).ravel()
        got = decoded[at:at + wanted.size]
        at += wanted.size
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
        same = got.size == wanted.size
        if same:
            nan = np.isnan(wanted)  # a NaN must stay NaN; which one, the packages do not promise
            same = np.array_equal(np.isnan(got), nan) and np.array_equal(got.view(np.uint32)[~nan], wanted.view(np.uint32)[~nan])
        if not same:
            wrong.append(tensor.name)
    if at != decoded.size:
        wrong.append(f"{decoded.size} values where {at} were expected")
    print(f"{path}: {len(tensors)} tensors {kinds}, {at} values decoded in {seconds:.2f} s, {len(wrong)} differ {wrong[:5]}")
    return not wrong


def main():
    probe, *files = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_zoo(folder / "zoo.gguf")
        good = [compare(probe, path, folder) for path in [folder / "zoo.gguf", *files]]
    sys.exit(0 if all(good) else 1)


main()
