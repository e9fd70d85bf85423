// Products with packed matrices where generation takes them on a GPU, with the kernel's arithmetic in loops on the CPU: which matrices and how many tokens,
// that they are those of the decoded matrix, and that a model generates the same.
#include "miq/model/packed_products.h"

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>

#include "miq/model/generate.h"
#include "tests/model/random_packed.h"
#include "tests/model/small_families.h"
#include "tests/model/small_model.h"
#include "tests/reference/packed_emulation.h"
#include "tests/reference/small_memory.h"

namespace miq::test {
namespace {

using reference::packed_decodes_made;
using reference::packed_products_made;
using reference::packed_table;

TEST(PackedProducts, TakesWhatReadsFewerBytes) {
  const at::Device here(at::kCPU);
  PackedProducts products(&packed_table(), here);
  const Tensor four = random_packed(64, 256, {{4, 4}}, 1), eight = random_packed(64, 256, {{8}}, 2);
  const at::Tensor dense_four = to_torch(four, "four", at::kBFloat16), dense_eight = to_torch(eight, "eight", at::kBFloat16);
  EXPECT_TRUE(products.add(four, "four", dense_four));
  EXPECT_TRUE(products.add(eight, "eight", dense_eight));
  EXPECT_EQ(products.count(), 2u);
  EXPECT_FALSE(products.takes(dense_four, 0));
  EXPECT_TRUE(products.takes(dense_four, 1));
  EXPECT_TRUE(products.takes(dense_four, 3));  // 4 bits and a little against 16
  EXPECT_FALSE(products.takes(dense_four, 4));
  EXPECT_TRUE(products.takes(dense_eight, 1));
  EXPECT_FALSE(products.takes(dense_eight, 2));
  EXPECT_FALSE(products.takes(dense_four.clone(), 1));  // a matrix that nobody added

  // What is not packed, is larger so, or has another shape; and nothing without kernels.
  const Tensor plain = dense_tensor(DType::BF16, {4, 8}, Blob(std::vector<std::uint8_t>(64)));
  EXPECT_FALSE(products.add(plain, "plain", to_torch(plain, "plain", at::kBFloat16)));
  const Tensor tiny = random_packed(2, 4, {{8}}, 3);
  EXPECT_FALSE(products.add(tiny, "tiny", to_torch(tiny, "tiny", at::kBFloat16)));
  EXPECT_FALSE(products.add(four, "four", dense_four.t().contiguous()));
  PackedProducts none;
  EXPECT_FALSE(none.add(four, "four", dense_four));
  EXPECT_FALSE(none.takes(dense_four, 1));
}

TEST(PackedProducts, WithoutRoomTheMatrixStaysDense) {
  const Tensor stored = random_packed(64, 256, {{4, 4}, true}, 1);
  const at::Tensor dense = to_torch(stored, "w", at::kBFloat16);
  PackedProducts products(&packed_table(), at::kCPU);
  {
    reference::SmallMemory memory(6000);
    EXPECT_FALSE(products.add(stored, "w", dense));
    EXPECT_GT(memory.refused, 0);
    EXPECT_EQ(memory.used(), 0);
  }
  EXPECT_EQ(products.count(), 0u);
  EXPECT_EQ(products.bytes(), 0u);
}

TEST(PackedProducts, AreThoseOfTheDecodedMatrix) {
  std::uint32_t seed = 10;
  for (const Form& form : {Form{{2}}, Form{{3, 3}}, Form{{4, 6, 4}}, Form{{4, 2, 6}, true}, Form{{3}, false, true}, Form{{4, 3}, true, true}}) {
    for (const std::int64_t cols : {256, 257}) {  // rows of 257 numbers do not lie on 16 bytes
      const Tensor stored = random_packed(40, cols, form, ++seed, DType::F32), other = random_packed(24, cols, form, ++seed, DType::F32);
      const at::Tensor matrices[] = {to_torch(stored, "a", at::kFloat), to_torch(other, "b", at::kFloat), at::randn({5, cols}, at::kFloat)};
      PackedProducts products(&packed_table(), at::kCPU);
      ASSERT_TRUE(products.add(stored, "a", matrices[0]));
      ASSERT_TRUE(products.add(other, "b", matrices[1]));
      for (const std::int64_t tokens : {1, 2, 50}) {
        const at::Tensor x = at::randn({tokens, cols}, at::kFloat);
        const int before = packed_products_made();
        const std::vector<at::Tensor> got = products.products(x, matrices);
        EXPECT_EQ(packed_products_made() - before, tokens == 50 ? 0 : 2 * tokens);
        ASSERT_EQ(got.size(), 3u);
        for (std::size_t m = 0; m < 3; ++m) {
          const at::Tensor wanted = at::linear(x.to(at::kDouble), matrices[m].to(at::kDouble));
          EXPECT_EQ(got[m].scalar_type(), at::kFloat);
          EXPECT_LT(((got[m].to(at::kDouble) - wanted).norm() / wanted.norm()).item().toDouble(), 1e-6) << cols << " columns, " << tokens << " tokens, matrix " << m;
        }
      }
    }
  }
}

// A prompt goes dense, its steps packed, and the logits are the dense model's.
void check_generation(ComputeType type, double tolerance) {
  ThreadPool pool(2);
  for (const auto& [name, config] : families()) {
    if (type == ComputeType::BFloat16 && config.experts_per_token > 0) continue;  // a rounding may choose another expert
    SmallModel small = small_model(config, DType::BF16);
    std::uint32_t seed = 0;
    int packed = 0, most = 0;
    for (std::int64_t layer = 0; layer < static_cast<std::int64_t>(config.layers.size()); ++layer) {
      for (const LayerTensor& tensor : layer_tensors(config, layer)) {
        if (!tensor.linear() || ++most % 3 == 0) continue;  // some stay dense
        Tensor& stored = small.model.tensors.at(layer_tensor_name(architecture(config.architecture), layer, tensor.name));
        stored = random_packed(stored.shape[0], stored.shape[1], {{4, 3}, (++seed % 2) == 0}, seed, type == ComputeType::Float32 ? DType::F32 : DType::BF16);
        ++packed;
      }
    }
    const int decoded = packed_decodes_made();
    const Generator dense(small.model, type, pool, at::kCPU, Kernels::Device);
    EXPECT_EQ(packed_decodes_made(), decoded);
    const Generator fused(small.model, type, pool, at::kCPU, Kernels::Device, &packed_table());
    EXPECT_GE(packed_decodes_made() - decoded, fused.packed_matrices());  // the dense ones beside them
    EXPECT_EQ(dense.packed_matrices(), 0);
    EXPECT_LE(fused.packed_matrices(), packed);
    EXPECT_GT(fused.packed_matrices(), 0) << name;
    EXPECT_GT(fused.weight_bytes(), dense.weight_bytes());
    const auto prompt = random_ids(30, config.vocabulary, 1);
    Generator::Sequence a = dense.start(40), b = fused.start(40);
    int before = packed_products_made();
    std::vector<std::pair<at::Tensor, at::Tensor>> made{{dense.extend(a, prompt), fused.extend(b, prompt)}};
    const bool experts = config.experts_per_token > 0;  // which see few tokens of a prompt
    const bool anew = name.find("dynamic") != std::string::npos;  // steps compute the whole text, as prompts
    if (!experts) {
      EXPECT_EQ(packed_products_made(), before) << name << ": a prompt is dense";
      EXPECT_TRUE(made.front().first.equal(made.front().second));
    }
    for (const std::int32_t id : {1, 5, 3}) {
      before = packed_products_made();
      Generator::Sequence *one[] = {&a}, *two[] = {&b};
      made.emplace_back(dense.step(one, std::vector{id}).squeeze(0), fused.step(two, std::vector{id}).squeeze(0));
      if (experts) {
        EXPECT_GT(packed_products_made(), before) << name;
      } else if (!anew) {
        EXPECT_EQ(packed_products_made() - before, fused.packed_matrices()) << name;
      }
    }
    for (std::size_t i = 0; i < made.size(); ++i) {
      const auto& [expected, got] = made[i];
      EXPECT_LT(((got - expected).norm() / expected.norm()).item().toDouble(), tolerance) << name << ", step " << i;
    }
  }
}

TEST(PackedProducts, ModelsGenerateTheSame) {
  check_generation(ComputeType::Float32, 1e-4);
  check_generation(ComputeType::BFloat16, 0.05);
}

}  // namespace
}  // namespace miq::test
