// A compressed matrix as fields of a record: kept in a journal (formats/spec/journal.md), or sent to other processes.
#pragma once

#include <string>

#include "miq/compress/solve.h"
#include "miq/formats/record_bytes.h"
#include "miq/model/model.h"

namespace miq {

// A matrix of a finished layer. `result` without its values: they are in `stored`.
struct FinishedMatrix {
  std::string rule, name;  // "self_attn.q_proj.weight" and the tensor's whole name
  MatrixResult result;
  Tensor stored;
};

void write_matrix(RecordWriter& writer, const FinishedMatrix& matrix);
// Throws FormatError when it is none of the model's, or has another shape there.
FinishedMatrix read_matrix(RecordReader& reader, const Model& model);

}  // namespace miq
