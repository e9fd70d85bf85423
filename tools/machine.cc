// Reads /proc/cpuinfo once per call: its first processor's "model name" and "flags".
#include "miq/tools/machine.h"

#include <malloc.h>
#include <torch/version.h>

#include <fstream>

namespace miq {
namespace {

std::string cpuinfo_field(const std::string& field) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(field, 0) != 0) continue;
    const std::size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return {};
}

}  // namespace

std::string processor_name() { return cpuinfo_field("model name"); }

bool processor_has_bfloat16() {
  const std::string flags = " " + cpuinfo_field("flags") + " ";
  return flags.find(" avx512_bf16 ") != std::string::npos || flags.find(" amx_bf16 ") != std::string::npos;
}

ComputeType compute_type(const std::string& name) {
  return name == "bfloat16" || (name == "auto" && processor_has_bfloat16()) ? ComputeType::BFloat16 : ComputeType::Float32;
}

std::string torch_version() { return TORCH_VERSION; }

void give_back_what_is_freed() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

}  // namespace miq
