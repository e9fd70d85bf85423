#!/usr/bin/env python3
"""Times convert-checkpoint --encode dense against cp and xxhsum of the same file, alternately, on one disk.

    bench/convert_speed.py [--tools build/release/tools] [--folder /tmp] [--gib 1 6] [--rounds 5] [--cold]

For each size a synthetic Llama in bfloat16 (random weights, safetensors in one file) is made in a temporary
folder and removed afterwards. Both sides count what brings the bytes to the disk: `cp` is followed by `sync` of
the copy, the command syncs by itself, reads the container back and verifies it. --cold drops the source from the
page cache before each run (posix_fadvise); without it the source is read from memory where it fits. Medians.
Anonymous memory is the largest RssAnon of /proc/PID/status while the command runs, against that of
converting a model of 1 MiB: mapped files are not in it.
"""
import argparse, json, os, statistics, struct, subprocess, sys, tempfile, threading, time
from pathlib import Path

import numpy

HIDDEN, WIDTH, VOCABULARY = 2048, 5632, 32000


def tensors_of(layers, hidden, width, vocabulary):
    yield "model.embed_tokens.weight", [vocabulary, hidden]
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name in ("q", "k", "v", "o"):
            yield f"{prefix}self_attn.{name}_proj.weight", [hidden, hidden]
        for name in ("gate", "up"):
            yield f"{prefix}mlp.{name}_proj.weight", [width, hidden]
        yield f"{prefix}mlp.down_proj.weight", [hidden, width]
        for name in ("input", "post_attention"):
            yield f"{prefix}{name}_layernorm.weight", [hidden]
    yield "model.norm.weight", [hidden]


def make_model(folder, layers, hidden=HIDDEN, width=WIDTH, vocabulary=VOCABULARY):
    folder.mkdir()
    config = {"model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": width, "num_hidden_layers": layers,
              "num_attention_heads": hidden // 64, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    header, offset = {}, 0
    for name, shape in tensors_of(layers, hidden, width, vocabulary):
        size = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = numpy.random.default_rng(1)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        while offset > 0:
            block = (random.standard_normal(min(offset, 64 << 20) // 2, dtype=numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes()
            file.write(block)
            offset -= len(block)
        file.flush()
        os.fsync(file.fileno())
    return folder / "model.safetensors"


def drop(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def copy_and_hash(source, target):
    started = time.perf_counter()
    subprocess.run(["cp", source, target], check=True)
    subprocess.run(["sync", target], check=True)
    subprocess.run(["xxhsum", "-H2", source], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def convert(tools, folder, target):
    """Seconds, and the largest RssAnon in bytes."""
    largest, started = 0, time.perf_counter()
    process = subprocess.Popen([tools / "convert-checkpoint", folder, "-o", target, "--encode", "dense", "--quiet"], stdout=subprocess.DEVNULL)
    done = threading.Event()

    def watch():
        nonlocal largest
        while not done.wait(0.01):
            try:
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                    if line.startswith("RssAnon"):
                        largest = max(largest, int(line.split()[1]) * 1024)
            except OSError:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    assert code == 0
    return seconds, largest


def measure(arguments, gib, folder):
    layers = max(1, round((gib * 2**30 - 2 * VOCABULARY * HIDDEN) / (2 * (4 * HIDDEN**2 + 3 * HIDDEN * WIDTH))))
    file = make_model(folder / "model", layers)
    make_model(folder / "small", 1, 64, 128, 1000)
    tools, times = Path(arguments.tools), {"copy": [], "convert": []}
    idle = convert(tools, folder / "small", folder / "small.miq")[1]
    memory = 0
    for _ in range(arguments.rounds):
        for what in times:
            target = folder / ("copy" if what == "copy" else "out.miq")
            target.unlink(missing_ok=True)
            os.sync()
            if arguments.cold:
                drop(file)
            if what == "copy":
                times[what].append(copy_and_hash(file, target))
            else:
                seconds, anonymous = convert(tools, folder / "model", target)
                times[what].append(seconds)
                memory = max(memory, anonymous)
            target.unlink()
    ours, theirs = statistics.median(times["convert"]), statistics.median(times["copy"])
    print(f"{file.stat().st_size / 2**30:.2f} GiB {'cold' if arguments.cold else 'warm'}: convert {ours:.2f} s, cp + sync + xxhsum {theirs:.2f} s, ratio {ours / theirs:.2f}; "
          f"anonymous memory {memory / 1e6:.0f} MB, small model {idle / 1e6:.0f} MB", flush=True)
    print("  convert", [f"{x:.2f}" for x in times["convert"]], "copy", [f"{x:.2f}" for x in times["copy"]], flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", default=Path(__file__).parent.parent / "build/release/tools")
    parser.add_argument("--folder")
    parser.add_argument("--gib", type=float, nargs="+", default=[1, 6])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    arguments = parser.parse_args()
    for gib in arguments.gib:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            measure(arguments, gib, Path(folder))


if __name__ == "__main__":
    main()
