// Elements of one floating type as another: widened exactly, or rounded to nearest even.
#pragma once

#include <string_view>

#include "miq/base/blob.h"
#include "miq/formats/dtype.h"

namespace miq {

// `from` is any floating type, `to` is the same or F32, F16 or BF16. A float64 goes through float32 (two roundings
// where it is narrowed further). Returns `elements` itself where the types are the same. Throws FormatError
// naming `name` when a finite value would become infinite, and for types that are not floating.
Blob cast_elements(const Blob& elements, DType from, DType to, std::string_view name);

}  // namespace miq
