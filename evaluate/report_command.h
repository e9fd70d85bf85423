// The commands that would make a model and its figures again, from the records of the container and of the run. Records hold no paths:
// a file is written as a placeholder, with its digest behind the command.
#pragma once

#include <string>
#include <vector>

#include "miq/evaluate/report.h"

namespace miq {

// In the order in which they are run: miq-compress (where one of our methods made the model), run-eval. Lines that begin with "#" say
// what a placeholder stands for and what is not recorded. Safe to paste: whatever comes from a file is quoted for a shell.
std::vector<std::string> reproduce_commands(const Report& report, const ModelReport& model);

// miq-compress alone; empty where the record is not one of its methods.
std::string compress_command(const Json& method, const Json& calibration);

// 'it'\''s' where the shell would read more than the text itself.
std::string shell_quoted(const std::string& text);

}  // namespace miq
