#!/usr/bin/env bash
# bench/baselines.sh DATA FOLDER: the baselines on the story model (DATA/models/story), calibrated on the first 32
# windows of 256 tokens of DATA/tinystories/tiny.utf8 and evaluated in float32 on its first 40: the figures of
# the original tools for the same settings stand in DATA/checkpoints/*/golden.json. Then the same on the small
# OPT (DATA/models/opt-small): calibrated on the first 64 windows of 256 of DATA/wiki/wiki.utf8, evaluated on 64 of WikiText-2; the
# original tools give 373.724, 375.871, 366.173, 368.354, 396.310 and 391.187.
set -euo pipefail
bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/release/tools
data=$1 out=$2
mkdir -p "$out"
compress() {
  local name=$1
  shift
  "$bin/miq-compress" "$data/models/story" "$data/tinystories/tiny.utf8" -o "$out/$name.miq" --documents whole --sampling in-order --nsamples 32 --seqlen 256 \
    --dtype float32 --quiet "$@"
}
compress sparsegpt-50 --method sparsegpt --sparsity 0.5
compress sparsegpt-50-4bit --method sparsegpt --sparsity 0.5 --wbits 4
compress sparsegpt-3bit --method sparsegpt --wbits 3
compress sparsegpt-2of4-4bit --method sparsegpt --prune-n 2 --prune-m 4 --wbits 4
compress wanda-50 --method wanda --sparsity 0.5
compress magnitude-50 --method magnitude --sparsity 0.5
"$bin/run-eval" "story=$data/models/story" "$out"/{sparsegpt-50,sparsegpt-50-4bit,sparsegpt-3bit,sparsegpt-2of4-4bit,wanda-50,magnitude-50}.miq --metrics ppl,size \
  --dataset "tiny=$data/tinystories/tiny.utf8" --seqlen 256 --windows 40 --dtype float32 --output "$out/report.json" --quiet

opt() {
  local name=$1
  shift
  "$bin/miq-compress" "$data/models/opt-small" "$data/wiki/wiki.utf8" -o "$out/opt-$name.miq" --documents whole --sampling in-order --nsamples 64 --seqlen 256 \
    --dtype float32 --quiet "$@"
}
opt sparsegpt-50 --method sparsegpt --sparsity 0.5
opt sparsegpt-50-4bit --method sparsegpt --sparsity 0.5 --wbits 4
opt sparsegpt-4bit --method sparsegpt --wbits 4
opt sparsegpt-3bit --method sparsegpt --wbits 3
opt wanda-50 --method wanda --sparsity 0.5
opt magnitude-50 --method magnitude --sparsity 0.5
"$bin/run-eval" "opt=$data/models/opt-small" "$out"/opt-{sparsegpt-50,sparsegpt-50-4bit,sparsegpt-4bit,sparsegpt-3bit,wanda-50,magnitude-50}.miq --metrics ppl,size \
  --dataset "wikitext2=$data/wikitext2/wiki.test.raw" --seqlen 256 --windows 64 --dtype float32 --output "$out/opt-report.json" --quiet
