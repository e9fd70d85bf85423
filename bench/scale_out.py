#!/usr/bin/env python3
"""What compressing a model takes on several processes, from sizes alone (docs/scale-out.md): products, bytes between processes, seconds.

scale_out.py                        the table of the document
scale_out.py --model NAME --ranks N one line, in numbers that a run's own message can be checked against

The rates are assumptions, to be replaced by what a machine was measured to do; the counts are not.
"""
import argparse
import heapq
import math

# Attributes: layers, hidden, query width, key/value width, MLP width, experts, experts a token is sent to.
MODELS = {
    "smollm2-135m": (30, 576, 576, 192, 1536, 0, 0),
    "llama-2-7b": (32, 4096, 4096, 4096, 11008, 0, 0),
    "llama-3-70b": (80, 8192, 8192, 1024, 28672, 0, 0),
    "mixtral-8x7b": (32, 4096, 4096, 1024, 14336, 8, 2),
    "mixtral-8x22b": (56, 6144, 6144, 1024, 16384, 8, 2),
    "llama-3-405b": (126, 16384, 16384, 1024, 53248, 0, 0),
}


class Rates:
    """Of one GPU of the H100 class, eight on a node; half of what the data sheet says, as real kernels get."""
    forward = 400e12   # products of the walk, bf16: operations a second
    hessian = 200e12   # outer products in split bf16 or TF32
    factor = 30e12     # Cholesky factor and triangular inverse in float32 with float64 corrections
    sweep = 50e12      # column sweep with lazy batch updates
    network = 40e9     # bytes a second of one process into the network (400 Gb/s, at 80 %)
    latency = 20e-6    # of one step of a collective operation
    read = 10e9        # bytes of weights a second, per process, out of the page cache; a parallel file system gives less


def places(model):
    """One entry for each input that linears share: (width, [rows of its matrices], share of the tokens that it sees)."""
    layers, hidden, query, kv, mlp, experts, used = MODELS[model]
    found = [(hidden, [query, kv, kv], 1.0), (query, [hidden], 1.0)]
    for _ in range(max(1, experts)):
        share = used / experts if experts else 1.0
        found += [(hidden, [mlp, mlp], share), (mlp, [hidden], share)]
    return found


def summed_entries(n):
    """Of a Hessian, as compress/exact_sums.h keeps it: panels of `edge` rows, each from its first row's column on."""
    edge = 48 if n <= 256 else 192 if n <= 4096 else 480
    return sum(min(edge, n - first) * (n - first) for first in range(0, n, edge))


def counts(model, windows, seqlen):
    """Of one layer: operations and bytes, whatever the number of processes."""
    tokens = windows * seqlen
    layers, hidden, query, _, _, _, _ = MODELS[model]
    all_places = places(model)
    weights = sum(n * sum(rows) for n, rows, _ in all_places)
    active = sum(share * n * sum(rows) for n, rows, share in all_places)
    return {
        "layers": layers,
        "weights": weights,
        "forward": 2 * tokens * active + 2 * tokens * seqlen * query,  # causal: half of the square, twice
        "hessian": sum(tokens * share * n * n for n, _, share in all_places),  # half of the square, twice
        "summed": sum(8 * summed_entries(n) for n, _, _ in all_places),  # float64
        "states": 4 * tokens * hidden,
    }


def solving(model, ranks, rates):
    """Seconds of the rank that has most to solve, as compress/rank_work.cc spreads the linears, and of all together."""
    all_places = places(model)
    whole = len(all_places) >= ranks
    jobs = []
    for n, rows, _ in all_places:
        if whole:
            jobs.append(n**3 / rates.factor + 2 * sum(rows) * n * n / rates.sweep)
        else:
            jobs += [n**3 / rates.factor + 2 * r * n * n / rates.sweep for r in rows]
    load = [0.0] * ranks
    heapq.heapify(load)
    for job in sorted(jobs, reverse=True):
        heapq.heappush(load, heapq.heappop(load) + job)
    return max(load), sum(jobs)


def seconds(model, ranks, windows, seqlen, bits, rates):
    """Of one layer, by part. Two visits: the inputs of the linears, and the outputs of the compressed layer."""
    c = counts(model, windows, seqlen)
    busiest = math.ceil(windows / ranks) / windows  # share of the windows
    steps = math.ceil(math.log2(ranks)) if ranks > 1 else 0
    pieces = math.ceil(c["summed"] / 8e6)
    solved = c["weights"] * bits / 8
    moved = 2 * (ranks - 1) / ranks if ranks > 1 else 0
    return {
        "walk": busiest * (2 * c["forward"] / rates.forward + c["hessian"] / rates.hessian),
        "sum": moved * c["summed"] / rates.network + steps * pieces * rates.latency,
        "solve": solving(model, ranks, rates)[0],
        "share": moved * solved / rates.network + steps * rates.latency,
        "read": 2 * c["weights"] * 2 / rates.read,  # while something else runs, so it counts where it is the longest
    }


def total(parts):
    return max(parts["walk"] + parts["sum"] + parts["solve"] + parts["share"], parts["read"])


def table(args):
    rates = Rates()
    print(f"{args.seqlen} tokens a window; windows: {args.windows}, or one a GPU where that is more. One layer, then the whole model.\n")
    print("| model | GPUs | walk | sums | solve | share | read | layer | model | speed-up | sums, GB a layer |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for model in args.models:
        windows_alone = args.windows
        for ranks in args.counts:
            windows = max(windows_alone, ranks)
            parts = seconds(model, ranks, windows, args.seqlen, args.bits, rates)
            c = counts(model, windows, args.seqlen)
            layer = total(parts)
            alone = total(seconds(model, 1, windows, args.seqlen, args.bits, rates))
            print(f"| {model} | {ranks} | " + " | ".join(f"{parts[p]:.2f} s" for p in ("walk", "sum", "solve", "share", "read")) +
                  f" | {layer:.2f} s | {layer * c['layers'] / 60:.1f} min | {alone / layer:.1f} | {c['summed'] / 1e9:.2f} |")


def one_run(args):
    c = counts(args.model, args.windows, args.seqlen)
    print(f"{args.model}: {c['summed'] * c['layers'] / 1e6:.1f} MB of Hessians summed in the run, "
          f"{c['forward'] * c['layers'] / 1e9:.1f} Gop a visit, {c['hessian'] * c['layers'] / 1e9:.1f} Gop of Hessians")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS))
    parser.add_argument("--models", nargs="+", default=["llama-2-7b", "mixtral-8x7b", "llama-3-405b"])
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 8, 64, 512])
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=2048)
    parser.add_argument("--bits", type=float, default=4.5, help="stored bits a weight")
    args = parser.parse_args()
    one_run(args) if args.model else table(args)


main()
