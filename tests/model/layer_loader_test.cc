// Packed linears on their way to a device, with the kernel's arithmetic in loops on the CPU: which of them are decoded there, that the layers are those that
// the processor decodes, to the bit, and what happens when memory ends or the kernel fails.
#include "miq/model/layer_loader.h"

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <filesystem>

#include "miq/base/cuda_library.h"
#include "miq/base/error.h"
#include "miq/model/device.h"
#include "miq/model/forward.h"
#include "tests/model/random_packed.h"
#include "tests/model/small_families.h"
#include "tests/model/small_model.h"
#include "tests/reference/packed_emulation.h"
#include "tests/reference/small_memory.h"

namespace miq::test {
namespace {

using reference::packed_decodes_made;
using reference::packed_table;

// Two of three linears of each layer become packed, in turn of every form and of every type that they may decode to; returns how many.
std::int64_t pack_linears(Model& model) {
  const Form forms[] = {{{4}}, {{2, 3}}, {{4, 6, 3}, true}, {{3}, false, true}, {{8, 2}, true, true}};
  const DType types[] = {DType::BF16, DType::F32, DType::F16};
  std::uint32_t number = 0;
  std::int64_t packed = 0;
  for (std::int64_t layer = 0; layer < static_cast<std::int64_t>(model.config.layers.size()); ++layer) {
    for (const LayerTensor& tensor : layer_tensors(model.config, layer)) {
      if (!tensor.linear() || ++number % 3 == 0) continue;
      Tensor& stored = model.tensors.at(layer_tensor_name(architecture(model.config.architecture), layer, tensor.name));
      stored = random_packed(stored.shape[0], stored.shape[1], forms[number % 5], number, types[number % 4 % 3]);
      ++packed;
    }
  }
  return packed;
}

// Wide enough that all of its packed matrices are smaller than dense ones.
Config llama() {
  Config config = family("llama");
  config.hidden = 96;
  config.layers = {{4, 2, 24, 160}, {4, 2, 24, 130}};
  return config;
}

std::string first_linear() { return "model.layers.0.self_attn.q_proj.weight"; }

TEST(LayerLoader, LayersAreThoseOfTheProcessor) {
  std::map<std::string, Config> all = families();
  all["wide"] = llama();
  for (const auto& [name, config] : all) {
    SmallModel small = small_model(config, DType::BF16);
    const std::int64_t packed = pack_linears(small.model);
    for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
      const ForwardPass host(small.model, type, Kernels::Device), device(small.model, type, Kernels::Device, at::kCPU, &packed_table());
      const int before = packed_decodes_made();
      for (std::int64_t layer = 0; layer < device.layers(); ++layer) {
        const LayerWeights expected = host.load_layer(layer), got = device.load_layer_to_run(layer);
        ASSERT_EQ(got.tensors.size(), expected.tensors.size()) << name;
        for (const auto& [rule, tensor] : expected.tensors) {
          EXPECT_EQ(got.tensor(rule).scalar_type(), tensor.scalar_type());
          EXPECT_TRUE(got.tensor(rule).equal(tensor)) << name << ", layer " << layer << ", " << rule;
        }
      }
      const int made = packed_decodes_made() - before;
      device.load_layer(0);  // what is loaded again is not counted again
      const PackedLoads loads = device.packed_loads();
      EXPECT_EQ(loads.by_kernel, made) << name;
      EXPECT_EQ(loads.by_kernel + loads.by_processor, packed) << name;
      EXPECT_GT(2 * loads.by_kernel, packed) << name << ": " << loads.why;  // tiny ones are larger packed
      if (name == "wide") {
        EXPECT_EQ(loads.by_processor, 0) << loads.why;
      }
      EXPECT_EQ(host.packed_loads().by_kernel + host.packed_loads().by_processor, 0);
      const auto ids = random_ids(40, config.vocabulary, 3);
      at::Tensor a = host.embed(ids), b = a;
      for (std::int64_t layer = 0; layer < device.layers(); ++layer) {
        a = host.run_layer(host.load_layer(layer), a);
        b = device.run_layer(device.load_layer(layer), b);
      }
      EXPECT_EQ(host.losses(a, ids), device.losses(b, ids)) << name;
      std::size_t linears = 0;
      for (const InputSite site : kInputSites) {
        for (const auto& [rule, tensor] : device.load_linears(0, site)) {
          EXPECT_TRUE(tensor.equal(host.load_layer(0).tensor(rule))) << name << ", " << rule;
          ++linears;
        }
      }
      const std::vector<LayerTensor> all_tensors = layer_tensors(config, 0);
      EXPECT_EQ(linears, static_cast<std::size_t>(std::count_if(all_tensors.begin(), all_tensors.end(), [](const LayerTensor& t) { return t.linear(); })));
    }
  }
}

// The processor's own kernels want the processor's own decoding.
TEST(LayerLoader, OnlyDevicesDecode) {
  SmallModel small = small_model(llama(), DType::BF16);
  pack_linears(small.model);
  const ForwardPass pass(small.model, ComputeType::BFloat16, Kernels::Best, at::kCPU, &packed_table());
  const int before = packed_decodes_made();
  pass.load_layer(0);
  EXPECT_EQ(packed_decodes_made(), before);
  EXPECT_EQ(pass.packed_loads().text("cpu"), "");
}

TEST(LayerLoader, WhatIsLargerPackedIsDecodedByTheProcessor) {
  SmallModel small = small_model(llama(), DType::BF16);
  Tensor& stored = small.model.tensors.at(first_linear());
  std::vector<std::uint8_t> many(static_cast<std::size_t>(stored.shape[1]), 8);  // a group a column: more scales than weights
  stored = random_packed(stored.shape[0], stored.shape[1], {many}, 1);
  const ForwardPass host(small.model, ComputeType::BFloat16, Kernels::Device), device(small.model, ComputeType::BFloat16, Kernels::Device, at::kCPU, &packed_table());
  const int before = packed_decodes_made();
  EXPECT_TRUE(device.load_layer(0).tensor("self_attn.q_proj.weight").equal(host.load_layer(0).tensor("self_attn.q_proj.weight")));
  EXPECT_EQ(packed_decodes_made(), before);
  const PackedLoads loads = device.packed_loads();
  EXPECT_EQ(loads.by_kernel, 0);
  EXPECT_EQ(loads.by_processor, 1);
  EXPECT_NE(loads.why.find(first_linear() + ": "), std::string::npos) << loads.why;
}

TEST(LayerLoader, SaysWhatBecameOfThem) {
  EXPECT_EQ(PackedLoads{}.text("cuda:0"), "");
  EXPECT_EQ((PackedLoads{7, 0, ""}.text("cuda:0")), "7 packed matrices decoded on cuda:0");
  EXPECT_EQ((PackedLoads{1, 2, "a: b"}.text("cuda:0")), "1 packed matrix decoded on cuda:0, 2 on the processor (a: b)");
  EXPECT_EQ((PackedLoads{0, 2, "a: b"}.text("cuda:0")), "2 packed matrices decoded on the processor (a: b)");
}

TEST(LayerLoader, WithoutRoomForPackedBytesTheProcessorDecodes) {
  SmallModel small = small_model(llama(), DType::BF16);
  const std::int64_t packed = pack_linears(small.model);
  const ForwardPass host(small.model, ComputeType::BFloat16, Kernels::Device);
  const WalkMemory plain = host.walk_memory(16);
  EXPECT_EQ(plain.loading, 0u);
  const LayerWeights expected = host.load_layer(0);
  const ForwardPass device(small.model, ComputeType::BFloat16, Kernels::Device, at::kCPU, &packed_table());
  const WalkMemory memory = device.walk_memory(16);
  EXPECT_EQ(memory.kept, plain.kept);
  EXPECT_GT(memory.loading, 0u);
  {
    // What the walk counts on is enough.
    reference::SmallMemory room(static_cast<std::int64_t>(memory.kept + memory.loading));
    for (std::int64_t layer = 0; layer < device.layers(); ++layer) device.load_layer(layer);
    EXPECT_EQ(room.refused, 0);
    EXPECT_EQ(room.used(), 0);
  }
  EXPECT_EQ(device.packed_loads().by_kernel, packed);
  {
    // The least memory that a layer can be loaded in: some matrices are left to the processor, and the layer is the same.
    const LayerLoader loader(small.model, at::kBFloat16, at::kCPU, &packed_table());
    reference::SmallMemory room(0);
    LayerLoader::Tensors got;
    for (std::int64_t limit = 0; got.empty(); limit += 256) {
      room.set_limit(limit);
      try {
        got = loader.load(0);
      } catch (const c10::OutOfMemoryError&) {
        ASSERT_LT(limit, static_cast<std::int64_t>(memory.kept + memory.loading));
      }
    }
    const PackedLoads loads = loader.packed_loads();
    EXPECT_GT(loads.by_processor, 0);
    EXPECT_NE(loads.why.find("has no memory left for its packed bytes"), std::string::npos) << loads.why;
    for (const auto& [rule, tensor] : expected.tensors) EXPECT_TRUE(got.at(rule).equal(tensor)) << rule;
    got.clear();
    EXPECT_EQ(room.used(), 0);
    // What was refused once is asked for again where there is room.
    room.set_limit(std::int64_t{1} << 40);
    const int before = packed_decodes_made();
    loader.load(1);
    loader.load(0);
    EXPECT_EQ(packed_decodes_made() - before, packed);
    EXPECT_EQ(loader.packed_loads().by_kernel, packed);
  }
}

TEST(LayerLoader, AFailingKernelIsSaid) {
  SmallModel small = small_model(llama(), DType::BF16);
  pack_linears(small.model);
  MiqCudaTable broken = packed_table();
  broken.problem = [] { return "as the test wants it"; };
  broken.packed_decode = [](int, const PackedView*, int, int, void*) { return -1; };
  const LayerLoader loader(small.model, at::kBFloat16, at::kCPU, &broken);
  try {
    loader.load(0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "CUDA: decoding a packed matrix: as the test wants it");
  }
}

// With the library itself: layers to the bit, as long as nothing is said to have been left to the processor.
TEST(LayerLoader, LayersAreThoseOfTheProcessorOnAGpu) {
  if (const CudaDevices found = find_cuda_devices(); found.devices.empty()) GTEST_SKIP() << "no GPU: " << found.problem;
  const auto path = std::filesystem::path(MIQ_TOOLS_DIR).parent_path() / "lib" / "miq" / "libmiq_cuda.so";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "this build has no CUDA kernels (-DMIQ_CUDA=ON, target miq_cuda)";
  const at::Device gpu = open_devices(parse_device("cuda")).front();
  const MiqCudaTable& table = open_cuda_library(path.string()).kernels;
  SmallModel small = small_model(llama(), DType::BF16);
  const std::int64_t packed = pack_linears(small.model);
  for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
    const ForwardPass host(small.model, type, Kernels::Device), device(small.model, type, Kernels::Device, gpu, &table);
    for (std::int64_t layer = 0; layer < device.layers(); ++layer) {
      const LayerWeights expected = host.load_layer(layer), got = device.load_layer_to_run(layer);
      for (const auto& [rule, tensor] : expected.tensors) EXPECT_TRUE(got.tensor(rule).cpu().equal(tensor)) << "layer " << layer << ", " << rule;
    }
    EXPECT_EQ(device.packed_loads().by_kernel, packed) << device.packed_loads().why;
  }
}

TEST(LayerLoader, DamagedMatricesAreRefusedAsByTheProcessor) {
  SmallModel small = small_model(llama(), DType::BF16);
  pack_linears(small.model);
  Tensor& stored = small.model.tensors.at(first_linear());
  stored.sections.at("codes") = Blob(std::vector<std::uint8_t>(stored.sections.at("codes").size() + 1));
  std::string problems[2];
  const MiqCudaTable* tables[] = {nullptr, &packed_table()};
  for (std::size_t i = 0; i < 2; ++i) {
    try {
      LayerLoader(small.model, at::kBFloat16, at::kCPU, tables[i]).load(0);
    } catch (const FormatError& error) {
      problems[i] = error.what();
    }
  }
  EXPECT_NE(problems[0], "");
  EXPECT_EQ(problems[0], problems[1]);
}

}  // namespace
}  // namespace miq::test
