// Multiplications against counts made by hand.
#include "miq/evaluate/macs.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/model/small_model.h"
#include "tests/model/small_sliced.h"

namespace miq {
namespace {

std::map<Part, std::int64_t> parts(const MacCount& macs) { return {macs.by_part.begin(), macs.by_part.end()}; }

Config two_layers(const char* architecture) {
  Config config;
  config.architecture = architecture;
  config.vocabulary = 100;
  config.hidden = 16;
  config.max_positions = 64;
  config.layers = {{4, 2, 4, 24}, {2, 1, 4, 10}};
  return config;
}

TEST(Macs, OfALlama) {
  Config config = two_layers("llama");
  const MacCount macs = count_macs(config, 5);
  // q, k, v, o of both layers; gate, up, down of both; the head.
  const std::int64_t attention = (16 * 16 + 2 * 8 * 16 + 16 * 16) + (8 * 16 + 2 * 4 * 16 + 16 * 8);
  EXPECT_EQ(parts(macs), (std::map<Part, std::int64_t>{{Part::Attention, attention}, {Part::Mlp, 3 * 24 * 16 + 3 * 10 * 16}, {Part::Head, 100 * 16}}));
  EXPECT_EQ(macs.products, attention + 3 * 34 * 16 + 1600);
  EXPECT_EQ(macs.rotations(), 0);
  // Five tokens see 1 + 2 + 3 + 4 + 5 tokens.
  EXPECT_DOUBLE_EQ(macs.attention, 2.0 * (16 + 8) * 15 / 5);
  EXPECT_DOUBLE_EQ(macs.per_token(), static_cast<double>(macs.products) + 144);
  config.tied_head = true;
  EXPECT_EQ(count_macs(config, 5).products, macs.products);
  config.layers[0].window = 2;  // its tokens see 1 + 2 + 2 + 2 + 2
  EXPECT_DOUBLE_EQ(count_macs(config, 5).attention, 2.0 * (16 * 9 + 8 * 15) / 5);
  config.layers[1] = {};
  config.layers[1].identity = true;
  EXPECT_EQ(count_macs(config, 5).products, 16 * 16 + 2 * 8 * 16 + 16 * 16 + 3 * 24 * 16 + 1600);
}

TEST(Macs, OfAMixtureCountTheChosenExperts) {
  Config config = two_layers("qwen2_moe");
  config.query_bias = true;
  config.experts_per_token = 2;
  config.layers[1].experts = 5;
  config.layers[1].shared_width = 7;
  const auto counted = parts(count_macs(config, 1));
  EXPECT_EQ(counted.at(Part::Mlp), 3 * 24 * 16 + 2 * 3 * 10 * 16 + 3 * 7 * 16);
  EXPECT_EQ(counted.at(Part::Router), 5 * 16 + 16);  // experts, and whether the shared one is heard
}

TEST(Macs, OfASlicedModelCountItsRotations) {
  const Config config = test::sliced_config("llama", 27);
  const MacCount macs = count_macs(config, 1);
  const std::int64_t rotations = 29 * 31 + 31 * 27 + 27 * 29 + 29 * 27;
  EXPECT_EQ(macs.rotations(), rotations);
  const std::int64_t first = 40 * 29 + 2 * 20 * 29 + 31 * 40 + 2 * 44 * 31 + 27 * 44, second = 40 * 27 + 2 * 20 * 27 + 29 * 40 + 2 * 44 * 29 + 27 * 44;
  EXPECT_EQ(macs.products, rotations + first + second + 53 * 27);
}

TEST(Macs, OfAnOptWithProjections) {
  Config config = two_layers("opt");
  config.norm = NormKind::Layer;
  config.gated_mlp = false;
  config.query_bias = config.output_bias = config.mlp_bias = true;
  config.positions = Positions::Learned;
  config.position_offset = 2;
  config.tied_head = true;
  config.embedding = 6;
  config.layers = {{4, 4, 4, 24}};
  const auto counted = parts(count_macs(config, 1));
  EXPECT_EQ(counted, (std::map<Part, std::int64_t>{{Part::Attention, 4 * 16 * 16}, {Part::Mlp, 2 * 24 * 16}, {Part::Projection, 2 * 6 * 16}, {Part::Head, 100 * 6}}));
}

}  // namespace
}  // namespace miq
