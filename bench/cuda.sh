#!/usr/bin/env bash
# bench/cuda.sh [WORK]: what a machine with an NVIDIA GPU has to show, in one call: the tests of the kernels and of the forward pass, compute-sanitizer on
# them, the rate of evaluating Llama 2 7B's shape over the rate of bfloat16 products and its losses against the processor's float32; the kernels for packed
# weights against the memory's bandwidth, evaluation and generation from packed weights; sums between GPUs by NCCL, and two processes that compress together;
# the time of each part of a compression against its floors at the shapes of Llama 2 7B and 70B, a whole random 7B model compressed end to end.
#
# Needs a build with -DMIQ_CUDA=ON (preset cuda) in BUILD, by default build/cuda, and LibTorch's CUDA part with the nvidia-* wheels. WORK: 40 GB of disk.
# What cannot run is said, and the rest goes on. Without a GPU the programs run with stand-ins for the kernels, which shows that they work and nothing else.
set -uo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build/cuda} work=${1:-bench_cuda} device=${DEVICE:-cuda}
library=$build/lib/miq/libmiq_cuda.so
mkdir -p "$work"
say() { printf '\n== %s\n' "$*"; }
run() { "$@" || echo "FAILED ($?): $*"; }
# Whether a GPU is there for the part whose name was said.
gpu() { ((gpus > 0)) || { echo "not run: no GPU"; return 1; }; }

say "machine"
gpus=0
if command -v nvidia-smi >/dev/null && list=$(nvidia-smi -L 2>&1); then
  gpus=$(grep -c '^GPU' <<<"$list")
  nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
else
  echo "no GPU: nvidia-smi is missing or finds none"
fi
((gpus > 0)) || device=cpu
echo "$gpus GPUs"
[[ -f $library ]] || { echo "$library is not there: configure with --preset cuda and build"; exit 1; }

say "tests of the kernels (those on a GPU skip where there is none)"
run "$build/tests/base_tests" --gtest_filter='CudaLibrary.*:DeviceSums.*' --gtest_brief=1
run "$build/tests/formats_tests" --gtest_filter='PackedView.*' --gtest_brief=1
run "$build/tests/compress_tests" --gtest_filter='Device*' --gtest_brief=1
run "$build/tests/model_tests" --gtest_filter='Device*:LayerLoader.*:PackedProducts.*' --gtest_brief=1

say "compute-sanitizer"
if ! command -v compute-sanitizer >/dev/null; then
  echo "not run: no compute-sanitizer"
elif gpu; then
  for tool in memcheck racecheck; do
    run compute-sanitizer --tool $tool --error-exitcode 9 "$build/tests/compress_tests" --gtest_filter='DeviceSweep.Gpu*:DeviceStatistics.Mutual*' --gtest_brief=1
    run compute-sanitizer --tool $tool --error-exitcode 9 "$build/tests/model_tests" --gtest_filter='LayerLoader.*OnAGpu' --gtest_brief=1
  done
  run compute-sanitizer --tool memcheck --error-exitcode 9 "$build/tests/model_tests" --gtest_filter='DeviceForm.*OnAGpu' --gtest_brief=1
  run compute-sanitizer --tool racecheck --error-exitcode 9 "$build/bench/cuda_packed" "$device" "$library" 1 1
fi

say "evaluation of Llama 2 7B's shape in windows of 2048, losses (goals: 0.6 of the product rate, 0.002)"
gpu && run "$build/bench/cuda_speed" "$device"

say "packed weights: kernels, evaluation, generation (goals: 0.6 of the bandwidth in products and in steps of generation)"
run "$build/bench/cuda_packed" "$device" "$library"

say "sums between GPUs by NCCL"
run timeout 600 "$build/bench/cuda_sums" "$device" "$library"

say "two processes that compress together, and one: the same file"
together() {  # NAME processes
  local start=()
  (($2 > 1)) && start=(mpirun --oversubscribe --bind-to none -n "$2")
  (($2 > 1 && EUID == 0)) && start+=(--allow-run-as-root)
  timeout 600 "${start[@]}" "$build/tools/miq-compress" "$work/small.miq" "$work/small.txt" -o "$work/$1.miq" --no-journal --device "$device" --method gptq --wbits 4 \
    --group-size 64 --nsamples 16 --seqlen 256 >"$work/$1.out" 2>"$work/$1.log" || { echo "FAILED: $1"; tail -3 "$work/$1.log"; return 1; }
  grep "sums between the processes" "$work/$1.log"
  return 0
}
if ! command -v mpirun >/dev/null; then
  echo "not run: no mpirun"
elif [[ ! -f $build/lib/miq/libmiq_mpi.so ]]; then
  echo "not run: a build without MPI"
else
  ((gpus > 1)) || echo "with fewer than two GPUs sums have to pass through host memory; NCCL between processes is not run"
  rm -f "$work"/by-*.miq
  run "$build/bench/random_model" small "$work/small.miq" "$work/small.txt"
  if together by-1 1 && together by-2 2; then
    if cmp "$work/by-1.miq" "$work/by-2.miq"; then echo "the same bytes"; else echo "FAILED: the files differ"; fi
  fi
fi

for shape in 7b 70b; do
  say "parts of a compression, $shape"
  gpu && run "$build/bench/cuda_parts" "$device" $shape "$library"
done

say "a random model of Llama 2 7B's shape, end to end (goals on an H100: sparsegpt 90 s, mi 150 s)"
timed() {  # NAME option…
  local name=$1 start=$SECONDS
  shift
  if "$build/tools/miq-compress" "$work/random7b.miq" "$work/calibration.txt" -o "$work/$name.miq" --no-journal --device "$device" --nsamples 128 --seqlen 2048 "$@" \
    >"$work/$name.out" 2>"$work/$name.log"; then
    echo "$name: $((SECONDS - start)) s, reading and writing included"
  else
    echo "$name FAILED:"
    tail -3 "$work/$name.log"
  fi
}
# What run-eval says of the device, and its table.
evaluated() {
  if "$build/tools/run-eval" "$work/$1.miq" --dataset "own=$work/calibration.txt" --windows 32 --metrics ppl,speed --no-cache --device "$device" \
    >"$work/$1.eval" 2>"$work/$1.log"; then
    grep "packed matri" "$work/$1.log"
    cat "$work/$1.eval"
  else
    echo "evaluation of $1 FAILED:"
    tail -3 "$work/$1.log"
  fi
  rm -f "$work/$1.miq"
}
if gpu; then
  run "$build/bench/random_model" 7b "$work/random7b.miq" "$work/calibration.txt"
  timed sparsegpt --method sparsegpt --sparsity 0.5 --wbits 4
  evaluated sparsegpt
  timed mi --method mi --target-avg-bits 4
  evaluated mi
fi

say "the original SparseGPT on the same GPU and model"
if [[ -n ${SPARSEGPT:-} ]]; then run bash -c "$SPARSEGPT"; else echo "not run: name its command in SPARSEGPT"; fi
