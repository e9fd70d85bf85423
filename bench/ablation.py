#!/usr/bin/env python3
"""What each part of mixed precision brings: one change at a time from a base setting, as a table and a plot.

    bench/ablation.py --model MODEL --calibration c4/c4.utf8 --text wiki=wiki.utf8:8 --text ptb=ptb.valid.txt:4 --out FOLDER

Every setting is compressed once for each seed (a seed draws other calibration windows) and evaluated on every text,
in bfloat16. The texts should be development texts: choices are made by this table. Options that
the binary does not know are left out. A run that FOLDER holds already (same options, same binary, model and
texts) is not made again, so an interrupted call goes on; --until HH:MM starts no further run after that time.

At the end, and with --report-only at once, FOLDER/results.json gets all runs, and where asked for --page FILE.md the table
(between its two marks; a page that is not there is begun), and --plot FILE.svg the same as a plot.
"""
import argparse, hashlib, json, math, os, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
BEGIN, END = "<!-- table: bench/ablation.py -->", "<!-- end of table -->"

# What is not asked for is off in the base; options that the binary does not know are left out of it.
PLAIN = "--clip search --refine 0 --scale-bits 16 --tune none --no-true-sequential"
MIXED = "--method mixed --target-bpw {bpw} --group-size 64 " + PLAIN
SPARSE = "--method mixed --target-bpw {sparse_bpw} --sparsity 0.5 --group-size 128 " + PLAIN
UNIFORM = "--method gptq --wbits 3 --group-size 64 --clip search --refine 0 --scale-bits 16"
# part, name, what it starts from, what replaces or is added to that, the setting that it is compared with. By importance.
SETTINGS = [
    ("base", "base", MIXED, "", None),
    ("order", "true-sequential", MIXED, "--true-sequential", "base"),
    ("grouping", "random", MIXED, "--grouping random", "base"),
    ("allocation", "per-layer", MIXED, "--allocator per-layer", "base"),
    ("allocation", "uniform", "--method mixed --target-avg-bits 3 --group-size 64 " + PLAIN, "--levels 3", "base"),
    ("clipping", "unclipped", MIXED, "--clip none", "base"),
    ("scales", "coded", MIXED, "--scale-bits 6", "base"),
    ("order", "gptq", UNIFORM, "", "base"),
    ("order", "gptq-act-order", UNIFORM, "--act-order", "gptq"),
    ("sparsity", "zeros", SPARSE, "", "base"),
    ("sparsity", "zeros-even", SPARSE, "--sparsity-allocation even", "zeros"),
    ("order", "zeros-true-sequential", SPARSE, "--true-sequential", "zeros"),
    ("calibration", "windows-8", MIXED, "--nsamples 8", "base"),
    ("calibration", "windows-16", MIXED, "--nsamples 16", "base"),
    ("calibration", "windows-32", MIXED, "--nsamples 32", "base"),
    ("calibration", "windows-64", MIXED, "--nsamples 64", "base"),
    ("calibration", "windows-128", MIXED, "--nsamples 128", "base"),
    ("everything", "defaults", "--method mixed --target-bpw {bpw}", "", "base"),
    ("grouping", "mi-sensitivity", MIXED, "--grouping mi-sensitivity", "base"),
    ("refinement", "refine", MIXED, "--refine 2", "base"),
    ("grouping", "mi", MIXED, "--grouping mi", "base"),
    ("grouping", "contiguous", MIXED, "--grouping contiguous", "base"),
    ("allocation", "budget", MIXED, "--allocator budget", "base"),
    ("allocation", "quantile", MIXED, "--allocator quantile", "base"),
    ("allocation", "redundancy", MIXED, "--allocator redundancy", "base"),
    ("scales", "coded-32", MIXED, "--scale-bits 6 --group-size 32", "base"),
    ("scales", "groups-32", MIXED, "--group-size 32", "base"),
    ("scales", "groups-128", MIXED, "--group-size 128", "base"),
    ("scales", "channel-scaling", MIXED, "--channel-scaling", "base"),
    ("tuning", "tune", MIXED, "--tune scales", "base"),
]
PARTS = ["base", "grouping", "allocation", "order", "clipping", "scales", "refinement", "tuning", "everything", "sparsity", "calibration"]


def digest(path):
    """Of a file, or of a folder's files."""
    result = hashlib.blake2b(digest_size=8)
    for name in sorted(os.listdir(path)) if os.path.isdir(path) else [""]:
        result.update(open(os.path.join(path, name) if name else path, "rb").read())
    return result.hexdigest()


def known_options(program):
    return subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout


def pairs(options):
    """Each option with its value, if it has one."""
    found = []
    for part in options:
        found.append([part]) if part.startswith("--") else found[-1].append(part)
    return found


class Bench:
    def __init__(self, arguments):
        self.a = arguments
        self.compress_program = os.path.join(arguments.bin, "miq-compress")
        self.eval_program = os.path.join(arguments.bin, "run-eval")
        self.texts = []
        for text in arguments.text:
            name, _, rest = text.partition("=")
            path, _, windows = rest.rpartition(":")
            self.texts.append((name, path, int(windows)))
        self.provenance = {
            "binary": digest(self.compress_program), "model": digest(arguments.model), "calibration": digest(arguments.calibration),
            "texts": {name: [digest(path), windows] for name, path, windows in self.texts},
            "version": subprocess.run([self.compress_program, "--version"], capture_output=True, text=True).stdout.strip().replace("\n", ", "),
        }
        self.help = known_options(self.compress_program)
        os.makedirs(os.path.join(arguments.out, "runs"), exist_ok=True)

    def knows(self, option):
        return any(f"{option}{after}" in self.help for after in (" ", ",", "{"))

    def options(self, start, change):
        """The command's options, or None where the binary lacks one that the setting is about."""
        changed = pairs(change.split())
        if not all(self.knows(pair[0]) for pair in changed):
            return None
        replaced = {name for pair in changed for name in (pair[0], pair[0].replace("--", "--no-", 1))}
        values = {"bpw": self.a.bpw, "sparse_bpw": self.a.sparse_bpw}
        kept = [pair for pair in pairs(start.format(**values).split()) if pair[0] not in replaced and self.knows(pair[0])]
        options = [part for pair in [*kept, *changed] for part in pair]
        return options if "--nsamples" in options else [*options, "--nsamples", str(self.a.windows)]

    def path_of(self, name, options, seed):
        """Where the run is or will be; one of --also-binary's, if there is one."""
        for binary in [*self.a.also_binary, self.provenance["binary"]]:
            provenance = {key: value for key, value in self.provenance.items() if key != "version"} | {"binary": binary}
            key = hashlib.blake2b(json.dumps([options, seed, provenance, self.a.seqlen, self.a.eval_seqlen], sort_keys=True).encode(), digest_size=6).hexdigest()
            path = os.path.join(self.a.out, "runs", f"{name}-{seed}-{key}.json")
            if os.path.exists(path):
                break
        return path

    def run(self, name, options, seed):
        path = self.path_of(name, options, seed)
        model = os.path.join(self.a.out, f"{name}-{seed}.miq")
        started = time.time()
        command = [self.compress_program, self.a.model, self.a.calibration, "-o", model, "--documents", "lines", "--sampling", "random", "--seed", str(seed),
                   "--seqlen", str(self.a.seqlen), "--no-journal", "--quiet", *options]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, 3):
            print(f"  {name} seed {seed}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}", flush=True)
            return
        seconds = time.time() - started
        run = {"name": name, "seed": seed, "options": options, "seconds": round(seconds, 1), "perplexity": {}, "provenance": self.provenance}
        for text, text_path, windows in self.texts:
            report = os.path.join(self.a.out, "report.json")
            subprocess.run([self.eval_program, model, "--metrics", "ppl,size", "--dtype", "bfloat16", "--dataset", f"{text}={text_path}", "--seqlen", str(self.a.eval_seqlen),
                            "--windows", str(windows), "--output", report, "--quiet"], check=True, stdout=subprocess.DEVNULL)
            entry = json.load(open(report))["models"][0]
            figures = entry["perplexity"][text]
            run["perplexity"][text] = {"value": figures["value"], "window_nll": figures["window_nll"]}
            run["code_bits"], run["effective_bits"] = entry["bits_per_weight"]["code"], entry["bits_per_weight"]["effective"]
            run["model_digest"] = entry["digest"]
        json.dump(run, open(path + ".part", "w"))
        os.replace(path + ".part", path)
        os.remove(model)

    def wanted(self):
        seen = []  # --windows may make the base one of the calibration settings
        for part, name, start, change, base in SETTINGS:
            options = None if self.a.only and name not in self.a.only else self.options(start, change)
            if options is not None and options not in seen:
                seen.append(options)
                yield part, name, options, base

    def run_all(self):
        jobs = [(name, options, seed) for _, name, options, _ in self.wanted() for seed in self.a.seeds]
        for index, (name, options, seed) in enumerate(jobs):
            if os.path.exists(self.path_of(name, options, seed)):
                continue
            if self.a.until and time.strftime("%H:%M") >= self.a.until:
                print(f"it is {self.a.until}: {len(jobs) - index} of {len(jobs)} runs are left for another call", flush=True)
                return
            print(f"{time.strftime('%H:%M:%S')} {index + 1} of {len(jobs)}: {name}, seed {seed}", flush=True)
            self.run(name, options, seed)

    def results(self):
        rows = []
        for part, name, options, base in self.wanted():
            runs = [json.load(open(path)) for seed in self.a.seeds if os.path.exists(path := self.path_of(name, options, seed))]
            if runs:
                rows.append({"part": part, "name": name, "base": base, "options": options, "runs": runs})
        return sorted(rows, key=lambda row: PARTS.index(row["part"]))


def changes(row, rows):
    """Per text the list of (seed, log ratio of perplexities to the base of the same seed)."""
    base = next((other for other in rows if other["name"] == row["base"]), None)
    result = {}
    for run in row["runs"]:
        against = next((other for other in base["runs"] if other["seed"] == run["seed"]), None) if base else None
        for text, figures in run["perplexity"].items() if against else ():
            result.setdefault(text, []).append((run["seed"], math.log(figures["value"] / against["perplexity"][text]["value"])))
    return result


def standard_error(row, rows):
    """Of the mean log ratio, from the differences of the same windows."""
    base = next((other for other in rows if other["name"] == row["base"]), None)
    differences = []
    for text in row["runs"][0]["perplexity"] if base else ():
        pairs = [(run, other) for run in row["runs"] for other in base["runs"] if run["seed"] == other["seed"]]
        if pairs:  # the seeds share their windows: average them first
            windows = zip(*([a - b for a, b in zip(run["perplexity"][text]["window_nll"], other["perplexity"][text]["window_nll"])] for run, other in pairs))
            differences.append([sum(values) / len(values) for values in windows])
    if not differences or min(map(len, differences)) < 2:
        return 0.0
    variance = 0.0
    for values in differences:
        mean = sum(values) / len(values)
        variance += sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)
    return math.sqrt(variance) / len(differences)


def percent(log_ratio):
    return f"{100 * (math.exp(log_ratio) - 1):+.1f} %"


def difference(row, rows):
    """What the command has that its base has not, for the reader; all of it where the method is another."""
    if row["part"] == "everything":
        return "as the command is without options"
    texts = lambda options, skip: [" ".join(pair) for pair in pairs(options) if pair[0] not in skip]
    skip = () if row["part"] in ("base", "calibration") else ("--nsamples",)
    base = next((texts(other["options"], skip) for other in rows if other["name"] == row["base"]), [])
    return " ".join(text for text in texts(row["options"], skip) if text not in base)


def table(rows):
    texts = list(rows[0]["runs"][0]["perplexity"])
    lines = ["| part | change | code bits | effective | " + " | ".join(texts) + " | against its base | lowest, highest |", "|" + "---|" * (6 + len(texts))]
    for row in rows:
        mean = lambda key: sum(run[key] for run in row["runs"]) / len(row["runs"])
        cells = ["; ".join(f"{run['perplexity'][text]['value']:.4g}" for run in row["runs"]) for text in texts]
        ratios = [value for values in changes(row, rows).values() for _, value in values]
        against = f"{percent(sum(ratios) / len(ratios))} ± {100 * standard_error(row, rows):.1f}" if ratios else "—"
        spread = f"{percent(min(ratios))}, {percent(max(ratios))}" if ratios else "—"
        note = f" (of `{row['base']}`)" if row["base"] not in (None, "base") else ""
        lines.append(f"| {row['part']} | `{difference(row, rows)}` | {mean('code_bits'):.3f} | {mean('effective_bits'):.3f} | " + " | ".join(cells) +
                     f" | {against}{note} | {spread} |")
    return "\n".join(lines)


def svg(rows):
    rows = [row for row in rows if changes(row, rows) or row["base"] is None]
    texts = list(rows[0]["runs"][0]["perplexity"])
    ratios = [v for row in rows for values in changes(row, rows).values() for _, v in values]
    low, high = min([-0.05, *ratios]), min(max([0.05, *ratios]), math.log(2.0))
    left, right, line = 330, 860, 22
    x = lambda value: left + (min(value, high) - low) / (high - low) * (right - left)
    height = line * len(rows) + 70
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" font-family="sans-serif" font-size="12" role="img">',
           "<title>Change of perplexity against the base, one change at a time</title>",
           "<style>text{fill:#222}.g{stroke:#ccc}.z{stroke:#555}.a{fill:#1f6fb2}.b{fill:none;stroke:#c2410c;stroke-width:2}"
           "@media(prefers-color-scheme:dark){text{fill:#ddd}.g{stroke:#444}.z{stroke:#aaa}.a{fill:#6cb2eb}.b{stroke:#fb923c}}</style>"]
    for tick in (-30, -20, -10, 0, 10, 20, 30, 50, 70, 100):
        at = math.log1p(tick / 100)
        if low - 1e-9 <= at <= high + 1e-9:
            out.append(f'<line class="{"g" if tick else "z"}" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="24" y2="{height - 40}"/>')
            out.append(f'<text x="{x(at):.1f}" y="{height - 24}" text-anchor="middle">{f"{tick:+d}" if tick else 0} %</text>')
    for index, row in enumerate(rows):
        y = 38 + index * line
        label = row["part"] + ": " + difference(row, rows) if row["base"] else "base"
        out.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{label.replace("--", "")}</text>')
        for text, values in changes(row, rows).items():
            for seed, value in values:
                shape = "a" if text == texts[0] else "b"
                beyond = ", beyond the axis" if value > high else ""
                out.append(f'<circle class="{shape}" cx="{x(value):.1f}" cy="{y}" r="4"><title>{text}, seed {seed}: {percent(value)}{beyond}</title></circle>')
    names = " ".join(f"{'filled' if i == 0 else 'open'}: {text}." for i, text in enumerate(texts[:2]))
    out.append(f'<text x="{left}" y="{height - 6}">Perplexity against the base with the same calibration draw; {names} One dot for each draw.</text></svg>')
    return "\n".join(out) + "\n"


PAGE = f"""# What each part brings

Figures of `bench/ablation.py`: one change at a time from a base setting, on development texts (on which the defaults were
chosen; the test texts were not looked at for it), with as many calibration draws as the table has figures in a cell. The
base is mixed precision with everything off that can be taken away. "Against its base" is the mean change of perplexity over texts
and draws, each against the base with the same draw; ± is the standard error of that mean from the same windows' losses. The last
column is the lowest and highest of the single changes. A change within about twice its error is no finding.

![the same as a plot](ablation.svg)

{BEGIN}
{END}
"""


def facts(bench, rows):
    """What the figures were made from, for the page."""
    a = bench.a
    texts = ", ".join(f"{name}: the first {windows} windows of {a.eval_seqlen:,} tokens" for name, _, windows in bench.texts)
    binaries = sorted({run["provenance"]["binary"] for row in rows for run in row["runs"]})
    digests = ", ".join(f"{name} `{value}`" for name, value in [("model", bench.provenance["model"]), ("calibration", bench.provenance["calibration"])] +
                        [(name, value[0]) for name, value in bench.provenance["texts"].items()])
    return (f"Calibration: {a.windows} windows of {a.seqlen} tokens, drawn at random from the lines of `{os.path.basename(a.calibration)}` (`--sampling random`, seeds "
            f"{', '.join(map(str, a.seeds))}). Evaluated in bfloat16 on {texts}. Program: {bench.provenance['version']}, BLAKE2b of the binary {', '.join(binaries)}; "
            f"of the files: {digests}.")


def write_page(bench, rows):
    if not os.path.exists(bench.a.page):
        open(bench.a.page, "w", encoding="utf-8").write(PAGE)
    page = open(bench.a.page, encoding="utf-8").read()
    if BEGIN not in page or END not in page:
        sys.exit(f"{bench.a.page}: has no lines '{BEGIN}' and '{END}' to put the table between")
    head, _, rest = page.partition(BEGIN)
    tail = rest.partition(END)[2]
    text = f"{head}{BEGIN}\n\n{facts(bench, rows)}\n\n{table(rows)}\n\n{END}{tail}"
    open(bench.a.page, "w", encoding="utf-8").write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.path.join(HERE, "../build/release/tools"), help="folder of miq-compress and run-eval")
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", required=True, help="a text whose lines are documents")
    parser.add_argument("--text", action="append", required=True, metavar="NAME=PATH:WINDOWS")
    parser.add_argument("--out", required=True)
    parser.add_argument("--windows", type=int, default=24, help="calibration windows")
    parser.add_argument("--seqlen", type=int, default=512, help="tokens of a calibration window")
    parser.add_argument("--eval-seqlen", type=int, default=1024)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--bpw", default="3.32")
    parser.add_argument("--sparse-bpw", default="3.18")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of " + ", ".join(name for _, name, *_ in SETTINGS))
    parser.add_argument("--until", metavar="HH:MM")
    parser.add_argument("--also-binary", nargs="+", default=[], metavar="DIGEST",
                        help="take finished runs of these binaries too (results.json names each run's): for changes that left the bytes alone")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--page")
    parser.add_argument("--plot")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    if not arguments.report_only:
        bench.run_all()
    rows = bench.results()
    if not rows or rows[0]["name"] != "base":
        sys.exit("no finished run of the base: nothing to compare with")
    json.dump({"provenance": bench.provenance, "rows": rows}, open(os.path.join(arguments.out, "results.json"), "w"), indent=1)
    print(table(rows))
    if arguments.page:
        write_page(bench, rows)
    if arguments.plot:
        open(arguments.plot, "w", encoding="utf-8").write(svg(rows))


if __name__ == "__main__":
    main()
