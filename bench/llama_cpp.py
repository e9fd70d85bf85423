#!/usr/bin/env python3
"""llama.cpp's quants with an importance matrix against mixed precision at the same bits, in one run.

    bench/llama_cpp.py --llama SOURCE --model MODEL.gguf --calibration c4/c4.utf8 --text wiki=wiki.utf8 --out FOLDER [--types IQ2_S Q2_K Q3_K_M]

SOURCE is llama.cpp as the source distribution of llama-cpp-python on PyPI has it (its folder vendor/llama.cpp, after
`pip download --no-deps --no-binary llama-cpp-python llama-cpp-python`); its llama-quantize, llama-imatrix and
llama-tokenize are built in FOLDER/build unless --llama-bin names a folder that has them. Nothing else is needed.

Both sides see the same weights (the file, decoded) and the same calibration: the first --seqlen tokens of each of the
first --nsamples lines that have so many. The importance matrix is measured page by page (llama-imatrix --chunks 1)
and merged. Each quant is evaluated by run-eval from its float32 decoding, which llama-quantize itself makes: what its
own kernels add by quantizing activations does not count against it. `bits` is the bytes of the decoder's matrices as
stored, over their weights; ours gets at most the same (--target-bpw). --nonlinear adds a second row for each quant
that fell back to Q4_0 (widths that are no multiple of 256): the same with IQ4_NL in its place, as other versions do.
--embedding-f32 leaves their embedding in float32 as ours is. Steps whose files are there are not repeated.
"""
import argparse, hashlib, json, math, os, re, struct, subprocess, sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = ["llama-quantize", "llama-imatrix", "llama-tokenize"]
TYPE_NAMES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
              16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 30: "BF16"}


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(command, log):
    with open(log, "w") as out:
        code = subprocess.run([str(part) for part in command], stdout=out, stderr=subprocess.STDOUT).returncode
    if code not in (0, 3):
        sys.exit(f"{os.path.basename(str(command[0]))} ended with {code}; its messages are in {log}")


def tensors_of(path):
    """name -> (type, shape, bytes) of a GGUF file; bytes by the offsets, padding (under 32) included."""
    with open(path, "rb") as file:
        def number(form):
            return struct.unpack("<" + form, file.read(struct.calcsize(form)))[0]

        def text():
            return file.read(number("Q")).decode("utf-8", "replace")

        def value(kind):
            if kind == 8:
                return text()
            if kind == 9:
                element, count = number("I"), number("Q")
                return [value(element) for _ in range(count)]
            return number({0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}[kind])

        if file.read(4) != b"GGUF":
            sys.exit(f"{path}: not a GGUF file")
        number("I")
        tensor_count, value_count = number("Q"), number("Q")
        alignment = 32
        for _ in range(value_count):
            key, kind = text(), number("I")
            found = value(kind)
            alignment = found if key == "general.alignment" else alignment
        found = []
        for _ in range(tensor_count):
            name = text()
            shape = [number("Q") for _ in range(number("I"))]
            found.append((name, number("I"), shape, number("Q")))
        end = os.path.getsize(path) - (file.tell() + alignment - 1) // alignment * alignment
    offsets = sorted(offset for *_, offset in found) + [end]
    return {name: (TYPE_NAMES.get(kind, str(kind)), shape, offsets[offsets.index(offset) + 1] - offset) for name, kind, shape, offset in found}


def decoder_matrices(path):
    return {name: tensor for name, tensor in tensors_of(path).items() if name.startswith("blk.") and len(tensor[1]) == 2}


def decoder_bits(path):
    found = decoder_matrices(path)
    weights = sum(math.prod(shape) for _, shape, _ in found.values())
    by_type = {}
    for kind, shape, _ in found.values():
        by_type[kind] = by_type.get(kind, 0) + math.prod(shape) / weights
    mix = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in sorted(by_type.items(), key=lambda item: -item[1]))
    return 8 * sum(size for *_, size in found.values()) / weights, mix


class Peer:
    def __init__(self, arguments):
        self.a = arguments
        self.out = arguments.out
        os.makedirs(os.path.join(self.out, "pages"), exist_ok=True)
        self.folder = arguments.llama_bin or os.path.join(self.out, "build", "bin")
        self.base = os.path.join(self.out, "f32.gguf")

    def tool(self, name):
        return os.path.join(self.folder, name)

    def build(self):
        if all(os.path.exists(self.tool(name)) for name in TOOLS):
            return
        if not self.a.llama:
            sys.exit("give --llama SOURCE or --llama-bin FOLDER")
        say("building llama.cpp's tools")
        folder = os.path.dirname(self.folder)
        run(["cmake", "-S", self.a.llama, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
             "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF"], os.path.join(self.out, "configure.log"))
        run(["cmake", "--build", folder, "--target", *TOOLS, "-j", str(os.cpu_count())], os.path.join(self.out, "build.log"))

    def quantize(self, source, target, kind, *options):
        if not os.path.exists(target):
            run([self.tool("llama-quantize"), *options, source, target + ".part", kind], target + ".log")
            os.replace(target + ".part", target)

    def pages(self):
        """Files of the lines that the calibration takes, each twice, so that there are tokens beyond its window."""
        listed = os.path.join(self.out, "pages", f"{self.a.nsamples}x{self.a.seqlen}.json")
        if os.path.exists(listed):
            return json.load(open(listed))
        taken = []
        for index, line in enumerate(open(self.a.calibration, encoding="utf-8", newline="\n")):
            if len(taken) == self.a.nsamples:
                break
            line = line.rstrip("\n")
            if len(line.encode()) < self.a.seqlen:
                continue
            path = os.path.join(self.out, "pages", f"{index}.txt")
            open(path, "w", encoding="utf-8", newline="\n").write(line)
            ids = subprocess.run([self.tool("llama-tokenize"), "-m", self.base, "-f", path, "--ids", "--no-bos", "--no-escape", "--log-disable"],
                                 capture_output=True, text=True, check=True).stdout
            if len(re.findall(r"\d+", ids)) >= self.a.seqlen:
                open(path, "w", encoding="utf-8", newline="\n").write(f"{line}\n{line}\n{line}")
                taken.append(path)
            else:
                os.remove(path)
        json.dump(taken, open(listed, "w"))
        return taken

    def importance(self):
        merged = os.path.join(self.out, f"imatrix-{self.a.nsamples}x{self.a.seqlen}.gguf")
        if os.path.exists(merged):
            return merged
        say("finding the calibration's pages")
        parts = []
        for index, page in enumerate(self.pages()):
            say(f"importance matrix of page {index + 1}: line {os.path.basename(page)[:-4]} (from 0)")
            parts.append(page + ".imatrix.gguf")
            if not os.path.exists(parts[-1]):
                run([self.tool("llama-imatrix"), "-m", self.base, "-f", page, "-o", parts[-1] + ".part", "--chunks", "1", "-c", str(self.a.seqlen), "-b",
                     str(self.a.seqlen), "-ub", str(self.a.seqlen), "--no-ppl", "-t", str(self.a.threads)], page + ".log")
                os.replace(parts[-1] + ".part", parts[-1])
        run([self.tool("llama-imatrix"), "-m", self.base, "--in-file", ",".join(parts), "-o", merged + ".part", "-c", str(self.a.seqlen), "-b", str(self.a.seqlen)],
            merged + ".log")
        os.replace(merged + ".part", merged)
        return merged

    def variants(self):
        """(name, path) of each quant."""
        importance = self.importance()
        keep = ["--token-embedding-type", "f32", "--output-tensor-type", "f32"] if self.a.embedding_f32 else []
        for kind in self.a.types:
            say(f"quantizing to {kind}")
            path = os.path.join(self.out, f"{kind}{'-f32-embedding' if keep else ''}.gguf")
            self.quantize(self.base, path, kind, "--imatrix", importance, *keep)
            yield kind, path
            fallen = [name for name, (stored, *_) in decoder_matrices(path).items() if stored == "Q4_0"]
            if fallen and self.a.nonlinear:
                types = path + ".types"
                open(types, "w").write("\n".join(f"{re.escape(name)}=iq4_nl" for name in fallen))
                nonlinear = path.removesuffix(".gguf") + "-iq4_nl.gguf"
                self.quantize(self.base, nonlinear, kind, "--imatrix", importance, *keep, "--tensor-type-file", types)
                yield kind + ", IQ4_NL for Q4_0", nonlinear


def evaluate(arguments, model, out):
    report = out + ".json"
    if not os.path.exists(report):
        texts = [part for text in arguments.text for part in ("--dataset", text)]
        run([os.path.join(arguments.bin, "run-eval"), model, "--metrics", "ppl,size", "--dtype", arguments.dtype, *texts, "--seqlen", str(arguments.eval_seqlen),
             "--windows", str(arguments.windows), "--output", report, "--quiet"], out + ".log")
    return json.load(open(report))["models"][0]


def paired_error(ours, theirs, text):
    """Standard error of the mean difference of the windows' losses: about that of the ratio of perplexities."""
    pairs = list(zip(ours["perplexity"][text]["window_nll"], theirs["perplexity"][text]["window_nll"]))
    differences = [a - b for a, b in pairs]
    mean = sum(differences) / len(differences)
    return math.sqrt(sum((d - mean) ** 2 for d in differences) / max(1, len(differences) - 1) / len(differences))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", help="llama.cpp's source folder")
    parser.add_argument("--llama-bin", help="folder with " + ", ".join(TOOLS))
    parser.add_argument("--bin", default=os.path.join(HERE, "../build/release/tools"), help="folder of miq-compress and run-eval")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--calibration", required=True, help="a text whose lines are documents")
    parser.add_argument("--text", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--out", required=True)
    parser.add_argument("--types", nargs="+", default=["IQ2_S", "Q2_K", "Q3_K_M"])
    parser.add_argument("--nonlinear", action="store_true")
    parser.add_argument("--embedding-f32", action="store_true")
    parser.add_argument("--ours", default="--method mixed", help="options of miq-compress; --target-bpw is added; empty: theirs alone")
    parser.add_argument("--nsamples", type=int, default=48)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--windows", type=int, default=12, help="evaluated windows of each text")
    parser.add_argument("--eval-seqlen", type=int, default=1024)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ours-model", help="what ours compresses, where --model was widened for llama.cpp by bench/pad_gguf.py")
    arguments = parser.parse_args()
    peer = Peer(arguments)
    peer.build()
    peer.quantize(arguments.model, peer.base, "F32", "--allow-requantize")
    names = [text.partition("=")[0] for text in arguments.text]
    tag = f"{'-'.join(names)}-{arguments.windows}"
    dense = evaluate(arguments, arguments.model, os.path.join(arguments.out, f"dense-{tag}"))
    bits, mix = decoder_bits(arguments.model)
    rows = [("the model as it is", mix, bits, os.path.getsize(arguments.model), dense, None)]
    for kind, path in peer.variants():
        bits, mix = decoder_bits(path)
        decoded = path.removesuffix(".gguf") + ".decoded.gguf"
        if not os.path.exists(f"{path}-{tag}.json"):
            say(f"evaluating {kind}")
            peer.quantize(path, decoded, "F32", "--allow-requantize")
        theirs = evaluate(arguments, decoded, f"{path}-{tag}")
        if os.path.exists(decoded):
            os.remove(decoded)
        rows.append((kind, mix, bits, os.path.getsize(path), theirs, None))
        if not arguments.ours:
            continue
        budget = math.floor(bits * 1000) / 1000
        recipe = hashlib.blake2b(" ".join([arguments.ours, str(arguments.nsamples), str(arguments.seqlen)]).encode(), digest_size=4).hexdigest()
        ours_path = os.path.join(arguments.out, f"ours-{budget:.3f}-{recipe}.miq")
        if not os.path.exists(ours_path):
            say(f"compressing to {budget} bits")
            run([os.path.join(arguments.bin, "miq-compress"), arguments.ours_model or arguments.model, arguments.calibration, "-o", ours_path, "--documents", "lines", "--sampling",
                 "in-order", "--nsamples", str(arguments.nsamples), "--seqlen", str(arguments.seqlen), "--no-journal", "--target-bpw", f"{budget:.3f}",
                 *arguments.ours.split()], ours_path + ".log")
        ours = evaluate(arguments, ours_path, f"{ours_path}-{tag}")
        rows.append((f"miq, {arguments.ours}", "", ours["bits_per_weight"]["effective"], os.path.getsize(ours_path), ours, theirs))

    print("| quant | stored as | bits of the decoder's matrices | file, MB | " + " | ".join(names) + " |\n|" + "---|" * (4 + len(names)))
    for name, mix, bits, size, figures, against in rows:
        cells = []
        for text in names:
            cell = f"{figures['perplexity'][text]['value']:.2f}"
            if against:
                ratio = figures["perplexity"][text]["value"] / against["perplexity"][text]["value"] - 1
                cell += f" ({100 * ratio:+.1f} % ± {100 * paired_error(figures, against, text):.1f})"
            cells.append(cell)
        print(f"| {name} | {mix} | {bits:.3f} | {size / 1e6:.1f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
