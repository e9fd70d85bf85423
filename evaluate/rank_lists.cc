// Every rank writes its own lists one behind the other, each with its length in front; all read them in the same order.
#include "miq/evaluate/rank_lists.h"

#include <cstring>

#include "miq/base/error.h"

namespace miq {

void share_lists(Ranks& ranks, std::span<std::vector<float>* const> lists, std::span<const int> owners) {
  if (ranks.alone()) return;
  std::vector<std::uint8_t> own;
  const auto put = [&](const void* data, std::size_t size) {
    const auto* first = static_cast<const std::uint8_t*>(data);
    own.insert(own.end(), first, first + size);
  };
  for (std::size_t i = 0; i < lists.size(); ++i) {
    if (owners[i] != ranks.rank()) continue;
    const std::uint64_t size = lists[i]->size();
    put(&size, sizeof size);
    put(lists[i]->data(), size * sizeof(float));
  }
  const std::vector<std::vector<std::uint8_t>> all = exchange(ranks, std::move(own));
  std::vector<std::size_t> at(all.size());
  const auto take = [&](std::size_t rank, void* data, std::size_t size) {
    if (size > all[rank].size() - at[rank]) throw Error("processes do not agree on what they share: do all read the same model and texts?");
    if (size > 0) std::memcpy(data, all[rank].data() + at[rank], size);  // an empty list has no place
    at[rank] += size;
  };
  for (std::size_t i = 0; i < lists.size(); ++i) {
    const auto owner = static_cast<std::size_t>(owners[i]);
    std::uint64_t size = 0;
    take(owner, &size, sizeof size);
    if (size > all[owner].size() / sizeof(float)) throw Error("processes do not agree on what they share: do all read the same model and texts?");
    lists[i]->resize(size);
    take(owner, lists[i]->data(), size * sizeof(float));
  }
}

}  // namespace miq
