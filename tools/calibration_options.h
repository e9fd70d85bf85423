// Texts on the command line, and the options that say which windows of one calibrate.
#pragma once

#include <string>
#include <vector>

#include "miq/compress/calibration.h"
#include "miq/evaluate/texts.h"
#include "miq/model/model.h"
#include "miq/tools/program.h"

namespace miq {

struct TextFlags {
  std::string data_dir;
  std::vector<std::string> datasets;  // NAME=PATH
};
void declare_text_options(CLI::App& app, TextFlags& flags);  // --data-dir, --dataset
// A name of --dataset, NAME=PATH, a file, or a name found in --data-dir. Throws UsageError.
Text find_named_text(const TextFlags& flags, const std::string& name);

struct CalibrationFlags {
  std::string documents, sampling = "random";
  std::int64_t windows = 128, seqlen = 0;
  std::uint64_t seed = 0;
};
void declare_calibration_options(CLI::App& app, CalibrationFlags& flags);
// `model_name` and `text` as the user gave them.
Calibration read_calibration(const std::string& model_name, const Model& model, const std::string& text, const TextFlags& texts,
                             const CalibrationFlags& flags);

}  // namespace miq
