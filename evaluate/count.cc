// Zeros are counted in the stored form (count_zeros), one tensor a unit; sums are taken afterwards in the
// architecture's order.
#include "miq/evaluate/count.h"

#include <map>

#include "miq/base/error.h"

namespace miq {
namespace {

struct Counted {
  const ExpectedTensor* expected;
  const Tensor* tensor;
  std::int64_t zeros = 0;
};

}  // namespace

ParameterCount count_parameters(const Model& model, ThreadPool& pool) {
  const std::vector<ExpectedTensor> expected = expected_tensors(model.config);
  std::vector<Counted> counted;
  for (const ExpectedTensor& rule : expected) {
    const auto found = model.tensors.find(rule.name);
    if (found != model.tensors.end()) counted.push_back({&rule, &found->second});
  }
  if (counted.size() != model.tensors.size()) {
    throw Error(model.name + ": " + std::to_string(model.tensors.size()) + " tensors, but the architecture accounts for " +
                std::to_string(counted.size()) + ". The checkpoint holds tensors that nothing uses");
  }
  pool.for_each(static_cast<std::int64_t>(counted.size()), [&](std::int64_t unit) {
    Counted& item = counted[static_cast<std::size_t>(unit)];
    item.zeros = count_zeros(*item.tensor, item.expected->name);
  });
  ParameterCount count;
  std::map<Part, std::int64_t> by_part;
  for (const Counted& item : counted) {
    const std::int64_t elements = item.tensor->elements();
    count.total += elements;
    count.nonzero += elements - item.zeros;
    by_part[item.expected->part] += elements;
    if (item.expected->layer < 0 || !item.expected->linear) continue;
    count.decoder_linears += elements;
    count.decoder_linear_zeros += item.zeros;
    const Shape& shape = item.tensor->shape;
    count.matrices.push_back(
        {item.expected->layer, std::string(short_linear_name(item.expected->name)), shape[0], shape[1], elements, item.zeros});
  }
  count.by_part.assign(by_part.begin(), by_part.end());
  return count;
}

}  // namespace miq
