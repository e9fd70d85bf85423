#!/usr/bin/env bash
# bench/budgets.sh MODEL C4 TEXT FOLDER [BUDGET…]: perplexity of mixed precision at the sizes of the recipe's prototype, on the
# first 12 and the first 24 windows of 1,024 tokens of TEXT (protocol gptq, bfloat16), for two draws of calibration windows:
#   pages    the first 48 lines of C4 with at least 512 tokens, their first 512 (the prototype's)
#   drawn    48 windows of 512 from random lines, seed 1
# Budgets, all of them without names: 4.32 3.32 2.80 (effective bits), 3.18z 2.67z (with 50 % zeros), 4.0c 2.5c (code bits).
# Prints a table with what was wanted of it. BEST and BEST_SPARSE hold further options, BIN the folder of the programs, DRAWS
# the draws. What lies in FOLDER is not made again.
set -euo pipefail
bin=${BIN:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/release/tools}
model=$1 c4=$2 text=$3 out=$4
shift 4
mkdir -p "$out"
read -ra best <<<"${BEST:-}"
read -ra best_sparse <<<"${BEST_SPARSE:-}"
budgets=("$@")
[[ $# -gt 0 ]] || budgets=(4.32 3.32 2.80 3.18z 3.18 2.67z 4.0c 2.5c)
names=()
for draw in ${DRAWS:-pages drawn}; do
  sampling=(--sampling in-order)
  [[ $draw == pages ]] || sampling=(--sampling random --seed 1)
  for budget in "${budgets[@]}"; do
    case $budget in
      *z) options=(--sparsity 0.5 --target-bpw "${budget%z}" "${best_sparse[@]}") ;;
      *c) options=(--target-avg-bits "${budget%c}" "${best[@]}") ;;
      *) options=(--target-bpw "$budget" "${best[@]}") ;;
    esac
    name=$draw-$budget
    names+=("$out/$name.miq")
    [[ -e "$out/$name.miq" ]] && continue
    echo "$(date +%T) $name: ${options[*]}" >&2
    "$bin/miq-compress" "$model" "$c4" -o "$out/$name.miq" --documents lines "${sampling[@]}" --nsamples 48 --seqlen 512 --no-journal \
      --method mixed "${options[@]}" >"$out/$name.txt" 2>"$out/$name.log" || [[ $? == 3 ]] || { tail -5 "$out/$name.log" >&2; exit 1; }
  done
done
"$bin/run-eval" "${names[@]}" --metrics ppl,size --dtype bfloat16 --dataset "$text" --seqlen 1024 --windows 24 --output "$out/report.json" --quiet
python3 - "$out/report.json" <<'P'
import json, math, sys
# budget: (windows, perplexity wanted, the prototype's best on 12 windows)
WANTED = {"4.0c": [(12, 30.0), (24, 26.7)], "3.32": [(24, 34.5), (12, 0.95 * 37.5)], "2.5c": [(12, 58.5)], "2.80": [(12, 58.5), (12, 0.95 * 55.7)],
          "3.18z": [(24, 44.0), (12, 0.95 * 47.0)], "3.18": [(12, 0.95 * 47.0)], "2.67z": [(12, 66.0)], "4.32": [(12, 30.0), (24, 26.7), (12, 0.95 * 29.1)]}
print(f"{'calibration and budget':24} {'code':>6} {'eff':>6} {'12 windows':>11} {'24 windows':>11}")
for model in json.load(open(sys.argv[1]))["models"]:
    losses = next(iter(model["perplexity"].values()))["window_nll"]
    value = {n: math.exp(sum(losses[:n]) / n) for n in (12, 24) if n <= len(losses)}
    budget = model["name"].split("-", 1)[1]
    verdicts = [f"{n}: <= {most:.2f} {'yes' if value[n] <= most else 'NO'}" for n, most in WANTED.get(budget, []) if n in value]
    bits = model["bits_per_weight"]
    print(f"{model['name']:24} {bits['code']:6.3f} {bits['effective']:6.3f} {value.get(12, math.nan):11.3f} {value.get(24, math.nan):11.3f}  " + "; ".join(verdicts))
P
