"""Protocol gptq against a plain loop over transformers, in float32.

    compare_perplexity.py --run-eval RUN_EVAL --convert CONVERT_CHECKPOINT --data DATA --gguf=MODEL.gguf [--windows N] [--seqlen N] [--keep FILE]

WikiText-2 and PTB of DATA are prepared here as SparseGPT's datautils.py does (from the rows that Hugging Face datasets has), tokenised
by transformers' tokenizer of the exported folder, cut into windows of --seqlen, and the mean of the windows' mean losses is taken.
run-eval measures the GGUF file itself. Every window and the perplexity must agree within 1e-4 relative. --windows 0: all of them.
--keep stores the loop's losses as they come, and goes on from there: the full texts take an hour on two cores.
Exit 77 (skipped) where packages, model or data are missing.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

parser = argparse.ArgumentParser()
for name in ("--run-eval", "--convert", "--data", "--gguf"):
    parser.add_argument(name, required=True)
parser.add_argument("--windows", type=int, default=2)
parser.add_argument("--seqlen", type=int, default=2048)
parser.add_argument("--texts", default="wikitext2,ptb")
parser.add_argument("--keep")
arguments = parser.parse_args()
data = Path(arguments.data)
if not arguments.gguf or not Path(arguments.gguf).is_file() or not (data / "wikitext2/wiki.test.raw").is_file():
    print("skipped: no model or no texts")
    sys.exit(77)


def wikitext2():
    rows = [line if line.strip() else "" for line in open(data / "wikitext2/wiki.test.raw", encoding="utf-8")]
    return "\n\n".join(rows)


def ptb():
    return " ".join(line.strip() for line in open(data / "ptb/ptb.test.txt", encoding="utf-8"))


def kept():
    found = {}
    if arguments.keep and os.path.exists(arguments.keep):
        for line in open(arguments.keep):
            row = json.loads(line)
            found[row["text"], row["window"]] = row["nll"]
    return found


def loop(model, tokenizer, name):
    """Mean loss of each window."""
    ids = tokenizer({"wikitext2": wikitext2, "ptb": ptb}[name](), return_tensors="pt").input_ids
    count = ids.shape[1] // arguments.seqlen
    if arguments.windows:
        count = min(count, arguments.windows)
    known, losses = kept(), []
    for window in range(count):
        if (name, window) not in known:
            part = ids[:, window * arguments.seqlen:(window + 1) * arguments.seqlen]
            with torch.no_grad():
                logits = model(part).logits
            nll = torch.nn.functional.cross_entropy(logits[0, :-1], part[0, 1:]).item()
            known[name, window] = nll
            if arguments.keep:
                with open(arguments.keep, "a") as out:
                    out.write(json.dumps({"text": name, "window": window, "nll": nll}) + "\n")
        losses.append(known[name, window])
    return losses


failed = False
with tempfile.TemporaryDirectory() as scratch:
    folder, report = Path(scratch, "hf"), Path(scratch, "report.json")
    subprocess.run([arguments.convert, arguments.gguf, "-o", str(folder), "--to", "hf", "--quiet"], check=True)
    names = arguments.texts.split(",")
    command = [arguments.run_eval, arguments.gguf, "--metrics", "ppl", "--data-dir", str(data), "--dataset", ",".join(names), "--seqlen", str(arguments.seqlen),
               "--dtype", "float32", "--no-cache", "--output", str(report), "--quiet"]
    if arguments.windows:
        command += ["--windows", str(arguments.windows)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = {name: loop(model, tokenizer, name) for name in names}
    del model
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.load(open(report))["models"][0]["perplexity"]
    for name in names:
        theirs, ours = expected[name], found[name]["window_nll"]
        if len(theirs) != len(ours):
            print(f"{name}: {len(ours)} windows, transformers' tokens make {len(theirs)}")
            failed = True
            continue
        perplexity = math.exp(sum(theirs) / len(theirs))
        apart = found[name]["value"] / perplexity - 1
        worst = max(abs(a / b - 1) for a, b in zip(ours, theirs))
        print(f"{name}: {len(ours)} windows of {arguments.seqlen}, ours {found[name]['value']:.6f}, transformers {perplexity:.6f} ({apart:+.1e}); worst window {worst:.1e}")
        failed |= not abs(apart) < 1e-4 or not worst < 1e-4
sys.exit(1 if failed else 0)
