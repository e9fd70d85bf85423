// nlohmann's event parser (iterative: it keeps a stack of its own) over an iterator that counts the bytes
// taken, so that our own refusals can name the place. The tree is built with an explicit stack too, and
// depth is bounded while parsing, so neither walking nor freeing the tree can run deep.
#include "miq/formats/json.h"

#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/json_events.h"

namespace miq {
namespace {

class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, std::uint64_t* taken) : at_(at), taken_(taken) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*taken_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  std::uint64_t* taken_;
};

class TreeBuilder final : public JsonEvents {
 public:
  using JsonEvents::JsonEvents;

  void on_scalar(Json&& value) override { place(std::move(value)); }
  void on_key(std::string&& key) override {
    auto [at, inserted] = open_.back()->get_ref<Json::object_t&>().try_emplace(std::move(key));
    if (!inserted) fail("the key '" + printable(at->first) + "' appears twice in one object", "Remove one of the two");
    slot_ = &at->second;
  }
  void on_start(bool object) override { open_.push_back(place(object ? Json::object() : Json::array())); }
  void on_end() override { open_.pop_back(); }

  Json take() { return std::move(root_); }

 private:
  // Parents never move while a child is open: only the innermost array grows.
  Json* place(Json&& value) {
    Json* target = &root_;
    if (!open_.empty()) {
      Json& parent = *open_.back();
      if (parent.is_array()) {
        auto& items = parent.get_ref<Json::array_t&>();
        items.push_back(std::move(value));
        return &items.back();
      }
      target = slot_;
    }
    *target = std::move(value);
    return target;
  }

  Json root_;
  std::vector<Json*> open_;
  Json* slot_ = nullptr;  // where the value of the last key goes
};

// "[json.exception.parse_error.101] parse error at line 1, column 2: REASON" -> REASON.
std::string reason_of(const Json::exception& error) {
  std::string_view text = error.what();
  if (const auto column = text.find("column "); column != std::string_view::npos) {
    if (const auto colon = text.find(": ", column); colon != std::string_view::npos) return printable(text.substr(colon + 2), 160);
  }
  if (const auto bracket = text.find("] "); bracket != std::string_view::npos) text.remove_prefix(bracket + 2);
  return printable(text, 160);
}

}  // namespace

std::string printable(std::string_view text, std::size_t limit) {
  std::string result(text.substr(0, limit));
  for (char& c : result) {
    if (c < 0x20 || c == 0x7f) c = '?';  // char is signed here: also everything from 0x80 on
  }
  if (text.size() > limit) result += "...";
  return result;
}

void JsonEvents::fail(std::string_view problem, std::string_view remedy) const {
  throw FormatError(name_, base_ + position_, problem, remedy.empty() ? "No tool writes this: save or fetch the file again" : remedy);
}

void JsonEvents::count() {
  if (++values_ > max_values_) fail("more than " + std::to_string(max_values_) + " values");
}

bool JsonEvents::scalar(Json&& value) {
  count();
  on_scalar(std::move(value));
  return true;
}

bool JsonEvents::start(bool object) {
  count();
  if (depth_ >= max_depth_) fail("arrays and objects nested deeper than " + std::to_string(max_depth_));
  ++depth_;
  on_start(object);
  return true;
}

bool JsonEvents::end() {
  --depth_;
  on_end();
  return true;
}

bool JsonEvents::key(string_t& value) {
  on_key(std::move(value));
  return true;
}

bool JsonEvents::parse_error(std::size_t position, const std::string&, const Json::exception& error) {
  throw FormatError(name_, base_ + (position ? position - 1 : 0), "not valid JSON: " + reason_of(error),
                    "The file may be damaged or cut short: fetch it again");
}

void JsonEvents::run(std::string_view text) {
  // The parser takes a zero byte for the end of the text, and would accept anything behind it.
  if (const auto zero = text.find('\0'); zero != std::string_view::npos) {
    position_ = zero;
    fail("not valid JSON: a zero byte", "The file may be damaged: fetch it again");
  }
  position_ = 0;
  // The parser skips a byte order mark, which RFC 8259 forbids and other readers of these files refuse.
  if (text.starts_with("\xEF\xBB\xBF")) fail("not valid JSON: it begins with a byte order mark", "Save the file as UTF-8 without one");
  const CountingIterator first(text.data(), &position_);
  const CountingIterator last(text.data() + text.size(), &position_);
  if (!Json::sax_parse(first, last, this)) fail("not valid JSON");
}

Json parse_json(std::string_view text, const std::string& name, int max_depth, std::uint64_t max_values) {
  TreeBuilder builder(name, max_depth, max_values);
  builder.run(text);
  return builder.take();
}

}  // namespace miq
