#include "miq/model/device.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "miq/base/error.h"

namespace miq {
namespace {

template <class Function>
std::string error_of(const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(DeviceTest, ReadsChoices) {
  EXPECT_EQ(parse_device("auto").kind, DeviceChoice::Kind::Auto);
  EXPECT_EQ(parse_device("cpu").kind, DeviceChoice::Kind::Cpu);
  EXPECT_EQ(parse_device("cuda").kind, DeviceChoice::Kind::Cuda);
  EXPECT_TRUE(parse_device("cuda").numbers.empty());
  EXPECT_EQ(parse_device("cuda:3").numbers, std::vector<int>{3});
  EXPECT_EQ(parse_device("cuda:1,0,12").numbers, (std::vector<int>{1, 0, 12}));
}

TEST(DeviceTest, WrongTextIsWrongUse) {
  for (const char* text : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:0,", "cuda:,0", "cuda:0 1", "cuda:1,1", "CUDA", "cuda0", "cuda:99999999999", "cuda:128",
                           "cpu:0", "auto,cpu", "cuda:+1"}) {
    EXPECT_THROW(parse_device(text), UsageError) << text;
  }
  EXPECT_NE(error_of([] { parse_device("gpu"); }).find("cuda:N"), std::string::npos);
}

TEST(DeviceTest, AMissingDriverIsSaid) {
  const CudaDevices found = find_cuda_devices("libno_such_driver.so.1");
  EXPECT_TRUE(found.devices.empty());
  EXPECT_NE(found.problem.find("no NVIDIA driver"), std::string::npos) << found.problem;
  EXPECT_NE(found.problem.find("libno_such_driver.so.1"), std::string::npos) << found.problem;
  EXPECT_TRUE(choose_cuda_devices(parse_device("auto"), found).empty());
  const std::string message = error_of([&] { choose_cuda_devices(parse_device("cuda"), found); });
  EXPECT_NE(message.find("no NVIDIA driver"), std::string::npos) << message;
  EXPECT_NE(message.find("--device cpu"), std::string::npos) << message;
}

TEST(DeviceTest, ALibraryThatIsNoDriverIsSaid) {
  const CudaDevices found = find_cuda_devices("libz.so.1");
  EXPECT_NE(found.problem.find("has no cuInit"), std::string::npos) << found.problem;
}

TEST(DeviceTest, DevicesAreFoundAndChosen) {
  unsetenv("MIQ_FAKE_DRIVER");
  const CudaDevices found = find_cuda_devices(MIQ_FAKE_DRIVER);
  ASSERT_EQ(found.devices.size(), 2u) << found.problem;
  EXPECT_EQ(found.devices[0].name, "Fake GPU 40");
  EXPECT_EQ(found.devices[1].number, 1);
  EXPECT_EQ(found.devices[0].memory, std::uint64_t{80} << 30);
  EXPECT_EQ(found.devices[0].free, std::uint64_t{1} << 30);
  EXPECT_EQ(found.devices[1].free, std::uint64_t{2} << 30);
  EXPECT_EQ(found.devices[1].major, 9);
  EXPECT_EQ(choose_cuda_devices(parse_device("auto"), found), std::vector<int>{1});
  EXPECT_EQ(choose_cuda_devices(parse_device("cuda"), found), std::vector<int>{1});
  EXPECT_EQ(choose_cuda_devices(parse_device("cuda:0"), found), std::vector<int>{0});
  EXPECT_EQ(choose_cuda_devices(parse_device("cuda:1,0"), found), (std::vector<int>{1, 0}));
  EXPECT_TRUE(choose_cuda_devices(parse_device("cpu"), found).empty());
  const std::string message = error_of([&] { choose_cuda_devices(parse_device("cuda:0,2"), found); });
  EXPECT_NE(message.find("cuda:2: there is no such device"), std::string::npos) << message;
  EXPECT_NE(message.find("cuda:1 (Fake GPU 41"), std::string::npos) << message;
}

TEST(DeviceTest, ADriverWithoutDevicesIsSaid) {
  setenv("MIQ_FAKE_DRIVER", "none", 1);
  const CudaDevices found = find_cuda_devices(MIQ_FAKE_DRIVER);
  unsetenv("MIQ_FAKE_DRIVER");
  EXPECT_TRUE(found.devices.empty());
  EXPECT_NE(found.problem.find("CUDA_ERROR_NO_DEVICE"), std::string::npos) << found.problem;
  EXPECT_NE(found.problem.find("CUDA_VISIBLE_DEVICES"), std::string::npos) << found.problem;
}

TEST(DeviceTest, AMissingCudaPartIsSaid) {
  const std::string message = error_of([] { load_cuda("/no/such/libtorch_cuda.so"); });
  EXPECT_NE(message.find("LibTorch's CUDA part cannot be loaded"), std::string::npos) << message;
  EXPECT_NE(message.find("/no/such/libtorch_cuda.so"), std::string::npos) << message;
  EXPECT_NE(error_of([] { load_cuda(MIQ_FAKE_DRIVER); }).find("registers no device"), std::string::npos);
}

TEST(DeviceTest, TheProcessorNeedsNothing) {
  EXPECT_EQ(open_devices(parse_device("cpu")), std::vector<at::Device>{at::Device(at::kCPU)});
  EXPECT_EQ(device_memory(at::kCPU).total, 0u);
  EXPECT_EQ(device_name(at::kCPU), "");
  empty_device_cache(at::kCPU);
  synchronize(at::kCPU);
  std::string why;
  EXPECT_GE(open_devices(parse_device("auto"), &why).size(), 1u);
  if (!find_cuda_devices().devices.empty()) GTEST_SKIP() << "this machine has a GPU: the rest is about one that has none";
  EXPECT_NE(why.find("found "), std::string::npos) << why;
  EXPECT_THROW(open_devices(parse_device("cuda")), Error);
}

TEST(DeviceTest, AGpuIsUsable) {
  if (const CudaDevices found = find_cuda_devices(); found.devices.empty()) GTEST_SKIP() << "no GPU: " << found.problem;
  const at::Device device = open_devices(parse_device("cuda")).front();
  EXPECT_FALSE(device_name(device).empty());
  const DeviceMemory memory = device_memory(device);
  EXPECT_GT(memory.free, 0u);
  EXPECT_GE(memory.total, memory.free);
  synchronize(device);
  empty_device_cache(device);
}

}  // namespace
}  // namespace miq
