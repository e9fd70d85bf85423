#!/usr/bin/env python3
"""The anonymous memory of evaluations against what they may hold.

    bench/eval_memory.py --model MODEL --text TEXT [--dtype bfloat16] [--seqlen 1024] [--bin build/release/tools] [--bench build/release/bench]

Runs run-eval with one window, with 64 (all in flight), with 16 of four texts and with four models, and prints for each the peak
anonymous memory above the idle process, and 1.2 times what walk_memory says that this takes: two layers, embedding and head
where they are decoded, activations, a block of losses for each thread. Texts and models are the same file again: to the walk they
are others. A file that does not decode what it holds (a container with bfloat16 or packed weights) shows the walk alone.
"""
import argparse, json, os, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--text", required=True)
parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
parser.add_argument("--seqlen", type=int, default=1024)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--bin", default=os.path.join(HERE, "../build/release/tools"))
parser.add_argument("--bench", default=os.path.join(HERE, "../build/release/bench"))
a = parser.parse_args()


def bound(windows):
    command = [os.path.join(a.bench, "walk_memory"), a.model, a.dtype, str(a.seqlen), str(windows), str(a.threads)]
    return {key: int(value) for key, value in (line.split() for line in subprocess.check_output(command, text=True).splitlines())}


def measured(models, texts, windows):
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.json")
        datasets = ",".join(f"text{i}={a.text}" for i in range(texts))
        subprocess.run([os.path.join(a.bin, "run-eval"), *(f"model{i}={a.model}" for i in range(models)), "--metrics", "ppl,memory", "--dtype", a.dtype, "--dataset", datasets,
                        "--seqlen", str(a.seqlen), "--windows", str(windows), "--threads", str(a.threads), "--no-cache", "--quiet", "--output", report],
                       check=True, stdout=subprocess.DEVNULL)
        figures = [model["memory"] for model in json.load(open(report))["models"]]
    return [figure["peak_anonymous_bytes"] - figures[0]["idle_anonymous_bytes"] for figure in figures]


print(f"{'run':28} {'above idle, MB':>15} {'bound, MB':>10} {'1.2 x, MB':>10}   of it: layers, loading, decoded, activations, work")
failed = False
for name, models, texts, windows in (("1 window", 1, 1, 1), ("64 windows", 1, 1, 64), ("16 windows", 1, 1, 16), ("16 windows of 4 texts", 1, 4, 16), ("16 windows of 4 models", 4, 1, 16)):
    parts = bound(windows * texts)  # windows of all texts go through a layer together
    peaks = measured(models, texts, windows)
    total = parts.pop("sum")
    failed |= max(peaks) > 1.2 * total
    print(f"{name:28} {'; '.join(f'{peak / 1e6:.0f}' for peak in peaks):>15} {total / 1e6:10.0f} {1.2 * total / 1e6:10.0f}   " + ", ".join(f"{value / 1e6:.0f}" for value in parts.values()),
          flush=True)
sys.exit(1 if failed else 0)
