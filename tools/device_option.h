// --device, for programs.
#pragma once

#include <string>

#include "miq/model/device.h"
#include "miq/model/forward.h"
#include "miq/tools/program.h"

namespace miq {

// Declares --device with the default "cpu".
void declare_device_option(CLI::App& app, std::string& device);

// The one device of this process, ready for use. Several processes share the devices that were named, or all visible ones, in turn. Says
// which GPU it is, or why auto found none. Throws UsageError on text that --device does not know, and on several devices for one process.
at::Device chosen_device(const std::string& text, Session& session);

// "cpu" and the processor, or "cuda:0" and the GPU: for reports.
std::string name_of_device(at::Device device);

// Of --dtype: as machine.h has it on the processor; on a GPU "auto" and no choice are bfloat16.
ComputeType compute_type(const std::string& name, at::Device device);

}  // namespace miq
