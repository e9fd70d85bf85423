// Typed access to the keys of a report that was read from a file. A key that is absent gives the default; one of another type throws
// FormatError that names its place: "old.json: models[2].bytes.file is no whole number". null counts as absent.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/json.h"

namespace miq {

class JsonFields {
 public:
  // `json` must outlive this, and be an object or null. `place` is "" at the top, else it ends with the object's own name.
  JsonFields(const Json& json, std::string file, std::string place);

  bool given() const { return json_ != nullptr; }
  bool has(const std::string& key) const { return find(key) != nullptr; }
  bool mentions(const std::string& key) const { return json_ != nullptr && json_->contains(key); }  // null counts
  std::vector<std::string> keys() const;

  std::string text(const std::string& key) const;
  double number(const std::string& key, double otherwise) const;
  bool flag(const std::string& key) const;
  // A whole number in [0, most].
  std::int64_t count(const std::string& key, std::int64_t otherwise = 0, std::int64_t most = std::numeric_limits<std::int64_t>::max()) const;
  JsonFields object(const std::string& key) const;  // given() is false where it is absent
  Json raw_object(const std::string& key) const;    // {} where it is absent
  const Json& array(const std::string& key, std::size_t most = std::numeric_limits<std::size_t>::max()) const;  // [] where it is absent
  JsonFields element(const std::string& key, std::size_t index, const Json& json) const;

  // To throw: "FILE: PLACE.KEY PROBLEM".
  FormatError wrong(const std::string& key, const std::string& problem) const;

 private:
  const Json* find(const std::string& key) const;  // null where absent
  std::string place_of(const std::string& key) const { return place_.empty() ? key : place_ + "." + key; }

  const Json* json_ = nullptr;
  std::string file_, place_;
};

}  // namespace miq
