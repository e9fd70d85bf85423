"""The benign zoo: odd but right checkpoints. Each must load, equal to what the official packages read, byte by byte.

    benign.py --server zoo_commands --torch-probe torch_probe [--only WORD]

safetensors files against the package safetensors, GGUF files against gguf-py (metadata too), PyTorch files against
torch.load of the same bytes, folders through convert-checkpoint against what the packages read of their parts. Exit
code 77 (skipped) where a package is missing.
"""

import argparse
import io
import json
import math
import os
import pickle
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))
try:
    import gguf
    import numpy as np
    import torch
    from safetensors import deserialize

    import benign_files
    import benign_folders
    import benign_torch
    import compare_torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import runner
from zoo import Link


class Different(Exception):
    """What we read is not what the package reads."""


def expect(condition, words):
    if not condition:
        raise Different(words)


class Checker:
    def __init__(self, arguments, folder):
        self.folder, self.probe = folder, arguments.torch_probe
        self.server = runner.Server(arguments.server)

    def run(self, command, *arguments):
        outcome = self.server.run(command, arguments, self.folder)
        expect(outcome.code == 0, f"{command}: exit code {outcome.code}: {outcome.err.strip()[:400]}")
        return outcome.out

    def dump(self, name):
        """(metadata, {name: (type, shape, bytes)}) as our reader has it."""
        table = json.loads(self.run("dump-tensors", name, "data"))
        data = (self.folder / "data").read_bytes()
        return table["metadata"], {
            bytes.fromhex(key).decode("utf-8", "surrogatepass"): (kind, shape, data[begin : begin + size])
            for key, kind, shape, begin, size in table["tensors"]
        }

    def safetensors(self, content):
        (self.folder / "file.safetensors").write_bytes(content)
        metadata, ours = self.dump("file.safetensors")
        theirs = {name: (info["dtype"], list(info["shape"]), bytes(info["data"])) for name, info in deserialize(content)}
        expect(ours == theirs, f"{ours.keys() ^ theirs.keys() or [name for name in ours if ours[name] != theirs[name]]} differ")
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        expect(metadata == (header.get("__metadata__") or {}), "the metadata differ")

    def gguf(self, content):
        path = self.folder / "file.gguf"
        path.write_bytes(content)
        metadata, ours = self.dump("file.gguf")
        reader = gguf.GGUFReader(path)
        theirs = {
            tensor.name: (tensor.tensor_type.name, [int(size) for size in reversed(tensor.shape)], tensor.data.tobytes())
            for tensor in reader.tensors
        }
        expect(ours == theirs, f"{ours.keys() ^ theirs.keys() or [name for name in ours if ours[name] != theirs[name]]} differ")
        wanted = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        expect(metadata.keys() == wanted.keys(), f"metadata: {metadata.keys() ^ wanted.keys()}")
        for name, value in wanted.items():
            expect(same_value(metadata[name], value), f"metadata '{name[:50]}': {str(metadata[name])[:100]} is not {str(value)[:100]}")

    def torch(self, content):
        path = self.folder / "file.pt"
        path.write_bytes(content)
        pickled = content[:2] != b"PK" and b"\x8a\x0a\x6c\xfc" not in content[:20]
        value = pickle.loads(content) if pickled else torch.load(io.BytesIO(content), weights_only=False)
        ours, data, message = compare_torch.dump(self.probe, self.folder, path)
        expect(ours is not None, f"refused: {message}")
        try:
            compare_torch.same(ours, value, data, "")
        except (AssertionError, KeyError, TypeError, AttributeError) as error:
            raise Different(repr(error)) from error

    def checkpoint(self, name, files, wanted):
        """Converted to a container, and that read by the package."""
        folder = self.folder / name
        for file, content in files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Link):
                path.symlink_to(content)
            else:
                path.write_bytes(content)
        source = name if "config.json" in files else f"{name}/{next(iter(files))}"
        self.run("inspect-checkpoint", source)
        self.run("convert-checkpoint", source, "-o", "out.miq", "--encode", "dense")
        stored = {
            name: (info["dtype"], list(info["shape"]), bytes(info["data"]))
            for name, info in deserialize((self.folder / "out.miq").read_bytes())
        }
        ours = {name: value for name, value in stored.items() if not name.startswith("miq/")}
        for tensor in wanted:
            kind, shape, content = ours.get(tensor, (None, None, b""))
            expect((kind, shape) == tuple(wanted[tensor][:2]), f"{tensor} is {kind} {shape}, not {wanted[tensor][:2]}")
            expect(content[: len(wanted[tensor][2])] == wanted[tensor][2], f"{tensor}: other bytes")
        expect(ours.keys() == wanted.keys(), f"{ours.keys() ^ wanted.keys()} too many or too few")


def same_value(ours, theirs):
    if isinstance(theirs, (list, np.ndarray)):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(same_value(a, b) for a, b in zip(ours, theirs))
    if isinstance(ours, dict):  # a text in hexadecimal, or a number that is not finite
        if "text" in ours:
            return bytes.fromhex(ours["text"]).decode() == theirs
        return math.isnan(theirs) if ours["number"] == "nan" else float(ours["number"]) == theirs
    return ours == theirs and (not isinstance(ours, float) or math.copysign(1, ours) == math.copysign(1, theirs))


def main():
    parser = argparse.ArgumentParser()
    for option in ("--server", "--torch-probe"):
        parser.add_argument(option)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    arguments.server, arguments.torch_probe = os.path.abspath(arguments.server), os.path.abspath(arguments.torch_probe)
    start, counts, wrong = time.monotonic(), {}, []
    with tempfile.TemporaryDirectory(prefix="zoo") as name:
        checker = Checker(arguments, Path(name).resolve())
        makers = {
            "safetensors": benign_files.safetensors_files,
            "gguf": benign_files.gguf_files,
            "torch": benign_torch.files,
            "checkpoint": benign_folders.folders,
        }
        for kind, maker in makers.items():
            for title, *content in maker():
                title = f"{kind}_{title}"
                if arguments.only not in title:
                    continue
                counts[kind] = counts.get(kind, 0) + 1
                try:
                    getattr(checker, kind)(*([title] if kind == "checkpoint" else []), *content)
                except Different as error:
                    wrong.append(f"{title}: {error}")
        checker.server.close()
    for line in wrong:
        print(line)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(f"{sum(counts.values())} files ({kinds}): {len(wrong)} wrong; {time.monotonic() - start:.1f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
