#!/usr/bin/env bash
# bench/cuda.sh [WORK]: what a machine with an NVIDIA GPU has to show, in one call: the tests of the kernels and of the forward pass, compute-sanitizer on
# them, the time of each part against its floors at the shapes of Llama 2 7B and 70B, a whole random 7B model compressed end to end; the rate of
# evaluating that shape over the rate of bfloat16 products, its losses against the processor's float32, the packed kernels' bandwidth.
#
# Needs a build with -DMIQ_CUDA=ON (preset cuda) in BUILD, by default build/cuda, and LibTorch's CUDA part with the nvidia-* wheels. WORK: 40 GB of disk.
# What cannot run is said, and the rest goes on.
set -uo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build/cuda} work=${1:-bench_cuda} device=${DEVICE:-cuda}
library=$build/lib/miq/libmiq_cuda.so
mkdir -p "$work"
say() { printf '\n== %s\n' "$*"; }
run() { "$@" || echo "FAILED ($?): $*"; }

say "machine"
if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv; else echo "not run: no nvidia-smi"; fi
[[ -f $library ]] || { echo "$library is not there: configure with --preset cuda and build"; exit 1; }

say "tests of the kernels"
run "$build/tests/base_tests" --gtest_filter='CudaLibrary.*' --gtest_brief=1
run "$build/tests/compress_tests" --gtest_filter='Device*' --gtest_brief=1
run "$build/tests/model_tests" --gtest_filter='Device*' --gtest_brief=1

say "compute-sanitizer"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    run compute-sanitizer --tool $tool --error-exitcode 9 "$build/tests/compress_tests" --gtest_filter='DeviceSweep.Gpu*:DeviceStatistics.Mutual*' --gtest_brief=1
  done
  run compute-sanitizer --tool memcheck --error-exitcode 9 "$build/tests/model_tests" --gtest_filter='DeviceForm.*OnAGpu' --gtest_brief=1
  [[ -x $build/bench/cuda_speed ]] && run compute-sanitizer --tool racecheck --error-exitcode 9 "$build/bench/cuda_speed" "$device" "$library" 1 1
else
  echo "not run: no compute-sanitizer"
fi

say "evaluation of Llama 2 7B's shape in windows of 2048, losses, packed kernels (goals: 0.6 of the product rate, 0.002, 0.6 of the bandwidth)"
run "$build/bench/cuda_speed" "$device" "$library"

for shape in 7b 70b; do
  say "parts, $shape"
  run "$build/bench/cuda_parts" "$device" $shape "$library"
done

say "a random model of Llama 2 7B's shape, end to end (goals on an H100: sparsegpt 90 s, mi 150 s)"
run "$build/bench/random_model" 7b "$work/random7b.miq" "$work/calibration.txt"
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
  rm -f "$work/$name.miq"
}
timed sparsegpt --method sparsegpt --sparsity 0.5 --wbits 4
timed mi --method mi --target-avg-bits 4

say "the original SparseGPT on the same GPU and model"
if [[ -n ${SPARSEGPT:-} ]]; then run bash -c "$SPARSEGPT"; else echo "not run: name its command in SPARSEGPT"; fi
