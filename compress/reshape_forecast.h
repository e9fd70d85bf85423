// What a run of slicegpt or structured is going to take; forecast() asks.
#pragma once

#include "miq/compress/forecast.h"

namespace miq {

// REQUIRES: reshapes(*recipe.method).
Forecast forecast_reshaping(const Model& model, const Calibration& calibration, const Recipe& recipe, const Rates& rates);

}  // namespace miq
