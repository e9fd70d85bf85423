// Model -> Model: the driver of every method.
//
// Layer by layer behind the layers already compressed: the calibration windows are run through a layer, the
// inputs of its linears give one Hessian per distinct input, the solver compresses the matrices, and
// the windows are run again through the layer as it will be stored. At any time one layer's float
// weights, Hessians and activations are in memory. Methods that share one budget over the whole model
// make a plan first, from one walk over the dense model and one walk back (plan.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "miq/base/progress.h"
#include "miq/base/ranks.h"
#include "miq/base/thread_pool.h"
#include "miq/compress/calibration.h"
#include "miq/compress/compute_device.h"
#include "miq/compress/methods.h"
#include "miq/compress/working_memory.h"
#include "miq/model/model.h"

namespace miq {

class RunJournal;  // run_journal.h

struct CompressResult {
  // Weights packed (or sparse), with method, calibration and statistics filled in. Times are not among
  // them: the same model, windows and recipe give the same model, byte for byte, at any thread count.
  Model model;
  std::int64_t fallbacks = 0;  // matrices whose factorisation or solution needed help; each was a message
  std::int64_t unseen = 0;     // those of them that no calibration token reached: matrices of experts
  std::string summary;         // for people: channels, bits, per layer averages; several lines
};

// Throws UsageError where the recipe asks for what one process alone does on the processor (methods that reshape, tuning, channel
// scaling) and it is not alone or on a device. compress does so too; a program asks before it reads for long.
void require_runs_there(const Recipe& recipe, const Ranks& ranks, const ComputeDevice& where);

// Throws UsageError (also when a quantizing run quantized no channel) and Error. Messages: one line for each
// matrix with its time. With a journal of this model, these windows and this recipe, what an earlier run finished is taken
// from it, and what this run finishes is kept in it; the caller removes it when the result is stored. Several `ranks` do it
// together, each with all windows and the same recipe and memory, and get the same result; the journal is rank 0's.
// Calibration, statistics and the solver run on `where`; the model's tensors stay in host memory.
CompressResult compress(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool,
                        const ProgressFunction& progress = {}, const MessageFunction& message = {}, RunJournal* journal = nullptr,
                        const WorkingMemory& memory = {}, Ranks& ranks = no_other_ranks(), const ComputeDevice& where = {});

}  // namespace miq
