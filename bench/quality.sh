#!/usr/bin/env bash
# bench/quality.sh MODEL DATA FOLDER: the methods side by side at 4 bits, with the settings that docs/results.md
# states: calibrated on the first 48 C4 pages of at least 512 tokens (DATA/c4/c4.utf8), evaluated in bfloat16 on
# the first 12 windows of 1,024 tokens of WikiText-2 (DATA/wikitext2/wiki.test.raw). BIN is the folder of the programs.
set -euo pipefail
bin=${BIN:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/release/tools}
model=$1 data=$2 out=$3
mkdir -p "$out"
compress() {
  local name=$1
  shift
  [[ -e "$out/$name.miq" ]] || "$bin/miq-compress" "$model" "$data/c4/c4.utf8" -o "$out/$name.miq" --documents lines --sampling in-order \
    --nsamples 48 --seqlen 512 "$@" >"$out/$name.txt" 2>"$out/$name.log" || { tail -5 "$out/$name.log" >&2; exit 1; }
}
compress sparsegpt --method sparsegpt --wbits 4
compress enhanced --method enhanced --bit-method budget --target-avg-bits 4.0
compress mi --method mi --target-avg-bits 4.0
compress mixed --method mixed --target-avg-bits 4.0
compress sparsegpt-50 --method sparsegpt --sparsity 0.5 --wbits 4
compress mi-50 --method mi --sparsity 0.5 --target-avg-bits 4.0
"$bin/run-eval" "dense=$model" "$out"/{sparsegpt,enhanced,mi,mixed,sparsegpt-50,mi-50}.miq --metrics all --no-cache --dtype bfloat16 \
  --dataset "wikitext2=$data/wikitext2/wiki.test.raw" --seqlen 1024 --windows 12 --output "$out/report.json" --markdown "$out/report.md" --html "$out/report.html"
