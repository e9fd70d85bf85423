#!/usr/bin/env bash
# bench/side_by_side.sh MODEL C4 FOLDER WINDOWS NAME=TEXT...: mixed precision and what it is measured against, in one run: the same
# calibration (the first 48 lines of C4 with at least 512 tokens), the same windows (the first WINDOWS of SEQLEN, 1,024, tokens of each text,
# bfloat16), the same code path. Prints every figure and the ratios:
#   3 bits   mixed at 3.32 effective bits / uniform (channels sorted by energy, groups of 64, clipped scales)     wanted <= 0.85
#   4 bits   mixed at 4.32 / uniform likewise                                                                    wanted <= 0.93
#   zeros    mixed with 50 % zeros at 3.18 / sparsegpt 50 % + 4 bits in groups of 128                            wanted <= 0.65
#   groups   by mutual information (in bands of like energy, and over all channels) / random ones under the same allocator
#            wanted <= 1; sorted by sensitivity / random beside it. At 3.32 bits, groups of 64 with 16-bit scales, without BEST.
# BIN is the folder of the programs (build/release/tools); BEST has further options of our best at these sizes, BEST_SPARSE
# of that with zeros. What lies in FOLDER is not made again.
set -euo pipefail
bin=${BIN:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/release/tools}
model=$1 c4=$2 out=$3 windows=$4
shift 4
mkdir -p "$out"
compress() {
  local name=$1
  shift
  [[ -e "$out/$name.miq" ]] && return
  echo "$(date +%T) $name: $*" >&2
  "$bin/miq-compress" "$model" "$c4" -o "$out/$name.miq" --documents lines --sampling in-order --nsamples 48 --seqlen 512 --no-journal "$@" \
    >"$out/$name.txt" 2>"$out/$name.log" || [[ $? == 3 ]] || { tail -5 "$out/$name.log" >&2; exit 1; }
}
read -ra best <<<"${BEST:-}"
read -ra best_sparse <<<"${BEST_SPARSE:-}"
plain=(--group-size 64)  # the prototype's: what was added since is off, where the program has it
help=$("$bin/miq-compress" --help)
for option in "--scale-bits 16" "--refine 0" "--tune none"; do
  if [[ $help == *"${option% *} "* ]]; then read -ra words <<<"$option"; plain+=("${words[@]}"); fi
done
compress mixed-3 --method mixed --target-bpw 3.32 "${best[@]}"
compress uniform-3 --method mixed --levels 3 --target-avg-bits 3 "${plain[@]}"
compress mixed-4 --method mixed --target-bpw 4.32 "${best[@]}"
compress uniform-4 --method mixed --levels 4 --target-avg-bits 4 "${plain[@]}"
compress mixed-50 --method mixed --sparsity 0.5 --target-bpw 3.18 "${best_sparse[@]}"
compress sparsegpt-50 --method sparsegpt --sparsity 0.5 --wbits 4 --group-size 128
compress groups-random --method mixed --target-bpw 3.32 --grouping random "${plain[@]}"
compress groups-mi-bands --method mixed --target-bpw 3.32 --grouping mi-sensitivity "${plain[@]}"
compress groups-mi --method mixed --target-bpw 3.32 --grouping mi "${plain[@]}"
compress groups-sorted --method mixed --target-bpw 3.32 --grouping sensitivity "${plain[@]}"
texts=()
for text; do texts+=(--dataset "$text"); done
"$bin/run-eval" "dense=$model" "$out"/{mixed-3,uniform-3,mixed-4,uniform-4,mixed-50,sparsegpt-50,groups-random,groups-mi-bands,groups-mi,groups-sorted}.miq \
  --metrics ppl,size --dtype bfloat16 "${texts[@]}" --seqlen "${SEQLEN:-1024}" --windows "$windows" --output "$out/report.json" --quiet
python3 - "$out/report.json" <<'P'
import json, math, sys
models = {model["name"]: model for model in json.load(open(sys.argv[1]))["models"]}
def ratio(text, ours, theirs):
    a, b = (models[name]["perplexity"][text] for name in (ours, theirs))
    differences = [x - y for x, y in zip(a["window_nll"], b["window_nll"])]
    mean = sum(differences) / len(differences)
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / max(1, len(differences) - 1) / len(differences))
    return a["value"] / b["value"], error
for text in models["dense"]["perplexity"]:
    print(f"\n{text}: ratios, with the standard error of the paired windows")
    for name, ours, theirs, wanted in (("3 bits", "mixed-3", "uniform-3", 0.85), ("4 bits", "mixed-4", "uniform-4", 0.93), ("50 % zeros", "mixed-50", "sparsegpt-50", 0.65),
                                       ("groups", "groups-mi-bands", "groups-random", 1), ("groups", "groups-mi", "groups-random", 1), ("groups", "groups-sorted", "groups-random", None)):
        value, error = ratio(text, ours, theirs)
        verdict = "" if wanted is None else f"wanted <= {wanted}: {'yes' if value <= wanted else 'NO'}"
        print(f"  {name:10} {ours:16} / {theirs:14} {value:.3f} +- {error:.3f}  {verdict}")
P
