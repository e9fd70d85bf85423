// Source -> container, in the order cast, encode, save; see convert.h.
#include "miq/tools/convert.h"

#include "miq/converters/encode.h"
#include "miq/evaluate/report.h"
#include "miq/evaluate/size.h"
#include "miq/formats/atomic_file.h"
#include "miq/formats/cast.h"

namespace miq {
namespace {

// A packed float32 matrix rounded afterwards is the same codes decoded to the narrower type; what else is
// encoded becomes dense.
void cast_tensors(Model& model, DType dtype, ThreadPool& pool) {
  std::vector<std::pair<const std::string*, Tensor*>> jobs;
  for (auto& [name, tensor] : model.tensors) {
    if (tensor.dtype != dtype) jobs.emplace_back(&name, &tensor);
  }
  pool.for_each(static_cast<std::int64_t>(jobs.size()), [&](std::int64_t i) {
    const auto& [name, tensor] = jobs[static_cast<std::size_t>(i)];
    const Blob data = cast_elements(decode(*tensor, *name), tensor->dtype, dtype, "tensor '" + *name + "'");
    if (tensor->encoding == Encoding::Packed && tensor->dtype == DType::F32) {
      tensor->dtype = dtype;
    } else {
      *tensor = dense_tensor(dtype, tensor->shape, data);
    }
  });
  if (!jobs.empty()) model.source["cast"] = dtype_name(dtype);
}

// Other tools' endings promise their formats; what is written is a container all the same.
void warn_of_foreign_ending(const std::string& output, Session& session) {
  for (const char* ending : {".bin", ".pt", ".pth", ".safetensors", ".gguf", ".ckpt"}) {
    if (output.ends_with(ending)) {
      session.warn(output +
                   " will be a .miq container whatever its ending says: only miq, and any safetensors reader, opens it. --to hf writes a "
                   "folder for transformers");
    }
  }
}

}  // namespace

void prepare_container(const std::string& output, Session& session) {
  AtomicFile{output};
  warn_of_foreign_ending(output, session);
}

Json write_container(Model& model, const std::string& output, std::optional<DType> dtype, const std::string& encode, Session& session,
                     const std::string& digest) {
  if (dtype) cast_tensors(model, *dtype, session.pool());
  Json encoding = Json::object();
  if (!encode.empty()) {
    session.progress().start("encoding");
    encoding = encode_model(model, encode_policy(encode), session.pool(), session.progress_function());
  }
  session.progress().start("writing");
  save_model(model, output, &session.pool(), dtype ? "" : digest);
  return {{"bytes", checkpoint_bytes(output)}, {"encoding", std::move(encoding)}};
}

Json start_summary(OpenedCheckpoint& opened, const std::string& given, const std::string& path, const std::string& output,
                   Session& session) {
  Model& model = opened.model;
  const std::string digest = weights_digest(model, session.pool());
  if (!opened.restored && model.source.value("format", "miq") != "miq") model.source["digest"] = digest;
  std::uint64_t weights = 0;
  for (const auto& [name, tensor] : model.tensors) weights += static_cast<std::uint64_t>(tensor.elements());
  return {{"schema", "miq.convert/1"},
          {"source", given},
          {"kind", opened.kind ? opened.kind->description : "SliceGPT"},
          {"name", model.name},
          {"architecture", model.config.architecture},
          {"layers", model.config.layers.size()},
          {"parameters", weights},
          {"source_bytes", checkpoint_bytes(path)},
          {"output", output},
          {"weights_digest", digest},
          {"method", model.method},
          {"restored", opened.restored}};
}

std::string summary_text(const Json& summary) {
  const auto text = [&](const char* key) { return summary.at(key).get<std::string>(); };
  const Json &method = summary.at("method"), &result = summary.at("result");
  std::string out = "found: " + text("kind") + ", " + text("name") + ", " + text("architecture") + ", " + summary.at("layers").dump() +
                    " layers, " + summary.at("parameters").dump() + " parameters, " +
                    bytes_text(summary.at("source_bytes").get<std::uint64_t>()) +
                    (method.contains("name") ? ", method " + method["name"].dump() : "") + "\n";
  if (method.value("name", "") == "slicegpt") {
    out += "sliced: ";
    if (method.contains("pruning_ratio")) out += "pruning ratio " + method["pruning_ratio"].dump() + ", ";
    out += "width cut by " + method.value("actual_ratio", Json()).dump() + ", parameters by " + method.value("parameter_ratio", Json()).dump();
    if (method.contains("round_interval")) out += ", round interval " + method["round_interval"].dump();
    out += std::string(", head ") + (method.value("sliced_head", false) ? "sliced" : "whole");
    if (method.contains("base_model")) out += ", base model " + method["base_model"].get<std::string>();
    out += "\n";
  }
  if (result.contains("encoding") && !result.at("encoding").empty()) out += encode_text(result.at("encoding"));
  out += "wrote: " + text("output") + ", " + bytes_text(result.at("bytes").get<std::uint64_t>());
  if (const auto shards = result.find("shards"); shards != result.end() && *shards > 1) out += " in " + shards->dump() + " files";
  if (summary.at("restored").get<bool>()) out += "; method and encodings brought back from the folder's miq.sidecar";
  return out + "\n";
}

}  // namespace miq
