#!/usr/bin/env python3
"""Times the evaluation of packed and sparse models against the dense one, alternately.

    bench/packed_speed.py --dense DENSE --text TEXT [--seqlen 1024] [--windows 16] [--rounds 5] [--dtype auto] [--run-eval PROGRAM] MODEL...

Each round evaluates DENSE and then every MODEL, a process each, without the cache of results. Timed is the whole process: start,
tokens, weights read and decoded layer by layer, losses. Printed: each model's time over the dense one's of the same round (median,
least and most of the rounds), and its perplexity, so that one sees that it was computed.
"""
import argparse, json, os, statistics, subprocess, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))


def evaluate(a, model):
    """Seconds of the process and the perplexity that it reported."""
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.json")
        started = time.monotonic()
        subprocess.run([a.run_eval, model, "--metrics", "ppl", "--dtype", a.dtype, "--dataset", "text=" + a.text, "--seqlen", str(a.seqlen), "--windows", str(a.windows),
                        "--threads", str(a.threads), "--no-cache", "--quiet", "--output", report], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        return seconds, json.load(open(report))["models"][0]["perplexity"]["text"]["value"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--seqlen", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--run-eval", default=os.path.join(HERE, "../build/release/tools/run-eval"))
    parser.add_argument("models", nargs="+")
    a = parser.parse_args()

    ratios, perplexity = {model: [] for model in a.models}, {}
    for _ in range(a.rounds):
        dense, perplexity[a.dense] = evaluate(a, a.dense)
        for model in a.models:
            seconds, perplexity[model] = evaluate(a, model)
            ratios[model].append(seconds / dense)
    print(f"{a.windows} windows of {a.seqlen}, {a.rounds} rounds; dense: perplexity {perplexity[a.dense]:.4f}")
    print("| model | time of dense (median) | least, most | perplexity |\n|---|---|---|---|")
    for model, values in ratios.items():
        print(f"| {os.path.basename(model)} | {statistics.median(values):.3f} | {min(values):.3f}, {max(values):.3f} | {perplexity[model]:.4f} |")


if __name__ == "__main__":
    main()
