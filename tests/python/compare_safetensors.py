"""Our safetensors reader against the safetensors package, on files with damaged headers.

    compare_safetensors.py FORMAT_PROBE [COUNT]

Nothing that the package refuses may be accepted. What we refuse beyond it must be refused for a reason of
the list below (formats/safetensors.h). Exit 77 (skipped) where the package is missing.
"""
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    from safetensors import deserialize
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

STRICTER = [
    "appears twice",                # duplicate names: the package keeps the last
    "unknown field",                # the package ignores it
    "described by an array",        # the package takes ["F32", [2], [0, 8]] for an object
    "element type",                 # F4, F6, F8_E8M0, C64, ...
    "a dimension of ",              # beyond 63 bits
    "shape too large",              # beside a zero dimension
    "nested deeper",                # inside an unknown field
    "has a wrong form",
]

BASE = [
    '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    '{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}',
    '{"e":{"dtype":"I64","shape":[0,3],"data_offsets":[0,0]},"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}  ',
]
TOKENS = ['{', '}', '[', ']', ',', ':', '"', '0', '1', '2', '4', '8', '-', '.', 'e', ' ', '\n', '\\', 'null', 'true', '[]', '{}', '"a"', '"dtype"',
          '"shape"', '"data_offsets"', '"__metadata__"', '"F32"', '"F16"', '"U8"', '"F4"', '"C64"', '"BOOL"', '0,', '18446744073709551615',
          '9223372036854775808', '4294967296', '"x":1,', '"x":{"y":[1]},', '\\u0061', '\u00e9', '\ud83d\ude00']


SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
         "F16": 2, "BF16": 2, "F32": 4, "F64": 8}


def compose(draw):
    """A well-formed header, mostly right: the tensors tile the data, but for one wrong number now and then."""
    begin, entries = 0, []
    for i in range(draw.randint(0, 5)):
        dtype = draw.choice(list(SIZES))
        shape = [draw.choice([0, 1, 1, 2, 3]) for _ in range(draw.randint(0, 3))]
        if draw.randint(0, 15) == 0:
            shape.append(draw.choice([2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1]))
        size = SIZES[dtype]
        for dimension in shape:
            size *= dimension
        size = size if size < 1000 else draw.choice([0, 8])
        numbers = [begin, begin + size]
        begin += size
        if draw.randint(0, 15) == 0:
            numbers[draw.randint(0, 1)] += draw.choice([-1, 1, 8, 2**32, 2**63])
        fields = [f'"dtype":"{dtype}"', f'"shape":{shape}', f'"data_offsets":{numbers}']
        draw.shuffle(fields)
        name = draw.choice([f"t{i}", f"t{i}", f"t{i}", "t0", "", "\\u0074" + str(i)])
        entries.append(f'"{name}":{{{",".join(fields)}}}')
    if draw.randint(0, 3) == 0:
        entries.append('"__metadata__":' + draw.choice(['{}', '{"k":"v"}', 'null', '{"k":"v","k":"w"}', '{"k":1}']))
    draw.shuffle(entries)
    space = draw.choice(["", "", " ", "\n\t "])
    text = (space + "{" + ",".join(entries) + "}" + space).encode()
    return struct.pack("<Q", len(text)) + text + bytes(begin + (draw.choice([-1, 1]) if draw.randint(0, 15) == 0 and begin else 0))


def mutate(draw):
    if draw.randint(0, 1):
        return compose(draw)
    header = draw.choice(BASE)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        at = draw.randint(0, len(header))
        how = draw.randint(0, 4)
        length = draw.choice([0, 1, 1, 2, 5, 12])
        if how == 0:
            header = header[:at] + draw.choice(TOKENS) + header[at:]
        elif how == 1:
            header = header[:at] + draw.choice(TOKENS) + header[at + length:]
        elif how == 2:
            header = header[:at] + header[at + length:]
        elif how == 3:
            start = draw.randint(0, len(header))
            header = header[:at] + header[start:start + draw.choice([1, 4, 20, 60])] + header[at:]
        else:
            header = header[:at] + chr(draw.randint(0, 255)) + header[at + 1:]
    encoded = header.encode("utf-8", "surrogatepass") if draw.randint(0, 9) else header.encode("latin-1", "replace")
    length = len(encoded) + (draw.choice([-1, 1, 8, 2**32, 2**63]) if draw.randint(0, 19) == 0 else 0)
    data = bytes(draw.choice([8, 8, 8, 8, 8, 8, 8, 8, 0, 4, 7, 9, 16]))
    return struct.pack("<Q", max(length, 0)) + encoded + data


def main():
    probe = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 50000
    draw = random.Random(3)
    files = [mutate(draw) for _ in range(count)]
    with tempfile.TemporaryDirectory() as name:
        batch, out = Path(name) / "batch", Path(name) / "out"
        batch.write_bytes(b"".join(struct.pack("<Q", len(data)) + data for data in files))
        subprocess.run([probe, "judge", "safetensors", batch, out], check=True)
        verdicts = out.read_text(encoding="latin-1").split("\n")[:-1]
    if len(verdicts) != len(files):
        sys.exit(f"{len(verdicts)} verdicts for {len(files)} files")
    both, neither, stricter, wrong = 0, 0, {}, []
    for data, verdict in zip(files, verdicts):
        try:
            deserialize(data)
            accepted = True
        except Exception:
            accepted = False
        if accepted and verdict == "ok":
            both += 1
        elif not accepted and verdict != "ok":
            neither += 1
        elif accepted:
            reason = next((reason for reason in STRICTER if reason in verdict), None)
            stricter[reason] = stricter.get(reason, 0) + 1
            if reason is None:
                wrong.append((data, verdict))
        else:
            wrong.append((data, "accepted, the package refuses it"))
    print(f"{count} files: both accept {both}, both refuse {neither}, only we refuse {stricter}, {len(wrong)} wrong")
    for data, verdict in wrong[:10]:
        print(data, verdict)
    sys.exit(1 if wrong else 0)


main()
