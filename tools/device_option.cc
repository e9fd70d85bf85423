#include "miq/tools/device_option.h"

#include "miq/tools/machine.h"

namespace miq {

void declare_device_option(CLI::App& app, std::string& device) { app.add_option("--device", device, kDeviceHelp)->capture_default_str(); }

at::Device chosen_device(const std::string& text, Session& session) {
  DeviceChoice choice = parse_device(text);
  if (choice.kind == DeviceChoice::Kind::Cpu) return at::kCPU;
  const int processes = session.ranks().size();
  if (processes == 1 && choice.numbers.size() > 1) {
    throw UsageError("--device " + text + ": one process uses one GPU. Start as many processes as GPUs: mpirun -n " + std::to_string(choice.numbers.size()));
  }
  if (processes > 1 && choice.numbers.empty()) {
    for (const CudaDevice& device : find_cuda_devices().devices) choice.numbers.push_back(device.number);
  }
  if (processes > 1 && choice.numbers.size() > 1) {
    // Launchers number the processes of a machine one after another.
    const int place = session.ranks().rank() % std::max(1, session.ranks().local_size());
    choice.numbers = {choice.numbers[static_cast<std::size_t>(place) % choice.numbers.size()]};
  }
  std::string fallback;
  const at::Device device = open_devices(choice, &fallback).front();
  if (!fallback.empty()) session.message_function()("on the processor: " + fallback);
  if (!device.is_cpu()) session.message_function()("on " + device.str() + " (" + device_name(device) + ")");
  return device;
}

std::string name_of_device(at::Device device) { return device.is_cpu() ? processor_name() : device_name(device); }

ComputeType compute_type(const std::string& name, at::Device device) {
  if (!device.is_cpu() && (name.empty() || name == "auto")) return ComputeType::BFloat16;
  return compute_type(name);
}

}  // namespace miq
