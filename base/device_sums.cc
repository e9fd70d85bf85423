// Every decision is made by all ranks from what all of them said, so that none waits for a group that another one does not join.
#include "miq/base/device_sums.h"

#include <array>
#include <exception>
#include <map>
#include <vector>

#include "miq/base/error.h"

namespace miq {
namespace {

std::string name_of(std::size_t rank) { return "process " + std::to_string(rank + 1); }

// What every rank says, known to all.
std::vector<std::string> hear_all(Ranks& ranks, const std::string& own) {
  std::vector<std::string> all;
  for (const auto& bytes : exchange(ranks, {own.begin(), own.end()})) all.emplace_back(bytes.begin(), bytes.end());
  return all;
}

// The first of what went wrong; empty: nothing did.
std::string first_problem(const std::vector<std::string>& problems) {
  for (std::size_t r = 0; r < problems.size(); ++r) {
    if (!problems[r].empty()) return name_of(r) + ": " + problems[r];
  }
  return {};
}

}  // namespace

std::unique_ptr<DeviceRanks> DeviceRanks::join(Ranks& ranks, const MiqCudaGroups* groups, int device, std::string& why) {
  why.clear();
  if (ranks.alone()) return nullptr;
  std::string identity, problem;
  if (groups == nullptr) {
    problem = "computes on the processor";
  } else if (std::array<char, 256> text{}; groups->identity(device, text.data(), text.size()) == 0) {
    identity = text.data();
  } else {
    problem = groups->problem();
  }
  why = first_problem(hear_all(ranks, problem));
  if (!why.empty()) return nullptr;
  std::map<std::string, std::size_t> owner;
  const std::vector<std::string> identities = hear_all(ranks, identity);
  for (std::size_t r = 0; r < identities.size(); ++r) {
    const auto [other, fresh] = owner.emplace(identities[r], r);
    if (fresh) continue;
    why = name_of(other->second) + " and " + name_of(r) + " share a GPU";
    return nullptr;
  }

  std::vector<std::uint8_t> id(kMiqGroupIdBytes);
  if (ranks.first() && groups->group_id(id.data()) != 0) problem = groups->problem();
  why = first_problem({ranks.broadcast(problem)});
  if (!why.empty()) return nullptr;
  ranks.broadcast(std::span(id));
  void* group = nullptr;
  if (groups->join_group(device, id.data(), ranks.rank(), ranks.size(), &group) != 0) problem = groups->problem();
  why = first_problem(hear_all(ranks, problem));
  if (why.empty()) return std::unique_ptr<DeviceRanks>(new DeviceRanks(ranks, *groups, group));
  if (group != nullptr) groups->leave_group(group, 1);
  return nullptr;
}

DeviceRanks::~DeviceRanks() { groups_.leave_group(group_, std::uncaught_exceptions() > 0); }

void DeviceRanks::sum_on_device(double* values, std::uint64_t count, int to) {
  if (count == 0) return;
  if (groups_.group_sum(group_, values, count, to) != 0) throw Error(std::string("CUDA: a sum between the processes: ") + groups_.problem());
  bytes_ += count * sizeof(double);
}

}  // namespace miq
