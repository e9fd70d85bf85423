// Writes GGUF files field by field, for tests. Nothing is checked: wrong files are as easy as right ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace miq::gguf_maker {

enum ValueType : std::uint32_t { U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64 };

class Maker {
 public:
  template <class T>
  Maker& put(T value) {
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    text.append(bytes, sizeof value);
    return *this;
  }
  Maker& u32(std::uint64_t value) { return put(static_cast<std::uint32_t>(value)); }
  Maker& u64(std::uint64_t value) { return put(value); }
  Maker& string(const std::string& value) {
    u64(value.size());
    text += value;
    return *this;
  }
  Maker& start(std::uint64_t tensors, std::uint64_t values, std::uint32_t version = 3) {
    text += "GGUF";
    return u32(version).u64(tensors).u64(values);
  }
  Maker& key(const std::string& name, std::uint32_t type) { return string(name).u32(type); }
  Maker& tensor(const std::string& name, const std::vector<std::uint64_t>& dimensions, std::uint32_t type, std::uint64_t offset) {
    string(name).u32(dimensions.size());
    for (std::uint64_t dimension : dimensions) u64(dimension);
    return u32(type).u64(offset);
  }
  Maker& align(std::size_t alignment = 32) {
    text.resize((text.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  Maker& raw(const std::string& bytes) {
    text += bytes;
    return *this;
  }

  std::string text;
};

}  // namespace miq::gguf_maker
