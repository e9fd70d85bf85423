#!/usr/bin/env python3
"""Times miq-compress against the original SparseGPT, alternately, on one machine.

    bench/compress_speed.py --original DIR --model HF_FOLDER --miq-model MODEL --text TEXT [--rounds 3]

DIR is a checkout of the original's repository (its sparsegpt.py and quant.py are imported from there, run
unchanged in float32). HF_FOLDER is the model as transformers loads it; MODEL the same for miq-compress.
Both calibrate on the same number of windows of the same length and prune and quantize every linear of
the decoder layers. The original's forward passes and sweeps do the same work for any token ids, so it gets
random ones; the quality of the result is compared elsewhere. Timed are whole processes that load the model,
compress it and save it; the second ratio takes the original's compression alone, without its start, load and save.
"""
import argparse, os, statistics, subprocess, sys, tempfile, time


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


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--miq-model")
    parser.add_argument("--text")
    parser.add_argument("--miq-compress", default=os.path.join(here, "../build/release/tools/miq-compress"))
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--wbits", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run-original", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run_original:
        return original(arguments)
    if not arguments.miq_model or not arguments.text:
        parser.error("--miq-model and --text are needed")

    ours, theirs, alone = [], [], []
    for round_number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            started = time.time()
            subprocess.run([arguments.miq_compress, arguments.miq_model, arguments.text, "-o", os.path.join(folder, "out.miq"), "--method", "sparsegpt",
                            "--sparsity", str(arguments.sparsity), "--wbits", str(arguments.wbits), "--nsamples", str(arguments.windows),
                            "--seqlen", str(arguments.seqlen), "--documents", "whole", "--sampling", "in-order",
                            "--threads", str(arguments.threads), "--quiet"], check=True, stdout=subprocess.DEVNULL)
            ours.append(time.time() - started)
        started = time.time()
        output = subprocess.run([sys.executable, __file__, "--run-original", *sys.argv[1:]], check=True, capture_output=True, text=True).stdout
        theirs.append(time.time() - started)
        alone.append(float(output.split("SECONDS")[1]))
        print(f"round {round_number + 1}: miq-compress {ours[-1]:.1f} s, original {theirs[-1]:.1f} s, ratio {theirs[-1] / ours[-1]:.2f} "
              f"(its compression alone {alone[-1]:.1f} s, ratio {alone[-1] / ours[-1]:.2f})", flush=True)
    for name, seconds in (("whole processes", theirs), ("the original's compression alone", alone)):
        ratios = [b / a for a, b in zip(ours, seconds)]
        print(f"{name}: median of {len(ratios)} {statistics.median(ratios):.2f} times as fast (lowest {min(ratios):.2f}, highest {max(ratios):.2f})")


if __name__ == "__main__":
    main()
