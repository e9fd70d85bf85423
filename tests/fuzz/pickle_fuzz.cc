// Accepted streams: every node's parts exist, the helpers agree with the nodes, and JSON keeps to its limits.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "miq/base/error.h"
#include "miq/formats/pickle_globals.h"
#include "miq/formats/pickle_objects.h"

namespace {

void expect(bool condition) {
  if (!condition) std::abort();
}

void check(const miq::PickleTree& tree, miq::NodeId node) {
  const auto exists = [&tree](miq::NodeId id) { return id == miq::kNoNode || id < tree.size(); };
  for (const miq::NodeId item : tree.items(node)) expect(item < tree.size());
  for (const auto& [key, value] : tree.pairs(node)) expect(key < tree.size() && value < tree.size());
  for (const miq::NodeId item : miq::elements(tree, node)) expect(item < tree.size());
  for (const auto& [name, value] : miq::attributes(tree, node)) {
    expect(value < tree.size());
    // The last one of a name counts, and the slots before the dict.
    expect(miq::attribute(tree, node, name) < tree.size());
  }
  expect(exists(tree.callee(node)) && exists(tree.args(node)) && exists(tree.kwargs(node)) && exists(tree.state(node)) &&
         exists(tree.persistent_id(node)));
  expect(exists(miq::type_of(tree, node)) && exists(miq::find(tree, node, "a")));
  expect(miq::as_string(tree, node).has_value() == (tree.kind(node) == miq::NodeKind::String));
  expect(miq::as_bool(tree, node).has_value() == (tree.kind(node) == miq::NodeKind::Bool));
  expect(miq::as_double(tree, node).has_value() || !miq::as_int(tree, node));
  miq::as_bytes(tree, node);
  miq::class_of(tree, node);
  miq::is_instance_of(tree, node, "m.C");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const miq::Blob blob(std::string_view(reinterpret_cast<const char*>(data), size));
  try {
    const miq::PickleTree tree = miq::read_pickle(blob, "input");
    expect(tree.root() < tree.size() && tree.size() <= size);
    for (miq::NodeId node = 0; node < tree.size(); ++node) check(tree, node);
    for (const miq::PickleGlobal& global : tree.globals()) expect(!miq::risk_name(miq::global_risk(global.module, global.name)).empty());
    miq::PickleJsonLimits limits;
    limits.max_values = 100;
    limits.max_text = 1000;
    expect(miq::to_json(tree, tree.root(), limits).dump().size() < 40'000);
  } catch (const miq::FormatError&) {
  }
  return 0;
}
