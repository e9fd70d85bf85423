// The commands as a user meets them: exit codes, messages, and no file left behind by a failure. Everything
// runs on a tiny random model that the test makes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "miq/formats/safetensors.h"
#include "miq/model/model.h"
#include "tests/model/small_model.h"
#include "tests/tools/byte_tokenizer.h"
#include "tests/tools/command_outcome.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

using test::Outcome;
using test::slurp;
using test::write_text;
using test::byte_tokenizer;

Json folder_config() {
  return {{"model_type", "llama"}, {"vocab_size", 256},         {"hidden_size", 32},        {"intermediate_size", 48}, {"num_hidden_layers", 2},     {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"rms_norm_eps", 1e-5}, {"max_position_embeddings", 128}, {"tie_word_embeddings", true}, {"hidden_act", "silu"}};
}

class Commands : public testing::Test {
 protected:
  void SetUp() override {
    work_ = fs::path(testing::TempDir()) / ("miq_commands_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(work_);
    fs::create_directories(work_ / "model");
    write_folder(folder_config(), byte_tokenizer());
    std::string text;
    for (int i = 0; i < 400; ++i) text += "Sentence number " + std::to_string(i * i) + " says little, but says it well.\n";
    write_text(work_ / "text.txt", text);
  }
  void TearDown() override { fs::remove_all(work_); }

  void write_folder(const Json& json, const std::string& tokenizer) {
    const Config config = config_from_hugging_face(folder_config(), "config");
    const Model model = test::small_model(config).model;
    std::vector<SafetensorsLayout> layout;
    std::string data;
    for (const auto& [name, tensor] : model.tensors) {
      layout.push_back({name, tensor.dtype, tensor.shape});
      data += tensor.sections.at("data").text();
    }
    write_text(work_ / "model" / "model.safetensors", safetensors_header(layout, {}) + data);
    write_text(work_ / "model" / "config.json", json.dump());
    write_text(work_ / "model" / "tokenizer.json", tokenizer);
  }

  Outcome run(const std::string& command) const { return test::run_command(work_, command); }
  Outcome convert(const std::string& arguments) const { return run("convert-checkpoint " + arguments); }
  Outcome compress(const std::string& arguments) const {
    return run("miq-compress dense.miq text.txt -o out.miq --documents whole --sampling in-order --nsamples 4 --seqlen 64 --dtype float32 " + arguments);
  }
  void make_dense() {
    const Outcome outcome = convert("model -o dense.miq");
    ASSERT_EQ(outcome.code, 0) << outcome.err;
  }

  // `outcome` failed with `code` and a message that holds `text`; nothing was left beside the inputs.
  void expect_refused(const Outcome& outcome, int code, const std::string& text) const {
    EXPECT_EQ(outcome.code, code) << outcome.out << outcome.err;
    EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
    for (const auto& entry : fs::directory_iterator(work_)) {
      const std::string name = entry.path().filename().string();
      EXPECT_TRUE(name == "model" || name == "text.txt" || name == "out.txt" || name == "err.txt" || name == "dense.miq" || name.starts_with("bad")) << "left behind: " << name;
    }
  }
  fs::path work_;
};

TEST_F(Commands, HelpAndVersion) {
  for (const std::string command : {"compare-methods", "convert-checkpoint", "miq-compress", "miq-generate", "run-eval"}) {
    const Outcome help = run(command + " --help");
    EXPECT_EQ(help.code, 0);
    EXPECT_NE(help.out.find("--threads"), std::string::npos) << help.out;
    const Outcome version = run(command + " --version");
    EXPECT_EQ(version.code, 0);
    EXPECT_NE(version.out.find(MIQ_VERSION), std::string::npos) << version.out;
    EXPECT_EQ(run(command).code, 2);
    EXPECT_EQ(run(command + " --no-such-option").code, 2);
  }
}

TEST_F(Commands, TheMainJob) {
  make_dense();
  for (const std::string options : {"--method sparsegpt --wbits 4", "--method enhanced --target-avg-bits 4", "--method mi --target-avg-bits 4 --group-size 16",
                                    "--method mixed --target-avg-bits 4 --group-size 16", "--method mi --sparsity 0.5 --target-avg-bits 4 --group-size 16"}) {
    const Outcome outcome = compress(options);
    ASSERT_EQ(outcome.code, 0) << options << "\n" << outcome.err;
  }
  const Outcome outcome = run("run-eval dense=dense.miq small=out.miq --metrics all --dataset text=text.txt --seqlen 64 --windows 4 --dtype float32 --output report.json --html report.html");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json report = Json::parse(slurp(work_ / "report.json"));
  EXPECT_EQ(report["schema"], "miq.eval/1");
  ASSERT_EQ(report["models"].size(), 2u);
  const Json& dense = report["models"][0];
  EXPECT_EQ(dense["name"], "dense");
  EXPECT_EQ(dense["parameters"]["total"], 256 * 32 + 2 * (32 * 32 * 2 + 16 * 32 * 2 + 48 * 32 * 3 + 64) + 32);
  EXPECT_EQ(dense["perplexity"]["text"]["windows"], 4);
  EXPECT_GT(dense["perplexity"]["text"]["value"].get<double>(), 1.0);
  const Json& small = report["models"][1];
  EXPECT_LE(small["bits_per_weight"]["code"].get<double>(), 4.0);
  EXPECT_GT(small["bits_per_weight"]["effective"].get<double>(), small["bits_per_weight"]["code"].get<double>() * 0.5);
  EXPECT_NEAR(small["sparsity"].get<double>(), 0.5, 0.02);
  EXPECT_NE(slurp(work_ / "report.html").find("<html"), std::string::npos);
}

TEST_F(Commands, DevicesAreChosenOrRefused) {
  make_dense();
  const std::string evaluate = "run-eval dense.miq --metrics ppl --dataset text=text.txt --seqlen 64 --windows 2 --output report.json --device ";
  const std::string compare = "compare-methods dense.miq text.txt --documents whole --nsamples 2 --seqlen 64 --methods gptq --wbits 4 "
                              "--eval text.txt --eval-seqlen 64 --eval-windows 2 -o comparison --device ";
  for (const std::string wrong : {"gpu", "cuda:x", "cuda:0,0", "cpu:1"}) {
    expect_refused(run(evaluate + wrong), 2, "--device");
    expect_refused(run("miq-generate dense.miq --prompt Sentence --device " + wrong), 2, "--device");
    expect_refused(compress("--method rtn --wbits 4 --device " + wrong), 2, "--device");
    expect_refused(run(compare + wrong), 2, "--device");
  }
  // Hidden from the driver, or no driver at all.
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  expect_refused(run(evaluate + "cuda:0"), 1, "--device cuda: found ");
  expect_refused(compress("--method rtn --wbits 4 --device cuda"), 1, "--device cuda: found ");
  expect_refused(run(compare + "cuda"), 1, "--device cuda: found ");
  const Outcome compared = run(compare + "auto --dtype float32");
  EXPECT_EQ(compared.code, 0) << compared.err;
  EXPECT_NE(compared.err.find("on the processor: found "), std::string::npos) << compared.err;
  EXPECT_EQ(Json::parse(slurp(work_ / "comparison" / "report.json"))["device"], "cpu");
  fs::remove_all(work_ / "comparison");
  const Outcome compressed = compress("--method rtn --wbits 4 --device auto");
  EXPECT_EQ(compressed.code, 0) << compressed.err;
  EXPECT_NE(compressed.err.find("on the processor: found "), std::string::npos) << compressed.err;
  const Outcome outcome = run(evaluate + "auto");
  unsetenv("CUDA_VISIBLE_DEVICES");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("on the processor: found "), std::string::npos) << outcome.err;
  const Json report = Json::parse(slurp(work_ / "report.json"));
  EXPECT_EQ(report["device"], "cpu");
  EXPECT_EQ(report["device"], "cpu");
  EXPECT_EQ(report["dtype"], "float32");
}

TEST_F(Commands, EvaluationComparesWithAReferenceAndGoesOnFromItsCache) {
  make_dense();
  ASSERT_EQ(compress("--method rtn --wbits 4").code, 0);
  const std::string texts = " --metrics ppl,divergence --dataset text=text.txt --seqlen 64 --dtype float32 --output report.json ";
  const auto model = [&](std::size_t number) { return Json::parse(slurp(work_ / "report.json"))["models"].at(number); };
  Outcome outcome = run("run-eval dense=dense.miq small=out.miq --windows 3 --losses tokens.jsonl" + texts);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_FALSE(model(0).contains("divergence"));
  EXPECT_EQ(model(1)["divergence"]["text"]["reference"], "dense");
  EXPECT_EQ(model(1)["divergence"]["text"]["reference_digest"], model(0)["digest"]);
  EXPECT_GT(model(1)["divergence"]["text"]["mean"].get<double>(), 0);
  const std::string lines = slurp(work_ / "tokens.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 6);

  // More windows, the other order, another name and path: the same bits as without a cache.
  fs::copy_file(work_ / "out.miq", work_ / "copy.miq");
  ASSERT_EQ(run("run-eval copy.miq dense.miq --reference dense.miq --windows 5" + texts).code, 0);
  const Json cached = model(0);
  ASSERT_EQ(run("run-eval copy.miq --reference dense.miq --windows 5 --no-cache" + texts).code, 0);
  EXPECT_EQ(cached["perplexity"], model(0)["perplexity"]);
  EXPECT_EQ(cached["divergence"]["text"]["mean"], model(0)["divergence"]["text"]["mean"]);
  EXPECT_EQ(cached["divergence"]["text"]["loss_correlation"], model(0)["divergence"]["text"]["loss_correlation"]);

  ASSERT_EQ(run("run-eval dense.miq out.miq --reference none --windows 3" + texts).code, 0);
  EXPECT_FALSE(model(1).contains("divergence"));
  outcome = run("run-eval dense.miq" + texts);
  EXPECT_EQ(outcome.code, 2) << outcome.err;  // nobody to compare with
  EXPECT_NE(outcome.err.find("--reference"), std::string::npos);
}

// The command on a model's card, its placeholders filled in, gives the same container byte for byte.
TEST_F(Commands, CardsSayHowToMakeAModelAgain) {
  make_dense();
  const std::pair<const char*, const char*> placeholders[] = {{"SOURCE", "dense.miq"}, {"TEXT_FILE", "text.txt"}, {"MODEL", "again.miq"}};
  for (const std::string options :
       {"--method rtn --wbits 4", "--method sparsegpt --sparsity 0.5 --wbits 4 --act-order --group-size 16 --damping 0.02", "--method wanda --prune-n 2 --prune-m 4",
        "--method enhanced --target-avg-bits 4 --bit-method quantile --importance-weights 1,2,3,4,5",
        "--method mi --target-avg-bits 4 --group-size 16 --seed 3 --clustering hierarchical --refine 0",
        "--method mixed --target-bpw 4.5 --group-size 16 --levels 2,4,8 --layer-bits 0=4 --tune norms --channel-scaling",
        "--method gptq --wbits 3 --static-groups --group-size 16 --clip search", "--method slicegpt --sparsity 0.25 --round-interval 4",
        "--method structured --sparsity 0.2 --removal-score taylor --protect-layers 0,0"}) {
    ASSERT_EQ(compress(options).code, 0) << options << slurp(work_ / "err.txt");
    ASSERT_EQ(run("run-eval out.miq --metrics params --markdown report.md").code, 0);
    const std::string report = slurp(work_ / "report.md");
    const std::size_t begin = report.find("\nmiq-compress ");
    ASSERT_NE(begin, std::string::npos) << report;
    std::string command = report.substr(begin + 1, report.find('\n', begin + 1) - begin - 1);
    EXPECT_EQ(report.find("# recorded, but"), std::string::npos) << report;
    for (const auto& [name, value] : placeholders) {
      const std::size_t place = command.find(name);
      if (place != std::string::npos) command.replace(place, std::string_view(name).size(), value);
    }
    const Outcome again = run(command);
    ASSERT_EQ(again.code, 0) << command << "\n" << again.err;
    EXPECT_TRUE(slurp(work_ / "again.miq") == slurp(work_ / "out.miq")) << options << "\n" << command;
  }
}

TEST_F(Commands, EarlierResultsSideBySide) {
  make_dense();
  ASSERT_EQ(compress("--method rtn --wbits 4").code, 0);
  const std::string measure = "run-eval dense=dense.miq small=out.miq --dataset text=text.txt --seqlen 64 --dtype float32 --quiet --output ";
  ASSERT_EQ(run(measure + "before.json --windows 4").code, 0);
  ASSERT_EQ(run(measure + "after.json --windows 3 --latex table.tex --format json").code, 0);
  EXPECT_EQ(Json::parse(slurp(work_ / "out.txt"))["schema"], "miq.eval/1");
  EXPECT_NE(slurp(work_ / "table.tex").find("\\toprule"), std::string::npos);
  fs::remove(work_ / "dense.miq");  // no model is opened
  fs::remove(work_ / "out.miq");
  Outcome outcome = run("run-eval --compare before.json --output table.md");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("Δ text"), std::string::npos) << outcome.out;
  EXPECT_NE(slurp(work_ / "table.md").find("# Comparison"), std::string::npos);
  outcome = run("run-eval --compare --model_paths before.json,after.json --html table.html --format markdown");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("windows 3 against 4"), std::string::npos) << outcome.out;
  EXPECT_NE(slurp(work_ / "table.html").find("Comparison of 4 results"), std::string::npos);
  outcome = run("run-eval --compare text.txt");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.err.find("text.txt: is no report of run-eval"), std::string::npos) << outcome.err;
  EXPECT_EQ(run("run-eval --compare").code, 2);
}

TEST_F(Commands, ComparesMethodsWithOneCalibration) {
  make_dense();
  const std::string shared = "--documents whole --sampling in-order --nsamples 4 --seqlen 64 --dtype float32 --wbits 4 ";
  const std::string line = "compare-methods dense.miq text.txt --eval text.txt --eval-seqlen 64 --eval-windows 3 " + shared;
  const Outcome outcome = run(line + "--methods sparsegpt,enhanced --run 'clipped=gptq --act-order --group-size 16 --clip search' "
                                     "--run 'mi=mi --group-size 16' -o both");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json report = Json::parse(slurp(work_ / "both" / "report.json"));
  std::vector<std::string> names;
  for (const Json& model : report["models"]) {
    names.push_back(model["name"]);
    EXPECT_GT(model["perplexity"]["text"]["value"].get<double>(), 1) << model["name"];
    EXPECT_NE(outcome.out.find("| " + names.back()), std::string::npos) << outcome.out;
  }
  EXPECT_EQ(names, (std::vector<std::string>{"dense", "sparsegpt", "enhanced", "clipped", "mi"}));
  EXPECT_NE(slurp(work_ / "both" / "report.html").find("<html"), std::string::npos);
  // Each container is what miq-compress makes.
  ASSERT_EQ(compress("--method gptq --wbits 4 --act-order --group-size 16 --clip search").code, 0);
  EXPECT_EQ(slurp(work_ / "out.miq"), slurp(work_ / "both" / "clipped.miq"));
  // Several at once make the same, and without --eval nothing else.
  const Outcome at_once = run(line.substr(0, line.find(" --eval")) + " " + shared + "--methods sparsegpt,enhanced --run 'clipped=gptq --act-order --group-size 16 --clip search' "
                              "--run 'mi=mi --group-size 16' --jobs 3 -o at_once");
  ASSERT_EQ(at_once.code, 0) << at_once.err;
  for (const char* name : {"sparsegpt.miq", "enhanced.miq", "clipped.miq", "mi.miq"}) {
    EXPECT_EQ(slurp(work_ / "at_once" / name), slurp(work_ / "both" / name)) << name;
    EXPECT_NE(at_once.err.find(name), std::string::npos) << at_once.err;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(work_ / "at_once"), {}), 4);
  EXPECT_EQ(at_once.out, "");
  // One that cannot reach its target ends all, under its name.
  const Outcome failed = run(line + "--methods sparsegpt --run 'less=mixed --target-bpw 0.1' --jobs 2 -o failed");
  EXPECT_EQ(failed.code, 2);
  EXPECT_NE(failed.err.find("run 'less'"), std::string::npos) << failed.err;
  for (const char* folder : {"both", "at_once", "failed"}) fs::remove_all(work_ / folder);
  fs::remove(work_ / "out.miq");
  expect_refused(run(line + "--run 'x=gptq --nonsense' -o both"), 2, "nonsense");
  expect_refused(run(line + "--methods sparsegpt,sparsegpt -o both"), 2, "two runs are called 'sparsegpt'");
  expect_refused(run(line + "--run '../x=rtn' -o both"), 2, "names a file");
  expect_refused(run(line + "--group-size 16 -o both"), 2, "run 'enhanced'");
}

TEST_F(Commands, ConvertingAgainGivesTheSameBytes) {
  make_dense();
  ASSERT_EQ(convert("model -o again.miq --threads 1").code, 0);
  EXPECT_EQ(slurp(work_ / "dense.miq"), slurp(work_ / "again.miq"));
}

TEST_F(Commands, AFailureLeavesTheOldOutput) {
  make_dense();
  const std::string before = slurp(work_ / "dense.miq");
  write_text(work_ / "model" / "model.safetensors", "broken");
  EXPECT_EQ(convert("model -o dense.miq").code, 1);
  EXPECT_EQ(slurp(work_ / "dense.miq"), before);
}

TEST_F(Commands, TruncatedAndForeignFilesAreRefused) {
  make_dense();
  const std::string whole = slurp(work_ / "dense.miq");
  write_text(work_ / "bad.miq", whole.substr(0, whole.size() - 100));
  expect_refused(convert("bad.miq -o x.miq"), 1, "bad.miq");
  expect_refused(run("run-eval bad.miq --metrics params"), 1, "bad.miq");
  write_text(work_ / "bad.gguf", std::string("GGUF\3\0\0\0", 8));
  expect_refused(convert("bad.gguf -o x.miq"), 1, "bad.gguf");
  write_text(work_ / "bad.bin", "no checkpoint at all");
  expect_refused(convert("bad.bin -o x.miq"), 1, "not a checkpoint that miq reads");
  expect_refused(convert("absent.gguf -o x.miq"), 1, "no such file");
}

TEST_F(Commands, AFlippedByteIsFoundAndNamed) {
  make_dense();
  std::string bytes = slurp(work_ / "dense.miq");
  bytes[bytes.size() / 2] ^= 4;
  write_text(work_ / "bad.miq", bytes);
  expect_refused(convert("bad.miq -o x.miq"), 1, "bad.miq");
  // All that is damaged is named, not the first alone.
  bytes[bytes.size() - 100] ^= 1;
  write_text(work_ / "bad.miq", bytes);
  const Outcome verified = run("inspect-checkpoint bad.miq --verify");
  EXPECT_EQ(verified.code, 1);
  std::size_t named = 0;
  for (std::size_t at = 0; (at = verified.err.find("damaged: tensor model.", at)) != std::string::npos; ++at) ++named;
  EXPECT_EQ(named, 2u) << verified.err;
}

TEST_F(Commands, FoldersThatContradictThemselvesAreRefused) {
  write_folder(folder_config(), byte_tokenizer(3));
  expect_refused(convert("model -o x.miq"), 1, "tokenizer has ids up to 258");
  Json json = folder_config();
  json["model_type"] = "bloom";
  write_folder(json, byte_tokenizer());
  expect_refused(convert("model -o x.miq"), 1, "'bloom' is not supported (ALiBi positions, a norm of the embedding");
}

TEST_F(Commands, OptionsThatMakeNoSenseAreWrongUse) {
  make_dense();
  expect_refused(compress("--method gptq"), 2, "--wbits");
  expect_refused(compress("--method mixed"), 2, "--target-avg-bits");
  expect_refused(compress("--method sparsegpt --sparsity 0.5 --group-size 16"), 2, "--wbits");
  expect_refused(compress("--method mi --target-avg-bits 4 --n-groups 4 --group-size 8"), 2, "--n-groups");
  expect_refused(compress("--method sparsegpt --sparsity 1.5"), 2, "sparsity");
  expect_refused(compress("--method nonsense --wbits 4"), 2, "nonsense");
  expect_refused(run("run-eval dense.miq --metrics ppl,beauty"), 2, "beauty");
  expect_refused(run("run-eval dense.miq --metrics ppl --dataset text=text.txt --seqlen 100000"), 2, "seqlen");
}

TEST_F(Commands, UnwritableOutputs) {
  make_dense();
  expect_refused(convert("dense.miq -o absent/x.miq"), 1, "absent");
  expect_refused(run("miq-compress dense.miq text.txt -o absent/x.miq --method rtn --wbits 4 --nsamples 2 --seqlen 64 --dtype float32"), 1, "absent");
  expect_refused(run("run-eval dense.miq --metrics params --output absent/report.json"), 1, "absent");
}

TEST_F(Commands, FoldersForTransformersAndBack) {
  make_dense();
  ASSERT_EQ(convert("dense.miq -o out --to hf --shard-size 20KB").code, 0);
  EXPECT_TRUE(fs::exists(work_ / "out" / "model.safetensors.index.json"));
  const Outcome back = convert("out -o back.miq --json");
  ASSERT_EQ(back.code, 0) << back.err;
  EXPECT_EQ(Json::parse(back.out)["restored"], true);
  EXPECT_EQ(slurp(work_ / "dense.miq"), slurp(work_ / "back.miq"));
  EXPECT_EQ(slurp(work_ / "model" / "tokenizer.json"), slurp(work_ / "out" / "tokenizer.json"));
  // Over one of ours, not over anything else.
  EXPECT_EQ(convert("dense.miq -o out --to hf --dtype bf16").code, 0);
  EXPECT_EQ(Json::parse(slurp(work_ / "out" / "config.json"))["torch_dtype"], "bfloat16");
  write_text(work_ / "out" / "notes.txt", "mine");
  const Outcome refused = convert("dense.miq -o out --to hf --force");
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.err.find("'notes.txt'"), std::string::npos) << refused.err;
  EXPECT_EQ(slurp(work_ / "out" / "notes.txt"), "mine");
  EXPECT_EQ(convert("dense.miq -o x.miq --force").code, 2);
  EXPECT_EQ(convert("dense.miq -o x.miq --to gguf").code, 2);
}

TEST_F(Commands, AForeignEndingIsAContainerAllTheSame) {
  const Outcome outcome = convert("model -o model.bin");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("model.bin will be a .miq container"), std::string::npos) << outcome.err;
  EXPECT_EQ(run("inspect-checkpoint model.bin --verify").code, 0);
}

TEST_F(Commands, CompressSavesTheFolderToo) {
  make_dense();
  const Outcome outcome = compress("--method sparsegpt --wbits 4 --sparsity 0.5 --save folder");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(run("inspect-checkpoint --diff out.miq folder").code, 0);
  const Outcome inspected = run("inspect-checkpoint folder");
  EXPECT_NE(inspected.out.find("method          sparsegpt, as recorded"), std::string::npos) << inspected.out;
  write_text(work_ / "folder" / "mine.txt", "");
  EXPECT_EQ(compress("--method rtn --wbits 4 --save folder").code, 1);
}

TEST_F(Commands, NamesOfTheHubsCache) {
  const fs::path repository = work_ / "cache" / "models--org--tiny";
  fs::create_directories(repository / "refs");
  fs::create_directories(repository / "snapshots");
  fs::copy(work_ / "model", repository / "snapshots" / "0123abcd");
  write_text(repository / "refs" / "main", "0123abcd");
  const auto with_cache = [&](const std::string& command) {
    const std::string line = "cd '" + work_.string() + "' && HF_HUB_CACHE=cache '" MIQ_TOOLS_DIR "'/" + command + " >out.txt 2>err.txt </dev/null";
    const int status = std::system(line.c_str());
    return Outcome{WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(work_ / "out.txt"), slurp(work_ / "err.txt")};
  };
  Outcome outcome = with_cache("convert-checkpoint org/tiny -o x.miq");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find(", tiny, llama"), std::string::npos) << outcome.out;
  outcome = with_cache("convert-checkpoint org/other -o y.miq");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.err.find("hf download org/other"), std::string::npos) << outcome.err;
}

TEST_F(Commands, InspectSaysWhatAModelIs) {
  make_dense();
  ASSERT_EQ(compress("--method sparsegpt --wbits 4 --sparsity 0.5").code, 0);
  const Outcome text = run("inspect-checkpoint out.miq --verify --matrices");
  ASSERT_EQ(text.code, 0) << text.err;
  for (const char* words : {"family          llama", "sparsegpt, as recorded", "layers 0-1 (2 alike)", "head: tied", "every checksum is right"}) {
    EXPECT_NE(text.out.find(words), std::string::npos) << words << "\n" << text.out;
  }
  const Json json = Json::parse(run("inspect-checkpoint out.miq --json").out);
  EXPECT_EQ(json["schema"], "miq.inspect/1");
  EXPECT_EQ(json["structure"]["layers"].size(), 1u);
  EXPECT_EQ(json["structure"]["layers"][0]["to"], 1);
  EXPECT_EQ(json["parameters"]["total"], 256 * 32 + 2 * (32 * 32 * 2 + 16 * 32 * 2 + 48 * 32 * 3 + 64) + 32);
  EXPECT_TRUE(Json::parse(run("inspect-checkpoint model --json").out).contains("guess"));
}

TEST_F(Commands, InspectComparesTwo) {
  make_dense();
  ASSERT_EQ(compress("--method rtn --wbits 4").code, 0);
  EXPECT_EQ(run("inspect-checkpoint --diff model dense.miq").code, 0);
  const Outcome outcome = run("inspect-checkpoint --diff dense.miq out.miq --json");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "");
  const Json json = Json::parse(outcome.out);
  EXPECT_EQ(json["different"].size(), 14u);
  EXPECT_GT(json["different"][0]["rms_relative"].get<double>(), 0.01);
  EXPECT_LT(json["different"][0]["rms_relative"].get<double>(), 0.5);
  EXPECT_EQ(run("inspect-checkpoint dense.miq out.miq").code, 2);
  EXPECT_EQ(run("inspect-checkpoint --diff dense.miq").code, 2);
}

TEST_F(Commands, InspectListsFilesThatAreNoModel) {
  const Outcome outcome = run("inspect-checkpoint model/model.safetensors");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("no model"), std::string::npos);
  EXPECT_NE(outcome.out.find("model.norm.weight"), std::string::npos) << outcome.out;
  // os.system("x") as protocol 2: named, marked, not called.
  write_text(work_ / "bad.pkl", std::string("\x80\x02") + "cos\nsystem\nX\x01" + std::string(3, '\0') + "x\x85R.");
  const Outcome pickle = run("inspect-checkpoint bad.pkl");
  ASSERT_EQ(pickle.code, 0) << pickle.err;
  EXPECT_NE(pickle.out.find("!! os.system  called once"), std::string::npos) << pickle.out;
  write_text(work_ / "bad.txt", "no checkpoint");
  EXPECT_EQ(run("inspect-checkpoint bad.txt").code, 1);
}

}  // namespace
}  // namespace miq
