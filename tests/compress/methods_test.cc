// Which options go together.
#include "miq/compress/methods.h"

#include <gtest/gtest.h>

#include <cmath>

#include "miq/base/error.h"

namespace miq {
namespace {

Config config() {
  Config c;
  c.hidden = 16;
  c.layers = {{2, 1, 8, 24}};
  return c;
}

struct Row {
  const char* what;
  CompressOptions options;
};

template <typename Change>
CompressOptions with(Change change) {
  CompressOptions options;
  change(options);
  return options;
}

TEST(Methods, RefusesOptionsThatContradictEachOtherOrDoNothing) {
  const Row rows[] = {
      {"unknown method", with([](auto& o) { o.method = "magic", o.wbits = 4; })},
      {"nothing to do", with([](auto&) {})},
      {"width 16 is none", with([](auto& o) { o.wbits = 16; })},
      {"quantizing without bits", with([](auto& o) { o.method = "mi"; })},
      {"quantizing without bits but zeros", with([](auto& o) { o.method = "mixed", o.sparsity = 0.5; })},
      {"enhanced without bits", with([](auto& o) { o.method = "enhanced"; })},
      {"group size without bits", with([](auto& o) { o.sparsity = 0.5, o.group_size = 64; })},
      {"groups without bits", with([](auto& o) { o.sparsity = 0.5, o.n_groups = 4; })},
      {"bit method without bits", with([](auto& o) { o.sparsity = 0.5, o.bit_method = BitMethod::Budget; })},
      {"scales of a width that there is not", with([](auto& o) { o.method = "mixed", o.wbits = 4, o.scale_bits = 3; })},
      {"scales without bits", with([](auto& o) { o.sparsity = 0.5, o.scale_bits = 8; })},
      {"groups twice", with([](auto& o) { o.method = "mi", o.wbits = 4, o.n_groups = 4, o.group_size = 8; })},
      {"group of nothing", with([](auto& o) { o.wbits = 4, o.group_size = 0; })},
      {"width and another target", with([](auto& o) { o.method = "mi", o.wbits = 4, o.target_avg_bits = 3.5; })},
      {"epochs of nothing", with([](auto& o) { o.wbits = 4, o.tune_epochs = 2; })},
      {"no epochs", with([](auto& o) { o.wbits = 4, o.tune = Tune::Norms, o.tune_epochs = 0; })},
      {"scales of nothing", with([](auto& o) { o.sparsity = 0.5, o.tune = Tune::Scales; })},
      {"odd width", with([](auto& o) { o.wbits = 5; })},
      {"uniform at a fraction", with([](auto& o) { o.target_avg_bits = 3.5; })},
      {"target out of range", with([](auto& o) { o.method = "mi", o.target_avg_bits = 9; })},
      {"target below the levels", with([](auto& o) {
         o.method = "mi", o.target_avg_bits = 2.5, o.levels = std::vector<int>{3, 4};
       })},
      {"sparsity 1", with([](auto& o) { o.sparsity = 1; })},
      {"negative sparsity", with([](auto& o) { o.sparsity = -0.1; })},
      {"NaN sparsity", with([](auto& o) { o.sparsity = std::nan(""); })},
      {"n without m", with([](auto& o) { o.prune_n = 2; })},
      {"m zeros in m", with([](auto& o) { o.prune_n = 4, o.prune_m = 4; })},
      {"m that does not divide", with([](auto& o) { o.prune_n = 1, o.prune_m = 5; })},
      {"n:m against sparsity", with([](auto& o) { o.prune_n = 2, o.prune_m = 4, o.sparsity = 0.6; })},
      {"zeros with rtn", with([](auto& o) { o.method = "rtn", o.wbits = 4, o.sparsity = 0.5; })},
      {"grouping with sparsegpt", with([](auto& o) { o.wbits = 4, o.grouping = Grouping::Sensitivity; })},
      {"groups with enhanced", with([](auto& o) { o.method = "enhanced", o.wbits = 4, o.n_groups = 4; })},
      {"quantile with mi", with([](auto& o) { o.method = "mi", o.wbits = 4, o.bit_method = BitMethod::Quantile; })},
      {"allocator with one width", with([](auto& o) { o.wbits = 4, o.allocator = Allocator::Global; })},
      {"allocator without bits", with([](auto& o) { o.sparsity = 0.5, o.allocator = Allocator::Global; })},
      {"global with enhanced", with([](auto& o) { o.method = "enhanced", o.wbits = 4, o.allocator = Allocator::Global; })},
      {"redundancy with enhanced", with([](auto& o) { o.method = "enhanced", o.wbits = 4, o.allocator = Allocator::Redundancy; })},
      {"two allocators",
       with([](auto& o) { o.method = "enhanced", o.wbits = 4, o.allocator = Allocator::Quantile, o.bit_method = BitMethod::Budget; })},
      {"budget without target", with([](auto& o) { o.method = "mixed", o.allocator = Allocator::Budget; })},
      {"two targets", with([](auto& o) { o.method = "mixed", o.wbits = 4, o.target_bpw = 4.5; })},
      {"effective bits of one width", with([](auto& o) { o.target_bpw = 4.5; })},
      {"effective bits of enhanced", with([](auto& o) { o.method = "enhanced", o.target_bpw = 4.5; })},
      {"no effective bits", with([](auto& o) { o.method = "mixed", o.target_bpw = 0; })},
      {"estimator without information", with([](auto& o) { o.method = "mixed", o.wbits = 4, o.mi_estimator = MiEstimator::Binned; })},
      {"estimator with gptq", with([](auto& o) { o.method = "gptq", o.wbits = 4, o.mi_estimator = MiEstimator::Gaussian; })},
      {"clustering without clusters",
       with([](auto& o) { o.method = "mi", o.wbits = 4, o.grouping = Grouping::Random, o.clustering = Clustering::Spectral; })},
      {"scores' weights with mi", with([](auto& o) {
         o.method = "mi", o.wbits = 4, o.importance_weights = std::vector<double>{1, 1, 1, 1, 1};
       })},
      {"four weights", with([](auto& o) {
         o.method = "enhanced", o.wbits = 4, o.importance_weights = std::vector<double>{1, 1, 1, 1};
       })},
      {"negative weight", with([](auto& o) {
         o.method = "enhanced", o.wbits = 4, o.importance_weights = std::vector<double>{1, 1, -1, 1, 1};
       })},
      {"no weight", with([](auto& o) {
         o.method = "enhanced", o.wbits = 4, o.importance_weights = std::vector<double>{0, 0, 0, 0, 0};
       })},
      {"no damping", with([](auto& o) { o.wbits = 4, o.damping = 0; })},
  };
  for (const Row& row : rows) EXPECT_THROW(resolve(row.options, config()), UsageError) << row.what;
}

TEST(Methods, AWidthAloneIsTheTarget) {
  const Recipe mi = resolve(with([](auto& o) { o.method = "mi", o.wbits = 4; }), config());
  EXPECT_EQ(mi.target, 4.0);
  EXPECT_EQ(mi.grouping, Grouping::MutualInformationEqual);
  EXPECT_EQ(mi.group_size, 32);
  EXPECT_EQ(resolve(with([](auto& o) { o.method = "mi", o.wbits = 4, o.scale_bits = 16; }), config()).group_size, 64);
  EXPECT_EQ(resolve(with([](auto& o) { o.method = "mi", o.wbits = 4, o.sparsity = 0.5; }), config()).group_size, 64);
  EXPECT_EQ(resolve(with([](auto& o) { o.method = "mi", o.wbits = 4, o.sparsity = 0.5, o.scale_bits = 16; }), config()).group_size, 128);
  EXPECT_EQ(mi.scale_bits, 6);
  EXPECT_EQ(mi.to_json()["scale_bits"], 6);
  const Recipe uniform = resolve(with([](auto& o) { o.target_avg_bits = 4; }), config());
  EXPECT_EQ(uniform.width, 4);
  EXPECT_EQ(uniform.groups(100), 1);
  EXPECT_EQ(uniform.scale_bits, 16);
  EXPECT_FALSE(uniform.to_json().contains("scale_bits"));
}

TEST(Methods, QuantileNeedsNoTarget) {
  const Recipe recipe = resolve(with([](auto& o) { o.method = "enhanced", o.bit_method = BitMethod::Quantile; }), config());
  EXPECT_TRUE(recipe.quantize);
  EXPECT_FALSE(recipe.target);
}

TEST(Methods, AllocatorsAndBitMethodsAreTwoNames) {
  const Recipe quantile = resolve(with([](auto& o) { o.method = "enhanced", o.allocator = Allocator::Quantile; }), config());
  EXPECT_EQ(quantile.bit_method, BitMethod::Quantile);
  EXPECT_EQ(quantile.to_json(),
            resolve(with([](auto& o) { o.method = "enhanced", o.bit_method = BitMethod::Quantile; }), config()).to_json());
  const Recipe groups = resolve(with([](auto& o) { o.method = "mixed", o.allocator = Allocator::Quantile; }), config());
  EXPECT_TRUE(groups.quantize);
  EXPECT_FALSE(groups.target);
}

TEST(Methods, DefaultsAreNotWrittenDown) {
  const Recipe plain = resolve(with([](auto& o) { o.method = "mi", o.wbits = 4; }), config());
  const Recipe spelled = resolve(with([](auto& o) {
                                   o.method = "mi", o.wbits = 4, o.allocator = Allocator::Global, o.mi_estimator = MiEstimator::Gaussian,
                                   o.clustering = Clustering::Spectral;
                                 }),
                                 config());
  EXPECT_EQ(plain.to_json(), spelled.to_json());
  const Recipe other = resolve(with([](auto& o) { o.method = "mi", o.target_bpw = 4.4, o.allocator = Allocator::Redundancy; }), config());
  EXPECT_EQ(other.to_json()["target_bpw"], 4.4);
  EXPECT_EQ(other.to_json()["allocator"], "redundancy");
}

TEST(Methods, EqualSparsityAndPatternAgree) {
  const Recipe recipe = resolve(with([](auto& o) { o.prune_n = 2, o.prune_m = 4, o.sparsity = 0.5; }), config());
  EXPECT_EQ(recipe.sparsity, 0.5);
  EXPECT_EQ(recipe.prune_m, 4);
}

}  // namespace
}  // namespace miq
