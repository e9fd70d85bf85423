// A container with random weights in the shape of a known model, for timings: random_model SHAPE OUT.miq [TEXT]
//
// Weights are normal with deviation 1 / sqrt(inputs), every 64th input channel of a linear four times as large, norms 1. Tokens are bytes. TEXT, when named,
// is written too: random letters, enough for 128 windows of 2048.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <random>
#include <string>

#include "miq/base/error.h"
#include "miq/base/thread_pool.h"
#include "miq/formats/dtype.h"
#include "miq/model/architecture.h"
#include "miq/model/model.h"
#include "tests/tools/byte_tokenizer.h"

namespace {

using namespace miq;

Config config_of(const std::string& shape) {
  Config c;
  c.architecture = "llama";
  c.vocabulary = 32000;
  c.max_positions = 4096;
  if (shape == "7b") {
    c.hidden = 4096;
    c.layers.assign(32, {32, 32, 128, 11008});
  } else if (shape == "70b-2") {  // two layers of it
    c.hidden = 8192;
    c.layers.assign(2, {64, 8, 128, 28672});
  } else if (shape == "small") {
    c.vocabulary = 300;
    c.max_positions = 256;
    c.hidden = 128;
    c.layers.assign(2, {4, 2, 32, 256});
  } else {
    throw UsageError("shape '" + shape + "': give 7b, 70b-2 or small");
  }
  return c;
}

// A fast stand-in for a normal number: the sum of four uniform ones.
float normal(std::uint64_t& state) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  const std::uint64_t bits = state ^ (state >> 29);
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>((bits >> (16 * i)) & 0xffff) / 65536.0f;
  return (sum - 2) * 1.7320508f;
}

void write_text(const std::string& path) {
  std::mt19937 random(1);
  std::ofstream file(path, std::ios::binary);
  for (int i = 0; i < 128 * 2048 * 2; ++i) file.put(i % 7 == 6 ? ' ' : static_cast<char>('a' + random() % 26));
  if (!file.flush()) throw Error(path + ": cannot be written");
}

void make(const std::string& shape, const std::string& path) {
  Model model;
  model.name = "random " + shape;
  model.config = config_of(shape);
  ThreadPool pool;
  for (const ExpectedTensor& expected : expected_tensors(model.config)) {
    const std::int64_t columns = expected.shape.back(), rows = expected.shape.size() == 1 ? 1 : expected.shape[0];
    const bool norm = expected.shape.size() == 1;
    const float deviation = 1 / std::sqrt(static_cast<float>(columns));
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(2 * rows * columns));
    pool.for_each(rows, [&](std::int64_t row) {
      std::uint64_t state = std::hash<std::string>{}(expected.name) + static_cast<std::uint64_t>(row) * 0x9e3779b97f4a7c15u;
      for (std::int64_t j = 0; j < columns; ++j) {
        const std::uint16_t bits = f32_to_bf16(norm ? 1.0f : normal(state) * deviation * (j % 64 == 0 ? 4.0f : 1.0f));
        std::memcpy(bytes.data() + 2 * (row * columns + j), &bits, 2);
      }
    });
    model.tensors.emplace(expected.name, dense_tensor(DType::BF16, expected.shape, Blob(std::move(bytes))));
  }
  const std::string tokenizer = test::byte_tokenizer();
  model.files.emplace("tokenizer.json", Blob(std::vector<std::uint8_t>(tokenizer.begin(), tokenizer.end())));
  save_model(model, path);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: random_model SHAPE OUT.miq [TEXT]\n");
    return 2;
  }
  try {
    make(argv[1], argv[2]);
    if (argc > 3) write_text(argv[3]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "random_model: %s\n", error.what());
    return 1;
  }
}
