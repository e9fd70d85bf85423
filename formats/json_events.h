// The event side of the JSON reader, for formats that need no tree (a safetensors header of 100 MB would
// become gigabytes of nodes). Within this room only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "miq/formats/json.h"

namespace miq {

// Events of one JSON text, in order. on_error() and too deep nesting are handled here: they throw.
class JsonEvents {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  JsonEvents(const std::string& name, int max_depth, std::uint64_t max_values = kJsonValueLimit)
      : name_(name), max_depth_(max_depth), max_values_(max_values) {}
  virtual ~JsonEvents() = default;

  // A value that is neither array nor object. The handler may move from it.
  virtual void on_scalar(Json&& value) = 0;
  virtual void on_key(std::string&& key) = 0;
  virtual void on_start(bool object) = 0;
  virtual void on_end() = 0;

  // Throws FormatError at the current place of the text (just behind the last token).
  [[noreturn]] void fail(std::string_view problem, std::string_view remedy = {}) const;
  int depth() const { return depth_; }

  // Runs through `text`. Throws FormatError.
  void run(std::string_view text);

  // What the nlohmann parser calls.
  bool null() { return scalar(Json()); }
  bool boolean(bool value) { return scalar(Json(value)); }
  bool number_integer(number_integer_t value) { return scalar(Json(value)); }
  bool number_unsigned(number_unsigned_t value) { return scalar(Json(value)); }
  bool number_float(number_float_t value, const string_t&) { return scalar(Json(value)); }
  bool string(string_t& value) { return scalar(Json(std::move(value))); }
  bool binary(binary_t&) { return false; }
  bool start_object(std::size_t) { return start(true); }
  bool start_array(std::size_t) { return start(false); }
  bool end_object() { return end(); }
  bool end_array() { return end(); }
  bool key(string_t& value);
  bool parse_error(std::size_t position, const std::string& token, const Json::exception& error);

 private:
  bool scalar(Json&& value);
  bool start(bool object);
  bool end();
  void count();

  const std::string& name_;
  int max_depth_;
  std::uint64_t max_values_;
  int depth_ = 0;
  std::uint64_t values_ = 0;
  std::uint64_t base_ = 0;      // offset of the text in its file
  std::uint64_t position_ = 0;  // bytes of the text read so far

 public:
  // Offsets in messages count from here (a header that does not begin its file).
  void set_base(std::uint64_t offset) { base_ = offset; }
};

// `text` made fit for a message: at most `limit` bytes, control and non-ASCII bytes as '?'.
std::string printable(std::string_view text, std::size_t limit = 80);

}  // namespace miq
