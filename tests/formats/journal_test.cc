// Journals: what is torn is dropped, what is damaged or another run's is refused. Whole runs that go on are in
// tests/compress/resume_test.cc, failing system calls in tests/hard/faults.py.
#include "tests/formats/journal_files.h"

#include "miq/formats/digest.h"

namespace miq {
namespace {

using namespace test;

TEST_F(JournalTest, RecordsAndSlotsComeBack) {
  small_log();
  std::string digest;
  {
    Journal journal = Journal::open(folder_, run_);
    ASSERT_EQ(journal.records().size(), 3u);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(journal.records()[i].text().substr(0, kTexts[i].size()), kTexts[i]);
    EXPECT_FALSE(journal.was_torn());
    const Bytes pieces[] = {bytes_of("hidden "), bytes_of("states")};
    journal.write_slot(1, pieces);
    digest = journal.write_slot(1, pieces);
    journal.append(pieces);
    EXPECT_NE(message_of([&] { Journal::open(folder_, run_); }).find("another process"), std::string::npos);
  }
  Journal journal = Journal::open(folder_, run_);
  EXPECT_EQ(journal.records().size(), 4u);
  std::vector<std::uint8_t> first(3), second(10);
  const std::span<std::uint8_t> pieces[] = {first, second};
  EXPECT_TRUE(journal.read_slot(1, pieces, digest));
  EXPECT_EQ(std::string(second.begin(), second.end()), "den states");
  EXPECT_FALSE(journal.read_slot(0, pieces, digest));
  EXPECT_FALSE(journal.read_slot(1, std::span(pieces).first(1), digest));
  std::string states = slurp(fs::path(folder_) / "states.1");
  states[7] ^= 1;
  spill(fs::path(folder_) / "states.1", states);
  EXPECT_FALSE(journal.read_slot(1, pieces, digest));
  journal.remove();
  EXPECT_FALSE(fs::exists(folder_));
}

TEST_F(JournalTest, TornAnywhereLosesTheLastRecordAlone) {
  const std::string whole = small_log();
  const std::size_t ends[] = {whole.size() - 64 - 128 - 128, whole.size() - 64 - 128, whole.size() - 64, whole.size()};
  for (std::size_t size = 0; size <= whole.size(); ++size) {
    spill(log(), whole.substr(0, size));
    if (size < ends[0]) {
      EXPECT_THROW(Journal::open(folder_, run_), FormatError) << size;
      continue;
    }
    const auto expected = static_cast<std::size_t>(std::upper_bound(std::begin(ends), std::end(ends), size) - ends) - 1;
    {
      Journal journal = Journal::open(folder_, run_);
      EXPECT_EQ(journal.records().size(), expected) << size;
      EXPECT_EQ(journal.was_torn(), size != ends[expected]) << size;
      const Bytes pieces[] = {bytes_of("again")};
      journal.append(pieces);
    }
    Journal journal = Journal::open(folder_, run_);
    ASSERT_EQ(journal.records().size(), expected + 1) << size;
    EXPECT_EQ(journal.records().back().text().substr(0, 5), "again");
    EXPECT_FALSE(journal.was_torn());
  }
  // What a power failure may leave: the length of the last record without its bytes.
  for (std::size_t hole = 0; hole < 3; ++hole) {
    std::string bytes = whole.substr(0, ends[2]);
    std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(ends[1] + 64 * hole / 2), bytes.end(), '\0');
    spill(log(), bytes);
    EXPECT_EQ(Journal::open(folder_, run_).records().size(), 1u) << hole;
  }
}

TEST_F(JournalTest, EveryFlippedBitIsFound) {
  const std::string whole = small_log();
  const std::size_t last = whole.size() - 64;
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string bytes = whole;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    if (bit / 8 < last) {
      EXPECT_THROW(read_journal_log(Blob(bytes), "log"), FormatError) << bit;
    } else {
      EXPECT_EQ(read_journal_log(Blob(bytes), "log").records.size(), 2u) << bit;
    }
  }
}

TEST_F(JournalTest, AnotherRunIsRefusedByWhatDiffers) {
  small_log();
  Json other = run_;
  other["method"]["sparsity"] = 0.6;
  other["seed"] = 3;
  const std::string message = message_of([&] { Journal::open(folder_, other); });
  EXPECT_NE(message.find("method/sparsity was 0.5 and is 0.6"), std::string::npos) << message;
  EXPECT_NE(message.find("seed was not given and is 3"), std::string::npos) << message;
  EXPECT_EQ(message.find("weights"), std::string::npos) << message;
  EXPECT_NE(message_of([&] { Journal::create(folder_, run_); }).find("--resume"), std::string::npos);
}

// A log whose first record holds `text`, with checksums that are right.
std::string log_of(std::string text, std::uint64_t number = 0) {
  text.resize((text.size() + 63) / 64 * 64, ' ');
  std::string head = "miqjrnl1";
  const auto add = [&](std::uint64_t value) {
    for (int i = 0; i < 8; ++i) head += static_cast<char>(value >> (8 * i));
  };
  add(number);
  add(text.size());
  head += digest_of(bytes_of(text));
  add(xxh3_64(bytes_of(head)));
  return head + text;
}

TEST_F(JournalTest, EachRefusalOfALogSaysWhatIsWrong) {
  const std::string run = R"({"version":1,"run":{}})";
  EXPECT_EQ(message_of([&] { read_journal_log(Blob(log_of(run)), "log"); }), "");
  const auto expect = [](const std::string& log, const std::string& says) {
    const std::string message = message_of([&] { read_journal_log(Blob(log), "some/log"); });
    EXPECT_NE(message.find("some/log: "), std::string::npos) << message;
    EXPECT_NE(message.find(says), std::string::npos) << message;
  };
  expect("", "is empty");
  expect(std::string(200, 'x'), "is no journal of this version, or its first record is damaged");
  for (const char* text : {"[1]", "{}", R"({"version":2,"run":{}})", R"({"version":1})", R"({"version":1,"run":[]})"}) expect(log_of(text), "does not say which run this is");
  expect(log_of(run + std::string((16u << 20) + 1, ' ')), "the first record is too long");
  std::string damaged = log_of(run) + log_of("one", 1) + log_of("two", 2);
  damaged[log_of(run).size() + 70] ^= 1;
  expect(damaged, "record 1 is damaged");
}

TEST_F(JournalTest, WhatCannotBeOpenedOrMadeIsNamed) {
  const auto expect = [](const std::function<void()>& act, const std::string& says) { EXPECT_NE(message_of(act).find(says), std::string::npos) << message_of(act); };
  expect([&] { Journal::open(folder_, run_); }, folder_ + ": cannot be opened as the journal's folder: No such file");
  expect([&] { Journal::create(folder_ + "/within/nothing", run_); }, "/within/nothing: cannot be made: No such file");
  fs::create_directories(fs::path(folder_) / "log.new");
  expect([&] { Journal::create(folder_, run_); }, "log.new: cannot be written: Is a directory");
  expect([&] { Journal::open(folder_, run_); }, "log: cannot be opened: No such file");
  fs::remove_all(folder_);
  small_log();
  expect([&] { Journal::create(folder_, run_); }, "holds the journal of an interrupted run");
  Journal journal = Journal::open(folder_, run_);
  fs::create_directories(fs::path(folder_) / "states.2");
  const Bytes pieces[] = {bytes_of("states")};
  expect([&] { journal.write_slot(2, pieces); }, "states.2: cannot be written: Is a directory");
  fs::remove(log());
  fs::create_directories(log());
  expect([&] { journal.remove(); }, "log: cannot be removed: Is a directory");
}

}  // namespace
}  // namespace miq
