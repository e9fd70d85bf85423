#!/usr/bin/env python3
"""Times bfloat16 evaluation against transformers, alternately, on one machine.

    bench/eval_speed.py --model SmolLM2-135M-Instruct.Q4_1.gguf --text wiki.test.raw [--rounds 5] [--threads 2]

Needs torch, transformers and gguf in the Python that runs it, and build/release/bench/eval_speed. Both sides
evaluate the same windows of the same token ids with the same weights (the GGUF, dequantized, in bfloat16)
on the same number of threads, logits and loss included. transformers runs one window at a time, its usual
evaluation loop. Its loading is not timed; ours decodes and packs every layer inside the timed walk, a bias
against us. Printed per length: medians and their ratio, the share of the machine's measured
matrix-product rate that the model's own products (causal attention counted up to the diagonal) come to,
and both mean losses. Tokenising is outside the timing on both sides.

--llama-perplexity PROGRAM --llama-model FILE adds a third side: llama.cpp's program on a GGUF of its fastest type for this processor
(llama-quantize MODEL FILE BF16), the same text and lengths, timed by its own total less its load time. It scores the second half of
each window and computes logits there alone, so it is set against our walk under the same protocol, llama.cpp.
"""
import argparse, os, re, statistics, subprocess, tempfile, time

import gguf
import numpy
import torch
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}


def load_peer(path):
    """The GGUF's Llama as transformers has it: dequantized, query and key rows put back in half-rotation order."""
    reader = gguf.GGUFReader(path)
    get = lambda key: reader.fields["llama." + key].contents()
    heads, kv_heads = get("attention.head_count"), get("attention.head_count_kv")
    names = {tensor.name for tensor in reader.tensors}
    config = LlamaConfig(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].contents()), hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"), num_hidden_layers=get("block_count"), num_attention_heads=heads,
        num_key_value_heads=kv_heads, rms_norm_eps=get("attention.layer_norm_rms_epsilon"), rope_theta=get("rope.freq_base"),
        max_position_embeddings=get("context_length"), tie_word_embeddings="output.weight" not in names)
    weights = {}
    for tensor in reader.tensors:
        w = torch.from_numpy(numpy.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=numpy.float32))
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"
            count = {"attn_q": heads, "attn_k": kv_heads}.get(parts[2])
            if count:
                w = w.reshape(count, w.shape[0] // count // 2, 2, w.shape[1]).transpose(1, 2).reshape(w.shape)
        else:
            name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight", "output": "lm_head.weight"}[parts[0]]
        weights[name] = w.contiguous()
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model.to(torch.bfloat16).eval()


def run_peer(model, ids, seqlen, windows):
    started, losses = time.perf_counter(), []
    with torch.no_grad():
        for i in range(windows):
            window = ids[i * seqlen:(i + 1) * seqlen][None]
            logits = model(window, use_cache=False).logits[0, :-1]
            losses.append(torch.nn.functional.cross_entropy(logits.float(), window[0, 1:]).item())
    return time.perf_counter() - started, statistics.fmean(losses)


def run_llama(arguments, seqlen, windows):
    """Seconds a token by its own clock, from the loaded model to the last loss."""
    command = [arguments.llama_perplexity, "-m", arguments.llama_model, "-f", arguments.text, "-c", str(seqlen), "-t", str(arguments.threads),
               "--chunks", str(windows), "--perf", "-lv", "5"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")
    times = [re.search(name + r" time =\s*([\d.]+) ms", output.stdout + output.stderr) for name in ("total", "load")]
    if None in times:
        raise SystemExit("llama-perplexity printed no total and load time")
    return (float(times[0][1]) - float(times[1][1])) / 1000 / (windows * seqlen)


def peer_product_rate(size=2048, times=4):
    a, b = torch.ones(size, size, dtype=torch.bfloat16), torch.ones(size, size, dtype=torch.bfloat16)
    best = 0
    for _ in range(7):
        started = time.perf_counter()
        for _ in range(times):
            torch.mm(a, b)
        best = max(best, 2e-9 * size ** 3 * times / (time.perf_counter() - started))
    return best


def flops_per_token(config, seqlen):
    linears = config.hidden_size * config.head_dim * 2 * (config.num_attention_heads + config.num_key_value_heads)
    linears += 3 * config.hidden_size * config.intermediate_size
    attention = 2 * config.num_attention_heads * config.head_dim * (seqlen + 1) / 2
    return 2 * (config.num_hidden_layers * (linears + attention) + config.vocab_size * config.hidden_size)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--program", default=os.path.join(here, "../build/release/bench/eval_speed"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=8192, help="tokens a run")
    parser.add_argument("--seqlen", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--llama-perplexity")
    parser.add_argument("--llama-model")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    ours = subprocess.Popen([arguments.program, arguments.model, arguments.text, str(arguments.threads)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(line=None):
        if line:
            ours.stdin.write(line + "\n")
            ours.stdin.flush()
        answer = ours.stdout.readline()
        if not answer:
            raise SystemExit("our side ended; see its message above")
        return answer.split()

    ask()
    with tempfile.NamedTemporaryFile() as file:
        ask("tokens " + file.name)
        ids = torch.from_numpy(numpy.fromfile(file.name, dtype=numpy.int32).astype(numpy.int64))
    peer = load_peer(arguments.model)
    rates = [float(x) for x in ask("products")] + [peer_product_rate()]
    print(f"bfloat16 products of 2048^3, GFLOP/s on {arguments.threads} threads: LibTorch {rates[0]:.0f} (a product a thread), "
          f"{rates[2]:.0f} (shared product), our kernel {rates[1]:.0f}")
    for seqlen in arguments.seqlen:
        windows = arguments.tokens // seqlen
        times = {"ours": [], "transformers": []}
        if arguments.llama_perplexity:
            times |= {"ours as llama.cpp": [], "llama-perplexity": []}
        for turn in range(arguments.rounds + 1):  # the first is a warm-up
            seconds, loss = (float(x) for x in ask(f"run gptq {seqlen} {windows}"))
            peer_seconds, peer_loss = run_peer(peer, ids, seqlen, windows)
            if turn:
                times["ours"].append(seconds)
                times["transformers"].append(peer_seconds)
            if arguments.llama_perplexity:
                as_llama = float(ask(f"run llama.cpp {seqlen} {windows}")[0])
                llama_seconds = run_llama(arguments, seqlen, windows) * windows * seqlen
                if turn:
                    times["ours as llama.cpp"].append(as_llama)
                    times["llama-perplexity"].append(llama_seconds)
        speed = {side: windows * seqlen / statistics.median(values) for side, values in times.items()}
        spread = {side: max(values) / min(values) - 1 for side, values in times.items()}
        flops = flops_per_token(peer.config, seqlen)
        print(f"windows of {seqlen}: ours {speed['ours']:.0f} tokens/s (spread {spread['ours']:.0%}), transformers {speed['transformers']:.0f} "
              f"(spread {spread['transformers']:.0%}), ratio {speed['ours'] / speed['transformers']:.2f}; "
              + (f"under its protocol ours {speed['ours as llama.cpp']:.0f} (spread {spread['ours as llama.cpp']:.0%}), llama-perplexity {speed['llama-perplexity']:.0f} "
                 f"(spread {spread['llama-perplexity']:.0%}), ratio {speed['ours as llama.cpp'] / speed['llama-perplexity']:.2f}; " if arguments.llama_perplexity else "") +
              f"{flops / 1e6:.0f} MFLOP a token: "
              f"{flops * speed['ours'] / 1e7 / max(rates):.0f} % of the best product rate; mean loss {loss:.5f}, transformers {peer_loss:.5f}", flush=True)
    ours.stdin.close()
    ours.wait()


if __name__ == "__main__":
    main()
