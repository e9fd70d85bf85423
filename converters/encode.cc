// Two passes. The linears of the decoder layers are searched for lattices one after the other, each with all
// threads over its rows; whatever is left is a unit of work for itself. A tensor is replaced only by one that
// decodes to its own bytes. Nothing in the report depends on time or on the number of threads.
#include "miq/converters/encode.h"

#include <algorithm>
#include <functional>
#include <set>

#include "miq/base/error.h"
#include "miq/converters/lattice.h"
#include "miq/model/architecture.h"

namespace miq {
namespace {

constexpr std::string_view kLatticeNote =
    "every element decodes to the source's bits. Where more than one float32 scale gives the same elements (scales minus proven_scales), "
    "and for zeros that were pruned or rounded to zero, what the source's maker had cannot be known";

// One tensor on its way.
struct Item {
  const std::string* name = nullptr;
  Tensor* tensor = nullptr;
  bool linear = false;
  Tensor before;
  Lattice lattice;
  bool searched = false;
};

void check_same(const Item& item, const Tensor& encoded) {
  const Blob before = decode(item.before, *item.name), after = decode(encoded, *item.name);
  if (!std::ranges::equal(before.bytes(), after.bytes())) {
    throw Error("tensor " + *item.name + ": encoded as " + std::string(encoding_name(encoded.encoding)) +
                ", it does not decode to its own bytes. This is a defect of miq; please report it, and use --encode dense");
  }
}

// Automatically, a linear becomes a lattice or a bit mask before it becomes zstd, which may be smaller but takes
// longer to decode at every use; a bit mask only where it is smaller than the lattice too (a matrix of almost
// only zeros). Tensors that came in another encoding than dense stay in it where no lattice is smaller; in blocks of ggml none is looked for: those
// that have one take no more than it.
void encode_item(Item& item) {
  const bool found = item.lattice.packed.has_value();
  Tensor best = item.before;
  if (item.before.encoding == Encoding::Dense) {
    if (item.searched) best = encode_best(item.before, false);
    if (best.encoding == Encoding::Dense && !found) best = encode_best(item.before, true);
  }
  if (found && item.lattice.packed->stored_bytes() < best.stored_bytes()) best = std::move(*item.lattice.packed);
  item.lattice.packed.reset();
  if (best.encoding == item.before.encoding) return;
  if (best.encoding != Encoding::Packed) check_same(item, best);  // find_lattice() has compared its own
  *item.tensor = std::move(best);
}

std::string bits_text(const Lattice& lattice) {
  std::string text;
  for (unsigned bits : std::set<unsigned>(lattice.bits_of_group.begin(), lattice.bits_of_group.end()))
    text += (text.empty() ? "" : "+") + std::to_string(bits);
  return text;
}

Json lattice_json(const Lattice& lattice) {
  std::map<std::string, std::int64_t> columns;
  for (std::size_t g = 0; g < lattice.bits_of_group.size(); ++g)
    columns[std::to_string(lattice.bits_of_group[g])] += lattice.columns_of_group[g];
  Json json{{"kind", lattice.kind},       {"bits", bits_text(lattice)},
            {"columns_by_bits", columns}, {"masked", lattice.masked},
            {"zeros", lattice.zeros},     {"scale_dtype", dtype_name(lattice.scale_dtype)},
            {"scales", lattice.scales},   {"proven_scales", lattice.proven_scales}};
  if (lattice.group_size > 0) json["group_size"] = lattice.group_size;
  return json;
}

Json item_json(const Item& item) {
  Json json{{"name", *item.name},
            {"encoding", encoding_name(item.tensor->encoding)},
            {"dtype", dtype_name(item.before.dtype)},
            {"bytes_before", item.before.stored_bytes()},
            {"bytes_after", item.tensor->stored_bytes()}};
  if (item.searched && item.lattice.reason.empty()) {
    json["lattice"] = lattice_json(item.lattice);
    if (item.tensor->encoding != Encoding::Packed) json["lattice"]["note"] = "found, but another encoding is smaller";
  } else if (item.searched) {
    json["no_lattice"] = item.lattice.reason;
  }
  return json;
}

void count(Json& totals, std::uint64_t before, std::uint64_t after) {
  if (totals.is_null()) totals = Json::object();
  totals["tensors"] = totals.value("tensors", 0) + 1;
  totals["bytes_before"] = totals.value("bytes_before", std::uint64_t{0}) + before;
  totals["bytes_after"] = totals.value("bytes_after", std::uint64_t{0}) + after;
}

Json lattices_json(const std::vector<Item>& items) {
  std::uint64_t found = 0, of = 0, scales = 0, proven = 0, saved = 0;
  Json by_bits = Json::object(), kinds = Json::object();
  for (const Item& item : items) {
    of += item.searched;
    if (!item.searched || item.tensor->encoding != Encoding::Packed) continue;
    ++found;
    scales += item.lattice.scales;
    proven += item.lattice.proven_scales;
    saved += item.before.stored_bytes() - item.tensor->stored_bytes();
    const std::string bits = bits_text(item.lattice);
    const std::string kind = item.lattice.kind == "groups" ? "groups of " + std::to_string(item.lattice.group_size) : item.lattice.kind;
    by_bits[bits] = by_bits.value(bits, 0) + 1;
    kinds[kind] = kinds.value(kind, 0) + 1;
  }
  Json json{{"found", found},      {"of", of},         {"tensors_by_bits", by_bits},
            {"kinds", kinds},      {"scales", scales}, {"proven_scales", proven},
            {"bytes_saved", saved}};
  if (found > 0) json["note"] = kLatticeNote;
  return json;
}

Json report_json(const std::vector<Item>& items, EncodePolicy policy) {
  static constexpr std::string_view kNames[] = {"auto", "dense", "lossless"};
  Json report{{"policy", kNames[static_cast<int>(policy)]}, {"tensors", Json::array()}};
  Json all = Json::object(), by_encoding = Json::object();
  for (const Item& item : items) {
    const std::uint64_t before = item.before.stored_bytes(), after = item.tensor->stored_bytes();
    count(all, before, after);
    count(by_encoding[std::string(encoding_name(item.tensor->encoding))], before, after);
    report["tensors"].push_back(item_json(item));
  }
  report["summary"] = std::move(all);
  report["summary"]["by_encoding"] = std::move(by_encoding);
  if (policy == EncodePolicy::Auto) report["summary"]["lattices"] = lattices_json(items);
  return report;
}

// What the container keeps of the report.
void describe(Model& model, const Json& report, const std::vector<Item>& items) {
  if (std::ranges::all_of(items, [](const Item& item) { return item.tensor->encoding == item.before.encoding; })) return;
  model.source["encoding"] = report["summary"];
  model.source["encoding"]["policy"] = report["policy"];
  Json linears = Json::array();
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (items[i].searched) linears.push_back(report["tensors"][i]);
  }
  if (!linears.empty()) model.statistics["encoding"] = std::move(linears);
}

std::vector<Item> list_tensors(Model& model) {
  std::set<std::string> linears;
  for (const ExpectedTensor& tensor : expected_tensors(model.config)) {
    if (tensor.linear && tensor.layer >= 0) linears.insert(tensor.name);
  }
  std::vector<Item> items;
  for (auto& [name, tensor] : model.tensors) {
    Item item;
    item.name = &name;
    item.tensor = &tensor;
    item.linear = linears.contains(name);
    item.before = tensor;
    items.push_back(std::move(item));
  }
  return items;
}

using Step = std::function<void(const char* stage, double work)>;

// Small matrices side by side, large ones alone with all threads over their rows: the working memory is a few
// bytes for each weight of kTogether, or of one matrix.
void search_lattices(std::vector<Item>& items, ThreadPool& pool, const Step& step) {
  constexpr std::int64_t kTogether = 1 << 24;
  std::vector<Item*> linears;
  for (Item& item : items) {
    item.searched = item.linear && item.before.encoding != Encoding::Packed && item.before.encoding != Encoding::Ggml;
    if (item.searched) linears.push_back(&item);
  }
  for (std::size_t begin = 0, end = 0; begin < linears.size(); begin = end) {
    std::int64_t weights = 0;
    while (end < linears.size() && (end == begin || weights + linears[end]->before.elements() <= kTogether))
      weights += linears[end++]->before.elements();
    if (end - begin == 1) {
      linears[begin]->lattice = find_lattice(linears[begin]->before, *linears[begin]->name, pool);
    } else {
      pool.for_each(static_cast<std::int64_t>(end - begin), [&](std::int64_t i) {
        Item& item = *linears[begin + static_cast<std::size_t>(i)];
        item.lattice = find_lattice(item.before, *item.name, pool);
      });
    }
    step("searching lattices", static_cast<double>(weights));
  }
}

}  // namespace

EncodePolicy encode_policy(std::string_view name) {
  if (name == "auto") return EncodePolicy::Auto;
  if (name == "dense") return EncodePolicy::Dense;
  if (name == "lossless") return EncodePolicy::Lossless;
  throw UsageError("no encoding policy is called '" + std::string(name) + "'; there are auto, dense and lossless");
}

Json encode_model(Model& model, EncodePolicy policy, ThreadPool& pool, const ProgressFunction& progress) {
  std::vector<Item> items = list_tensors(model);
  if (policy == EncodePolicy::Dense) {
    // Blocks of ggml are no elements that a safetensors reader could read under the tensor's name.
    pool.for_each(static_cast<std::int64_t>(items.size()), [&](std::int64_t i) {
      Item& item = items[static_cast<std::size_t>(i)];
      if (item.before.encoding == Encoding::Ggml) *item.tensor = dense_tensor(item.before.dtype, item.before.shape, decode(item.before, *item.name));
    });
    return report_json(items, policy);
  }
  double total = 0, done = 0;
  for (const Item& item : items) total += static_cast<double>(item.before.elements()) * (item.linear ? 2 : 1);
  const Step step = [&](const char* stage, double work) {
    done += work;
    if (progress) progress({stage, done, std::max(total, 1.0)});
  };
  if (policy == EncodePolicy::Auto) search_lattices(items, pool, step);
  // A few units at a time, so that progress can be told from this thread.
  const std::size_t batch = static_cast<std::size_t>(pool.threads()) * 4;
  for (std::size_t begin = 0; begin < items.size(); begin += batch) {
    const std::size_t end = std::min(items.size(), begin + batch);
    pool.for_each(static_cast<std::int64_t>(end - begin), [&](std::int64_t i) { encode_item(items[begin + static_cast<std::size_t>(i)]); });
    double work = 0;
    for (std::size_t i = begin; i < end; ++i) work += static_cast<double>(items[i].before.elements());
    step("encoding", work);
  }
  const Json report = report_json(items, policy);
  describe(model, report, items);
  return report;
}

std::string encode_text(const Json& report) {
  const std::string policy = report.value("policy", "");
  if (policy == "dense" || !report.contains("summary")) return {};
  const Json& summary = report["summary"];
  std::string text = "encoded: " + summary.at("bytes_before").dump() + " bytes of tensors in " + summary.at("bytes_after").dump();
  for (const auto& [encoding, totals] : summary.at("by_encoding").items()) {
    text += "; " + encoding + " " + totals.at("tensors").dump() + " (" + totals.at("bytes_before").dump() + " -> " +
            totals.at("bytes_after").dump() + ")";
  }
  text += "\n";
  if (!summary.contains("lattices")) return text;
  const Json& lattices = summary["lattices"];
  text += "lattices: recovered bit by bit in " + lattices.at("found").dump() + " of " + lattices.at("of").dump() + " matrices";
  for (const auto& [bits, tensors] : lattices.at("tensors_by_bits").items()) text += ", " + tensors.dump() + " at " + bits + " bits";
  text += "; saved " + lattices.at("bytes_saved").dump() + " bytes";
  const auto scales = lattices.at("scales").get<std::uint64_t>(), proven = lattices.at("proven_scales").get<std::uint64_t>();
  if (proven < scales) {
    text += "; for " + std::to_string(scales - proven) + " of " + std::to_string(scales) +
            " scales several float32 numbers give the same elements: those are exact, the original scale is not provable";
  }
  return text + "\n";
}

}  // namespace miq
