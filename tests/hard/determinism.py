"""The same bytes at any number of threads: convert, compress and evaluate a model again and again.

    determinism.py --tools FOLDER --model FOLDER --text FILE [--threads 1,2,3,4,8] [--runs 3] [--methods sparsegpt,mi,…] [--size N]
                   [--memory 120MB,200MB,1GB]

Every container must have one SHA-256 over all numbers of threads and runs, and every loss the same bits over threads and over the
number of windows in flight, which --memory caps. --size is the number of calibration windows (default 8).
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = {
    "sparsegpt": ["--method", "sparsegpt", "--sparsity", "0.5", "--wbits", "4"],
    "wanda": ["--method", "wanda", "--prune-n", "2", "--prune-m", "4"],
    "enhanced": ["--method", "enhanced", "--target-avg-bits", "4"],
    "mi": ["--method", "mi", "--target-avg-bits", "4", "--sparsity", "0.4"],
    "mixed": ["--method", "mixed", "--target-avg-bits", "3"],
    "slicegpt": ["--method", "slicegpt", "--sparsity", "0.25"],
    "structured": ["--method", "structured", "--sparsity", "0.2"],
}


def run(arguments, folder):
    done = subprocess.run([str(item) for item in arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        sys.exit(f"{' '.join(map(str, arguments))}: exit code {done.returncode}: {done.stderr}")
    return done


def compare(name, make, arguments):
    """Makes the output with every number of threads, several times; what it was is kept by digest."""
    found = {}
    for threads in arguments.threads:
        for number in range(arguments.runs):
            found.setdefault(hashlib.sha256(make(threads)).hexdigest(), []).append(f"{threads}/{number + 1}")
    print(f"{name:24} {sum(map(len, found.values())):3} runs, {len(found)} different outputs" + ("" if len(found) == 1 else f": {found}"), flush=True)
    return len(found) != 1


def main():
    parser = argparse.ArgumentParser()
    for option in ("--tools", "--model", "--text"):
        parser.add_argument(option, required=True, type=os.path.abspath)
    parser.add_argument("--threads", default="1,2,3,4,8", type=lambda text: [int(item) for item in text.split(",")])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--memory", default="120MB,200MB,1GB")
    arguments = parser.parse_args()
    if not Path(arguments.model).exists():
        print("skipped: there is no", arguments.model)
        return 77
    start, wrong = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="determinism") as name:
        folder = Path(name)

        def convert(threads):
            run([f"{arguments.tools}/convert-checkpoint", arguments.model, "-o", "dense.miq", "--threads", threads], folder)
            return (folder / "dense.miq").read_bytes()

        def compress(options):
            def make(threads):
                run([f"{arguments.tools}/miq-compress", "dense.miq", arguments.text, "-o", "out.miq", "--documents", "whole", "--sampling", "in-order",
                     "--nsamples", arguments.size, "--seqlen", 64, "--threads", threads, *options], folder)  # fmt: skip
                return (folder / "out.miq").read_bytes()

            return make

        def losses(threads, *more):
            run([f"{arguments.tools}/run-eval", "dense.miq", "--dataset", f"text={arguments.text}", "--seqlen", 64, "--windows", 24, "--metrics", "ppl",
                 "--no-cache", "--losses", "losses.jsonl", "--output", "report.json", "--threads", threads, *more], folder)  # fmt: skip
            return (folder / "losses.jsonl").read_bytes()

        wrong += compare("convert", convert, arguments)
        for method in arguments.methods.split(","):
            wrong += compare(f"compress {method}", compress(METHODS[method]), arguments)
        wrong += compare("losses", losses, arguments)
        wrong += compare("losses, bfloat16", lambda threads: losses(threads, "--dtype", "bfloat16"), arguments)
        flights = {hashlib.sha256(losses(2, *more)).hexdigest() for more in ([], *(["--memory", size] for size in arguments.memory.split(",")))}
        print(f"losses, windows in flight: {len(flights)} different outputs")
        wrong += len(flights) != 1
    print(f"{wrong} wrong; {time.monotonic() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
