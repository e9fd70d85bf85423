// What was measured of every token, for people who want more than means: JSON lines, one a window.
#pragma once

#include <string>

#include "miq/evaluate/measure_texts.h"

namespace miq {

// {"model", "text", "window" (from 0), "begin" (its first token in the text's), "first" (scored position, in the window),
//  "targets": [ids], "losses": [nats]} and, where they were measured, "divergence": [nats], "same_top": [0 or 1]. Values of float32
// with nine digits, which give the same bits when read; those that are not finite become null. REQUIRES TextRun::keep_tokens.
std::string token_lines(const std::string& model, const TextMeasures& measures);

}  // namespace miq
