#!/usr/bin/env python3
"""Perplexity and divergence against llama-perplexity, from the same GGUF files, in one run.

    bench/llama_parity.py --llama-bin FOLDER --model MODEL.gguf --text wiki.test.raw --out FOLDER [--types Q4_0 Q8_0] [--chunks N]

FOLDER holds llama-quantize and llama-perplexity of llama.cpp (bench/llama_cpp.py says where its sources are; the target is
llama-perplexity). The model and its quants are decoded to F32 files, which both programs read: the quants' own kernels would
round activations too. llama-perplexity keeps its key-value cache in float32 (-ctk f32 -ctv f32 -fa off) for the same reason; the
reference's log-probabilities go through its file of 16-bit values, which run-eval has no need of.
"""
import argparse, json, os, re, subprocess, sys

HERE = os.path.dirname(os.path.abspath(__file__))


def run(command, log):
    if os.path.exists(log):
        return open(log).read()
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode not in (0, 3):
        sys.exit(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    open(log, "w").write(done.stdout)
    return done.stdout


def number(text, pattern):
    found = re.search(pattern + r"\s*[:=]\s*(-?[\d.]+(?:e-?\d+)?)", text)
    return float(found.group(1)) if found else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bin", required=True)
    parser.add_argument("--bin", default=os.path.join(HERE, "../build/release/tools"), help="folder of run-eval")
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--types", nargs="+", default=["Q4_0", "Q8_0"])
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    a = parser.parse_args()
    os.makedirs(a.out, exist_ok=True)
    at = lambda name: os.path.join(a.out, name)
    quantize = os.path.join(a.llama_bin, "llama-quantize")

    def decoded(kind):
        path, packed = at(f"{kind}-decoded.gguf"), at(f"{kind}.gguf")
        if not os.path.exists(path):
            source = a.model
            if kind != "F32":
                run([quantize, "--allow-requantize", at("F32-decoded.gguf"), packed, kind], at(f"{kind}.log"))
                source = packed
            run([quantize, "--allow-requantize", source, path + ".part", "F32"], at(f"{kind}-decoded.log"))
            os.replace(path + ".part", path)
        return path

    base = decoded("F32")
    peer = [os.path.join(a.llama_bin, "llama-perplexity"), "-c", "512", "-b", "512", "--chunks", a.chunks, "-t", a.threads, "-ctk", "f32", "-ctv", "f32", "-fa", "off"]
    logits = at(f"logits-{a.chunks}")
    theirs_base = run([*peer, "-m", base, "-f", a.text, "--kl-divergence-base", logits], at(f"F32-{a.chunks}.log"))
    quants = {kind: decoded(kind) for kind in a.types}
    report = at(f"ours-{a.chunks}.json")
    run([os.path.join(a.bin, "run-eval"), f"F32={base}", *(f"{kind}={path}" for kind, path in quants.items()), "--metrics", "ppl,divergence", "--dataset",
         f"wikitext2={a.text}", "--protocol", "llama.cpp", "--windows", a.chunks, "--dtype", "float32", "--output", report, "--quiet"], at(f"ours-{a.chunks}.log"))
    models = {model["name"]: model for model in json.load(open(report))["models"]}
    ours = models["F32"]["perplexity"]["wikitext2"]
    rows = [("F32", "perplexity", ours["value"], number(theirs_base, r"PPL")), ("F32", "its standard error", ours["standard_error"], float(re.search(r"\+/-\s*([\d.]+)", theirs_base).group(1)))]
    for kind, path in quants.items():
        text = run([*peer, "-m", path, "--kl-divergence", "--kl-divergence-base", logits], at(f"{kind}-{a.chunks}-kl.log"))
        ours = models[kind]["divergence"]["wikitext2"]
        rows.append((kind, "perplexity", models[kind]["perplexity"]["wikitext2"]["value"], number(text, r"Mean PPL\(Q\)")))
        for key, pattern in (("mean", r"Mean\s+KLD"), ("median", r"Median\s+KLD"), ("percentile_90", r"90\.0%\s+KLD"), ("percentile_99", r"99\.0%\s+KLD"),
                             ("maximum", r"Maximum\s+KLD"), ("mean_log_ppl_ratio", r"Mean ln\(PPL\(Q\)/PPL\(base\)\)")):
            rows.append((kind, "KL " + key if "log" not in key else key, ours[key], number(text, pattern)))
        rows.append((kind, "top-1 agreement, %", 100 * ours["top1_agreement"], number(text, r"Same top p")))
        rows.append((kind, "correlation of losses, %", 100 * ours["loss_correlation"], number(text, r"Cor\(ln\(PPL\(Q\)\), ln\(PPL\(base\)\)\)")))
    print(f"{a.chunks} windows of 512, float32\n\n| model | figure | run-eval | llama-perplexity | apart |\n|---|---|---|---|---|")
    for kind, name, mine, theirs in rows:
        print(f"| {kind} | {name} | {mine:.6g} | {theirs:.6g} | {100 * (mine / theirs - 1):+.3f} % |")


if __name__ == "__main__":
    main()
