// What an evaluation may hold, from the model's sizes alone:
//
//   walk_memory MODEL DTYPE TOKENS WINDOWS THREADS
//
// prints the bytes of two layers, of what else loading one takes, of embedding and head where they are decoded, of the activations of
// WINDOWS windows of TOKENS between layers, and of what THREADS windows use within a layer or for their losses (a block each), and their
// sum. eval_memory.py sets it against what run-eval measures. DTYPE is bfloat16 or float32.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>

#include "miq/converters/open_model.h"
#include "miq/model/architecture.h"
#include "miq/model/bf16_product.h"
#include "miq/model/forward.h"

int main(int count, char** arguments) {
  using namespace miq;
  if (count != 6) {
    std::fprintf(stderr, "walk_memory MODEL bfloat16|float32 TOKENS WINDOWS THREADS\n");
    return 2;
  }
  try {
    const Model model = open_model(arguments[1]);
    const bool narrow = std::string(arguments[2]) == "bfloat16";
    const ForwardPass forward(model, narrow ? ComputeType::BFloat16 : ComputeType::Float32);
    const std::int64_t tokens = std::stoll(arguments[3]), windows = std::stoll(arguments[4]), threads = std::stoll(arguments[5]);
    const WalkMemory memory = forward.walk_memory(tokens);
    // A file's own bfloat16 embedding is read where it lies; any other is decoded, and stays beside the head that is packed from it.
    const Tensor& embedding = model.tensors.at(std::string(global_name(architecture(model.config.architecture), Role::Embedding)));
    const bool mapped = embedding.encoding == Encoding::Dense && embedding.dtype == (narrow ? DType::BF16 : DType::F32);
    const std::uint64_t global = mapped ? 0 : forward.global_bytes();
    const std::uint64_t work = memory.work * static_cast<std::uint64_t>(std::min(windows, threads)), between = memory.window * static_cast<std::uint64_t>(windows);
    std::printf("layers %llu\nloading %llu\nglobal %llu\nactivations %llu\nwork %llu\nsum %llu\n", 2ull * memory.kept, 0ull + memory.loading, 0ull + global + memory.head,
                0ull + between, 0ull + work, 0ull + 2 * memory.kept + memory.loading + global + memory.head + between + work);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "walk_memory: %s\n", error.what());
    return 1;
  }
}
