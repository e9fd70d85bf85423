// Questions with choices, from JSON lines in the published field names (those of the Hugging Face datasets), put into words as the task
// definitions of lm-evaluation-harness 0.4 do.
//
//   name            context                                        choices             acc_norm
//   boolq           PASSAGE\nQuestion: QUESTION?\nAnswer:          no, yes             no
//   piqa            Question: GOAL\nAnswer:                        sol1, sol2          yes
//   hellaswag       ACTIVITY: CTX_A Ctx_b, cleaned                 endings, cleaned    yes
//   winogrande      sentence up to "_" with option1 or option2     the rest, shared    no
//   arc_easy, arc_challenge  Question: QUESTION\nAnswer:           choices.text        yes
//   openbookqa      question_stem                                  choices.text        yes
//   any other       context                                        choices             yes
//
// A space stands between context and choice. Lines of any other task hold {"context", "choices": […], "answer"}: the answer is the number
// of a choice from 0 or its text; "delimiter" replaces the space.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace miq {

// The log-likelihood of `continuation` after `context` is measured.
struct ScoredText {
  std::string context, continuation;
};

struct ZeroShotItem {
  std::int64_t line = 0;  // in the file, from 1
  std::vector<ScoredText> choices;
  std::vector<std::int64_t> lengths;  // code points of each choice: what acc_norm divides by
  std::int64_t answer = 0;
};

struct ZeroShotTask {
  std::string name, path;
  std::string digest;      // XXH3-128 of the file's unpacked bytes
  bool normalised = true;  // whether the harness has a length-normalised accuracy for it
  std::vector<ZeroShotItem> items;
};

// Names of the seven published tasks.
std::vector<std::string_view> published_tasks();

// Plain, .gz or .zst. The first `limit` items (0: all). `name` selects the fields. Throws FormatError naming file and line: no JSON, a field missing or of
// another kind, an answer that is no choice, an empty choice, a line above a megabyte; and when there is no item.
ZeroShotTask load_task(const std::string& name, const std::string& path, std::int64_t limit = 0);

// DATA_DIR/zeroshot/NAME/validation.jsonl, .jsonl.gz or .jsonl.zst. Throws UsageError when it is not there.
std::string find_task(const std::string& data_dir, const std::string& name);
// Those of the published tasks that are in `data_dir`.
std::vector<std::string> tasks_found(const std::string& data_dir);

}  // namespace miq
