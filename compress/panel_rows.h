// Adding to some rows of a panel of second moments (exact_sums.h), where memory does not do for all of them.
#pragma once

#include "miq/compress/exact_sums.h"

namespace miq {

// As MomentSum::add_panel() of the part [rows, n - first] that belongs to the panel's rows from number `row` on. Where memory ends nothing was added.
void add_panel_rows(MomentSum::Panel& panel, const at::Tensor& part, const at::Tensor& steps, std::int64_t row);

}  // namespace miq
