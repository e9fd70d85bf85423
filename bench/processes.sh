#!/usr/bin/env bash
# processes.sh TOOLS MODEL TEXT FOLDER [OPTION...]: one compression by 1, 2 and 4 processes of one thread each: seconds, processors' time of all
# together (what it costs beyond one process), bytes between the processes, digests of the files (the same), and perplexity of the first.
set -euo pipefail
tools=$1 model=$2 text=$3 folder=$4
shift 4
options=("$@")
((${#options[@]})) || options=(--method gptq --wbits 4 --group-size 64 --nsamples 16 --seqlen 512 --documents whole --sampling in-order --dtype float32)
mkdir -p "$folder"
for n in 1 2 4; do
  start=(mpirun --oversubscribe --bind-to none -n "$n")
  ((EUID == 0)) && start+=(--allow-run-as-root)
  ((n == 1)) && start=()
  out=$folder/by-$n.miq
  rm -rf "$out" "$out.journal"
  TIMEFORMAT="%R %U %S"
  times=$({ time "${start[@]}" "$tools/miq-compress" "$model" "$text" -o "$out" --threads 1 --no-journal "${options[@]}" >"$folder/by-$n.txt" 2>"$folder/by-$n.log"; } 2>&1)
  echo "$n: $times" | awk '{printf "%s %.1f s, processors %.1f s\n", $1, $2, $3 + $4}'
  grep " processes: " "$folder/by-$n.log" || true
done
sha256sum "$folder"/by-{1,2,4}.miq
"$tools/run-eval" "$folder"/by-1.miq --dataset "own=$text" --seqlen 512 --windows 32 --metrics ppl,size --no-cache --threads 1 --dtype float32 --format markdown
