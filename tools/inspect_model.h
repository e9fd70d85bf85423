// What inspect-checkpoint says about how a model is built: a tree of its tensors, folded.
#pragma once

#include <string>

#include "miq/formats/json.h"
#include "miq/model/model.h"

namespace miq {

// Layers that look alike in every tensor's name, shape, type and encoding are one entry, and so are experts.
//   {"globals": [{"name", "part", "shape", "dtype", "encoding"}, …],
//    "layers": [{"from", "to", "identity": true, …LayerConfig of Config::to_json()…,
//                "tensors": [{"name": "experts.0-7.w1.weight", "part", "shape", "dtype", "encoding"}, …]}, …],
//    "head": "tied to the embedding" or absent}
Json model_structure(const Model& model);
std::string structure_tree(const Json& structure);

// "[2048, 128]"
std::string shape_text(const Shape& shape);
// Names and texts come from files: nothing in them may move the cursor.
std::string printable(std::string text);
// "parameters      656512": a label of sixteen columns.
std::string row(std::string_view what, const std::string& value);

}  // namespace miq
