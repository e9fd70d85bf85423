// Opens any checkpoint that the suite reads, found by content and not by its name.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "miq/model/model.h"

namespace miq {

// A kind of source: one row in open_model.cc, one file pair.
struct SourceKind {
  std::string_view name;         // "gguf"
  std::string_view description;  // "GGUF file of llama.cpp"
  // `path` exists. Reads a few bytes at most; never throws on odd content.
  bool (*recognises)(const std::string& path);
  Model (*open)(const std::string& path);
};
std::span<const SourceKind> source_kinds();

// A validated model. Throws Error: what the path holds instead, the kinds supported, what to do.
Model open_model(const std::string& path);

}  // namespace miq
