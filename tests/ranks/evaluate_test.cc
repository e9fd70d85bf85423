// run-eval by several processes: the losses of every token, divergences and answers are those of one process, bit by bit.
#include "miq/formats/json.h"
#include "tests/ranks/mpirun.h"
#include "tests/ranks/small_files.h"

namespace miq {
namespace {

namespace fs = std::filesystem;
using test::Ended;

class EvaluateTogether : public test::WithMpi {
 protected:
  void SetUp() override {
    test::WithMpi::SetUp();
    if (IsSkipped()) return;
    test::write_model(folder_ / "dense.miq", test::small_config());
    test::write_model(folder_ / "other.miq", test::small_config(), 2);
    test::write_text(folder_ / "text.txt");
    std::ofstream tasks(folder_ / "task.jsonl");
    for (int i = 0; i < 9; ++i) tasks << R"({"context": "Question )" << i << R"(:", "choices": [" yes", " no", " perhaps"], "answer": )" << i % 3 << "}\n";
  }
  Ended evaluate(int processes, const std::string& name, std::vector<std::string> more) {
    std::vector<std::string> command{MIQ_TOOLS_DIR "/run-eval", "dense.miq", "other.miq", "--dataset", "mine=text.txt", "--seqlen", "64", "--threads", "1",
                                     "--losses", name + ".jsonl", "--output", name + ".json"};
    command.insert(command.end(), more.begin(), more.end());
    return test::Running(folder_, processes > 0 ? test::mpirun(processes, command) : command).end(100);
  }
  // What does not depend on the clock.
  Json figures(const std::string& name) const {
    Json all = Json::array();
    const Json report = Json::parse(test::slurp(folder_ / (name + ".json")));
    for (const Json& model : report.at("models")) {
      all.push_back({model.at("perplexity"), model.value("divergence", Json()), model.value("zeroshot", Json()), model.at("digest")});
    }
    return all;
  }
};

TEST_F(EvaluateTogether, LossesDivergencesAndAnswersAreTheSameBits) {
  const std::vector<std::string> all{"--no-cache", "--metrics", "ppl,divergence,zeroshot,params", "--tasks", "own=task.jsonl", "--item-scores"};
  const Ended alone = evaluate(0, "alone", all);
  ASSERT_EQ(alone.status, 0) << alone.err;
  for (int processes : {2, 4}) {
    const std::string name = std::to_string(processes);
    const Ended ended = evaluate(processes, name, all);
    ASSERT_EQ(ended.status, 0) << ended.err;
    EXPECT_EQ(test::slurp(folder_ / (name + ".jsonl")), test::slurp(folder_ / "alone.jsonl"));
    EXPECT_EQ(figures(name), figures("alone"));
    EXPECT_EQ(Json::parse(test::slurp(folder_ / (name + ".json"))).at("processes"), processes);
    EXPECT_EQ(ended.out, alone.out.empty() ? "" : ended.out);
    EXPECT_EQ(test::count_of(ended.out, "dense"), test::count_of(alone.out, "dense")) << ended.out;
  }
}

TEST_F(EvaluateTogether, WhatTheCacheKnowsIsNotWalkedAgain) {
  const std::vector<std::string> cached{"--cache", "kept", "--metrics", "ppl,divergence"};
  std::vector<std::string> few = cached;
  few.insert(few.end(), {"--windows", "5"});
  ASSERT_EQ(evaluate(0, "few", few).status, 0);
  const Ended together = evaluate(2, "together", cached);
  ASSERT_EQ(together.status, 0) << together.err;
  ASSERT_EQ(evaluate(0, "alone", {"--no-cache", "--metrics", "ppl,divergence"}).status, 0);
  EXPECT_EQ(test::slurp(folder_ / "together.jsonl"), test::slurp(folder_ / "alone.jsonl"));
  EXPECT_EQ(figures("together"), figures("alone"));
  // All that the two found is there for one.
  ASSERT_EQ(evaluate(0, "again", cached).status, 0);
  EXPECT_EQ(test::slurp(folder_ / "again.jsonl"), test::slurp(folder_ / "alone.jsonl"));
}

}  // namespace
}  // namespace miq
