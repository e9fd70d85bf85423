// What convert-checkpoint and convert-slicegpt share: from an opened checkpoint to a container on disk, and
// the summary of it.
#pragma once

#include <optional>
#include <string>

#include "miq/converters/open_model.h"
#include "miq/formats/dtype.h"
#include "miq/tools/program.h"

namespace miq {

// Throws where `output` cannot be written, before any work; leaves nothing. Warns where its ending promises
// another tool's format: a container is written all the same.
void prepare_container(const std::string& output, Session& session);

// Casts to `dtype` where given, encodes by the policy `encode` (encode.h; empty: tensors stay as they are)
// and saves. `digest` is weights_digest() of the model as it is given, where it is known. Returns {"bytes", "encoding"}.
Json write_container(Model& model, const std::string& output, std::optional<DType> dtype, const std::string& encode, Session& session,
                     const std::string& digest = {});

// Facts of the source; also notes the digest of a foreign model's weights in its description. `given` is
// what the user wrote, `path` where it was found. The caller adds "result" (as write_container's) and "notes".
Json start_summary(OpenedCheckpoint& opened, const std::string& given, const std::string& path, const std::string& output,
                   Session& session);
// One line of facts after another: what was found, what was made of it.
std::string summary_text(const Json& summary);

}  // namespace miq
