#!/usr/bin/env python3
"""Times miq-compress against the original SparseGPT, alternately, on one machine.

    bench/compress_speed.py --original DIR --model HF_FOLDER --miq-model MODEL --text TEXT [--rounds 3]

DIR is a checkout of the original's repository (its sparsegpt.py and quant.py are imported from there, run
unchanged in float32). With --three the comparison of the earlier scripts is timed: sparsegpt, enhanced and mixed by us, one after the other
(or by one run of compare-methods, which --compare-methods names, --jobs of them at once), against three runs of the original. Beside the wall time stands the processors' time
of both sides, which other work on the machine changes less, and the floor: what the products that the recipes ask for
would take at the best rate that LibTorch's products reach here, and what reading and writing the files would.

HF_FOLDER is the model as transformers loads it; MODEL the same for miq-compress.
Both calibrate on the same number of windows of the same length and prune and quantize every linear of
the decoder layers. The original's forward passes and sweeps do the same work for any token ids, so it gets
random ones; the quality of the result is compared elsewhere. Timed are whole processes that load the model,
compress it and save it; the second ratio takes the original's compression alone, without its start, load and save.
"""
import argparse, json, os, resource, statistics, subprocess, sys, tempfile, time

THREE = ["sparsegpt", "enhanced", "mixed"]


def original(arguments):
    sys.path.insert(0, arguments.original)
    import torch
    from torch import nn
    from transformers import LlamaForCausalLM
    from quant import Quantizer
    from sparsegpt import SparseGPT

    torch.set_num_threads(arguments.threads)
    torch.cuda.synchronize = lambda: None  # it times itself on a GPU
    model = LlamaForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    if arguments.layers:
        model.model.layers = model.model.layers[:arguments.layers]
    ids = torch.randint(0, model.config.vocab_size, (arguments.windows, arguments.seqlen), generator=torch.Generator().manual_seed(0))
    started = time.time()
    with torch.no_grad():
        hidden = [model.model.embed_tokens(ids[i:i + 1]) for i in range(arguments.windows)]
        positions = torch.arange(arguments.seqlen)[None]
        rotary = model.model.rotary_emb(hidden[0], positions)
        run = lambda layer, x: (lambda y: y[0] if isinstance(y, tuple) else y)(layer(x, position_ids=positions, position_embeddings=rotary))
        for layer in model.model.layers:
            linears = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
            solvers, hooks = {}, []
            for name, module in linears.items():
                solver = solvers[name] = SparseGPT(module)
                solver.quantizer = Quantizer()
                solver.quantizer.configure(arguments.wbits, perchannel=True, sym=False, mse=False)
                hooks.append(module.register_forward_hook(lambda _, inputs, output, solver=solver: solver.add_batch(inputs[0].data, output.data)))
            for x in hidden:
                run(layer, x)
            for hook in hooks:
                hook.remove()
            for solver in solvers.values():
                solver.fasterprune(arguments.sparsity, percdamp=0.01, blocksize=128)
                solver.free()
            hidden = [run(layer, x) for x in hidden]
    seconds = time.time() - started
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
    print(f"SECONDS {seconds:.2f}")


def timed(command):
    """Wall and processor seconds of a process, and what it printed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wall, after = time.time() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, output


def ours(arguments, method, folder):
    command = [arguments.miq_compress, arguments.miq_model, arguments.text, "-o", os.path.join(folder, method + ".miq"), "--method", method,
               "--nsamples", str(arguments.windows), "--seqlen", str(arguments.seqlen), "--documents", arguments.documents,
               "--sampling", "in-order", "--threads", str(arguments.threads), "--no-journal", "--quiet"]  # the original keeps none either
    command += ["--wbits" if method == "sparsegpt" else "--target-avg-bits", str(arguments.wbits)]
    if arguments.sparsity > 0:
        command += ["--sparsity", str(arguments.sparsity)]
    return timed(command)


def their_run(arguments):
    return timed([sys.executable, __file__, "--run-original", *sys.argv[1:]])


def product_rates(threads):
    """Best of ten products of 1536 x 1536 matrices, operations a second, in bfloat16 and float32."""
    import torch
    torch.set_num_threads(threads)
    rates = {}
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        a, b = (torch.randn(1536, 1536).to(dtype) for _ in range(2))
        best = 1e9
        for _ in range(10):
            started = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - started)
        rates[name] = 2 * 1536**3 / best
    return rates


def floors(arguments):
    """Operations of each side, of what its recipe cannot do without; layers of Llama's kind."""
    config = json.load(open(os.path.join(arguments.model, "config.json")))
    n, m, layers, vocabulary = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"], config["vocab_size"]
    kv = n * config["num_key_value_heads"] // config["num_attention_heads"]
    if arguments.layers:
        layers = arguments.layers
    tokens, back = arguments.windows * arguments.seqlen, min(16, arguments.windows) * arguments.seqlen
    linears = [(n, n), (kv, n), (kv, n), (n, n), (m, n), (m, n), (n, m)]  # rows, columns
    weights, attention = sum(r * c for r, c in linears), arguments.seqlen * n  # scores and mixing, causal
    forward = 2 * tokens * (weights + attention) * layers
    inputs = [n, n, n, m]
    products = 2 * sum(r * c * c / 2 for r, c in linears) * layers
    common = {"hessians": tokens * sum(c * c for c in inputs) * layers, "sweeps": products}
    twice = {"forward": forward * (2 - 1 / layers) - 2 * tokens * n * m * layers, **common}  # what observes stops before the last product
    staged = {"forward": forward - 2 * tokens * n * m, **common}  # one visit to a layer; nobody reads what the last one makes
    plan = {"plan": 2 * 3 * back * (weights + attention) * layers + 2 * 2 * back * n * vocabulary}  # the same windows there and back
    factors = sum(4 / 3 * c**3 for c in inputs) * layers
    original = {"forward": 2 * forward, "hessians": 2 * tokens * sum(c * c for _, c in linears) * layers, "sweeps": products,
                "inverses": sum(2 * 5 / 3 * c**3 for _, c in linears) * layers}
    return twice, staged, plan, factors, original


def print_floor(arguments, methods):
    rates = product_rates(arguments.threads)
    twice, staged, plan, factors, original = floors(arguments)
    seconds = {}
    for method in methods:
        walk = staged if method == "mixed" else twice
        wide = walk["sweeps"] / rates["float32"] + 2 * factors / rates["float32"]  # factors are float64, at half the rate
        narrow = walk["forward"] + walk["hessians"] + (sum(plan.values()) if method == "mixed" else 0)
        seconds[method] = wide + narrow / rates["bfloat16"]
    theirs = sum(original.values()) / rates["float32"] * len(methods)
    size = sum(os.path.getsize(os.path.join(arguments.model, name)) for name in os.listdir(arguments.model))
    print(f"products: {rates['bfloat16'] / 1e9:.0f} G operations a second in bfloat16, {rates['float32'] / 1e9:.0f} in float32 (best of ten)")
    print(f"floor of ours: {sum(seconds.values()):.1f} s (" + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()) +
          f"); of the original's products: {theirs:.1f} s; bytes read and written by the original at least {2 * size * len(methods) / 1e9:.2f} GB, "
          f"by us {(os.path.getsize(arguments.miq_model) if os.path.isfile(arguments.miq_model) else size) * 2 * len(methods) / 1e9:.2f} GB")


def one_round(arguments, methods):
    wall = cpu = 0
    with tempfile.TemporaryDirectory() as folder:
        if arguments.compare_methods:
            wall, cpu, _ = timed([arguments.compare_methods, arguments.miq_model, arguments.text, "-o", folder, "--methods", ",".join(methods), "--jobs", str(arguments.jobs),
                                  "--nsamples", str(arguments.windows), "--seqlen", str(arguments.seqlen), "--documents", arguments.documents, "--sampling", "in-order",
                                  "--threads", str(arguments.threads), "--quiet", "--wbits", str(arguments.wbits), *(["--sparsity", str(arguments.sparsity)] if arguments.sparsity > 0 else [])])
        else:
            for method in methods:
                run = ours(arguments, method, folder)
                print(f"  {method} {run[0]:.1f} s, {run[1]:.1f} s of processors", flush=True)
                wall, cpu = wall + run[0], cpu + run[1]
    their_wall = their_cpu = alone = 0
    count = arguments.original_runs or len(methods)
    for _ in range(count):
        run = their_run(arguments)
        their_wall, their_cpu, alone = their_wall + run[0], their_cpu + run[1], alone + float(run[2].split("SECONDS")[1])
    scale = len(methods) / count  # the original does the same work in every run
    return wall, cpu, their_wall * scale, their_cpu * scale, alone * scale


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--miq-model")
    parser.add_argument("--text")
    parser.add_argument("--miq-compress", default=os.path.join(here, "../build/release/tools/miq-compress"))
    parser.add_argument("--three", action="store_true", help="sparsegpt, enhanced and mixed against three runs of the original")
    parser.add_argument("--compare-methods", help="with --three: the program compare-methods, to make all three in one run")
    parser.add_argument("--jobs", type=int, default=3, help="methods that compare-methods compresses at once")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--documents", choices=["lines", "whole"], default="whole")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--wbits", type=int, default=4)
    parser.add_argument("--layers", type=int, help="of the original: only the first so many; give a MODEL cut likewise")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--original-runs", type=int, help="runs of the original in a round, counted for three with --three where they are fewer")
    parser.add_argument("--run-original", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run_original:
        return original(arguments)
    if not arguments.miq_model or not arguments.text:
        parser.error("--miq-model and --text are needed")
    if arguments.compare_methods and not arguments.three:
        parser.error("--compare-methods belongs to --three")

    methods = THREE if arguments.three else ["sparsegpt"]
    print_floor(arguments, methods)
    rounds = []
    for number in range(arguments.rounds):
        rounds.append(one_round(arguments, methods))
        wall, cpu, their_wall, their_cpu, alone = rounds[-1]
        print(f"round {number + 1}: ours {wall:.1f} s, the original {their_wall:.1f} s, ratio {their_wall / wall:.2f} (its compression alone {alone:.1f} s, "
              f"ratio {alone / wall:.2f}; processors' time {cpu:.1f} and {their_cpu:.1f} s, ratio {their_cpu / cpu:.2f})", flush=True)
    for name, mine, other in (("whole processes", 0, 2), ("the original's compression alone", 0, 4), ("processors' time", 1, 3)):
        ratios = [run[other] / run[mine] for run in rounds]
        print(f"{name}: median of {len(ratios)} {statistics.median(ratios):.2f} times as fast (lowest {min(ratios):.2f}, highest {max(ratios):.2f})")


if __name__ == "__main__":
    main()
