// One function and one table row for each task; Fields reads a line's JSON and names file, line and field where it is not as expected.
// Definitions: lm-evaluation-harness 0.4.13, tasks/{super_glue/boolq, piqa, hellaswag, winogrande, arc, openbookqa}.
#include "miq/evaluate/zeroshot_tasks.h"

#include <algorithm>
#include <filesystem>

#include "miq/base/error.h"
#include "miq/evaluate/zeroshot_text.h"
#include "miq/formats/compressed_file.h"
#include "miq/formats/digest.h"
#include "miq/formats/json.h"
#include "miq/model/unicode.h"

namespace miq {
namespace {

constexpr std::size_t kMostLineBytes = std::size_t{1} << 20;
constexpr std::size_t kMostChoices = 256;

class Fields {
 public:
  Fields(const Json& json, const std::string& file, std::int64_t line) : json_(json), file_(file), line_(line) {}

  [[noreturn]] void fail(const std::string& problem, std::string_view remedy = {}) const {
    throw FormatError(file_, "line " + std::to_string(line_) + ": " + problem, remedy);
  }

  bool has(const char* name) const { return json_.contains(name); }

  const Json& at(const char* name) const {
    const auto found = json_.find(name);
    if (found == json_.end()) fail("the field '" + std::string(name) + "' is missing", "Each line holds the fields of the published data set");
    return *found;
  }

  Fields inside(const char* name) const {
    if (!at(name).is_object()) fail("'" + std::string(name) + "' is no object");
    return Fields(at(name), file_, line_);
  }

  const std::string& text(const char* name) const {
    if (!at(name).is_string()) fail("'" + std::string(name) + "' is no text");
    return at(name).get_ref<const std::string&>();
  }

  std::vector<std::string> texts(const char* name) const {
    const Json& list = at(name);
    if (!list.is_array() || !std::all_of(list.begin(), list.end(), [](const Json& entry) { return entry.is_string(); })) {
      fail("'" + std::string(name) + "' is no list of texts");
    }
    return list.get<std::vector<std::string>>();
  }

  // A number in [0, count), which may be written as a text.
  std::int64_t number(const char* name, std::size_t count) const {
    const Json& value = at(name);
    if (value.is_string()) {
      for (std::size_t i = 0; i < count; ++i) {
        if (value.get_ref<const std::string&>() == std::to_string(i)) return static_cast<std::int64_t>(i);
      }
    } else if (value.is_number_unsigned() && value.get<std::uint64_t>() < count) {
      return static_cast<std::int64_t>(value.get<std::uint64_t>());
    }
    fail("'" + std::string(name) + "' is " + shown(value.dump(-1, ' ', true)) + ", where 0 to " + std::to_string(count - 1) + " was expected");
  }

  // The place of `wanted` in `labels`.
  std::int64_t place(const char* name, std::string_view wanted, const std::vector<std::string>& labels) const {
    const auto found = std::find(labels.begin(), labels.end(), wanted);
    if (found == labels.end()) fail("'" + std::string(name) + "' is " + shown(wanted) + ", which is none of the choices");
    return found - labels.begin();
  }

  // Choices after one context.
  ZeroShotItem item(const std::string& context, const std::vector<std::string>& choices, std::int64_t answer, const std::string& delimiter = " ") const {
    ZeroShotItem made{line_, {}, {}, answer};
    for (const std::string& choice : choices) {
      if (choice.empty()) fail("a choice is empty");
      made.choices.push_back({context, delimiter + choice});
      made.lengths.push_back(python_length(choice));
    }
    return made;
  }

  // A list of at least two choices.
  const std::vector<std::string>& checked(const std::vector<std::string>& choices) const {
    if (choices.size() < 2) fail("fewer than two choices");
    if (choices.size() > kMostChoices) fail("more than " + std::to_string(kMostChoices) + " choices");
    return choices;
  }

 private:
  const Json& json_;
  const std::string& file_;
  std::int64_t line_;
};

ZeroShotItem read_boolq(const Fields& line) {
  // "label" in SuperGLUE's form, which the harness reads; "answer": true or false in the original.
  std::int64_t answer = 0;
  if (line.has("label")) {
    answer = line.number("label", 2);
  } else {
    if (!line.at("answer").is_boolean()) line.fail("'answer' is neither true nor false");
    answer = line.at("answer").get<bool>() ? 1 : 0;
  }
  return line.item(line.text("passage") + "\nQuestion: " + line.text("question") + "?\nAnswer:", {"no", "yes"}, answer);
}

ZeroShotItem read_piqa(const Fields& line) {
  return line.item("Question: " + line.text("goal") + "\nAnswer:", {line.text("sol1"), line.text("sol2")}, line.number("label", 2));
}

ZeroShotItem read_hellaswag(const Fields& line) {
  std::vector<std::string> endings = line.texts("endings");
  line.checked(endings);
  for (std::string& ending : endings) ending = hellaswag_cleaned(ending);
  const std::string context = line.text("activity_label") + ": " + line.text("ctx_a") + " " + python_capitalize(line.text("ctx_b"));
  return line.item(hellaswag_cleaned(context), endings, line.number("label", endings.size()));
}

// The choices stand in the contexts and what follows is shared, so that its likelihood is compared (partial evaluation).
ZeroShotItem read_winogrande(const Fields& line) {
  const std::string& sentence = line.text("sentence");
  const std::size_t blank = sentence.find('_');
  if (blank == std::string::npos) line.fail("'sentence' has no '_' to fill");
  const std::string rest(python_strip(std::string_view(sentence).substr(blank + 1)));
  ZeroShotItem item;
  item.answer = line.place("answer", line.text("answer"), {"1", "2"});
  for (const char* option : {"option1", "option2"}) {
    if (line.text(option).empty()) line.fail("'" + std::string(option) + "' is empty");
    const std::string context = sentence.substr(0, blank) + line.text(option);
    item.choices.push_back({context, " " + rest});
    item.lengths.push_back(python_length(context));
  }
  return item;
}

ZeroShotItem read_labelled(const Fields& line, const std::string& context) {
  const Fields choices = line.inside("choices");
  const std::vector<std::string> texts = choices.texts("text"), labels = choices.texts("label");
  line.checked(texts);
  if (texts.size() != labels.size()) line.fail("'choices' has " + std::to_string(texts.size()) + " texts and " + std::to_string(labels.size()) + " labels");
  return line.item(context, texts, line.place("answerKey", python_lstrip(line.text("answerKey")), labels));
}

ZeroShotItem read_arc(const Fields& line) { return read_labelled(line, "Question: " + line.text("question") + "\nAnswer:"); }

ZeroShotItem read_openbookqa(const Fields& line) { return read_labelled(line, line.text("question_stem")); }

ZeroShotItem read_plain(const Fields& line) {
  const std::vector<std::string> choices = line.texts("choices");
  line.checked(choices);
  const std::int64_t answer =
      line.at("answer").is_string() ? line.place("answer", line.text("answer"), choices) : line.number("answer", choices.size());
  return line.item(line.text("context"), choices, answer, line.has("delimiter") ? line.text("delimiter") : " ");
}

struct TaskFormat {
  std::string_view name;
  bool normalised;
  ZeroShotItem (*read)(const Fields& line);
};

constexpr TaskFormat kFormats[] = {
    {"boolq", false, read_boolq},    {"piqa", true, read_piqa},         {"hellaswag", true, read_hellaswag},   {"winogrande", false, read_winogrande},
    {"arc_easy", true, read_arc},    {"arc_challenge", true, read_arc}, {"openbookqa", true, read_openbookqa},
};
constexpr TaskFormat kPlain{"", true, read_plain};

// Empty where there is none.
std::string task_file(const std::string& data_dir, std::string_view name) {
  for (const char* file : {"validation.jsonl", "validation.jsonl.gz", "validation.jsonl.zst"}) {
    const std::filesystem::path path = std::filesystem::path(data_dir) / "zeroshot" / name / file;
    std::error_code error;
    if (std::filesystem::is_regular_file(path, error)) return path.string();
  }
  return {};
}

}  // namespace

std::vector<std::string_view> published_tasks() {
  std::vector<std::string_view> names;
  for (const TaskFormat& format : kFormats) names.push_back(format.name);
  return names;
}

ZeroShotTask load_task(const std::string& name, const std::string& path, std::int64_t limit) {
  const auto row = std::find_if(std::begin(kFormats), std::end(kFormats), [&](const TaskFormat& format) { return format.name == name; });
  const TaskFormat& format = row == std::end(kFormats) ? kPlain : *row;
  const Blob file = read_text_bytes(path);
  ZeroShotTask task{name, path, digest_of(file.bytes()), format.normalised, {}};
  std::string_view rest = file.text();
  for (std::int64_t number = 1; !rest.empty() && (limit <= 0 || static_cast<std::int64_t>(task.items.size()) < limit); ++number) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string place = "line " + std::to_string(number);
    if (line.size() > kMostLineBytes) {
      throw FormatError(path, place + ": " + std::to_string(line.size()) + " bytes are more than a line may have (" + std::to_string(kMostLineBytes) + ")",
                        "Give JSON lines: one question a line");
    }
    const Json json = parse_json(line, path + ": " + place, 8, 10'000);
    const Fields fields(json, path, number);
    if (!json.is_object()) fields.fail("no JSON object", "Each line holds one question as an object");
    task.items.push_back(format.read(fields));
    task.items.back().line = number;
  }
  if (task.items.empty()) throw FormatError(path, "no questions in it", "Give JSON lines: one question a line");
  return task;
}

std::string find_task(const std::string& data_dir, const std::string& name) {
  const std::string path = task_file(data_dir, name);
  if (path.empty()) {
    throw UsageError("task '" + name + "' not found: no zeroshot/" + name + "/validation.jsonl (.gz, .zst) in " + data_dir + ". Give it as " + name +
                     "=FILE");
  }
  return path;
}

std::vector<std::string> tasks_found(const std::string& data_dir) {
  std::vector<std::string> names;
  for (const TaskFormat& format : kFormats) {
    if (!task_file(data_dir, format.name).empty()) names.emplace_back(format.name);
  }
  return names;
}

}  // namespace miq
