// Mapped files, atomic files and digests.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>

#include "miq/base/error.h"
#include "miq/formats/atomic_file.h"
#include "miq/formats/atomic_folder.h"
#include "miq/formats/digest.h"
#include "miq/formats/mapped_file.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

class Files : public testing::Test {
 protected:
  Files() {
    std::string pattern = (fs::temp_directory_path() / "miq-files-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~Files() override {
    std::error_code ignored;
    fs::permissions(folder_, fs::perms::owner_all, ignored);
    fs::remove_all(folder_, ignored);
  }
  std::string at(const std::string& name) const { return folder_ + "/" + name; }
  std::set<std::string> listing() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.insert(entry.path().filename());
    return names;
  }
  static void put(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

  std::string folder_;
};

template <class Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

Bytes bytes_of(std::string_view text) { return Bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()); }

TEST_F(Files, MapsContentAndOutlivesTheName) {
  put(at("a"), std::string("x\0y", 3));
  const Blob blob = map_file(at("a"));
  fs::remove(at("a"));
  EXPECT_EQ(blob.text(), std::string_view("x\0y", 3));
  EXPECT_EQ(blob.slice(2, 1).text(), "y");
}

TEST_F(Files, MapsAnEmptyFile) {
  put(at("a"), "");
  EXPECT_TRUE(map_file(at("a")).empty());
  EXPECT_EQ(read_text_file(at("a")), "");
}

TEST_F(Files, RefusesWhatCannotBeMapped) {
  EXPECT_TRUE(contains(refusal([&] { map_file(at("missing")); }), "missing: no such file"));
  EXPECT_TRUE(contains(refusal([&] { map_file(folder_); }), "is a folder"));
  EXPECT_TRUE(contains(refusal([&] { map_file(""); }), "no file name"));
  EXPECT_TRUE(contains(refusal([&] { map_file("/dev/zero"); }), "no regular file"));
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  EXPECT_TRUE(contains(refusal([&] { map_file(at("pipe")); }), "no regular file"));  // and does not wait for a writer
  put(at("a"), "x");
  EXPECT_NE(refusal([&] { map_file(at("a") + "/b"); }), "accepted");
}

TEST_F(Files, ReadTextFileBoundsItsSize) {
  put(at("a"), "12345");
  EXPECT_EQ(read_text_file(at("a"), 5), "12345");
  EXPECT_TRUE(contains(refusal([&] { read_text_file(at("a"), 4); }), "5 bytes, more than the 4"));
}

TEST_F(Files, CommitShowsTheWholeFileOnly) {
  AtomicFile file(at("out"), 10);
  file.write(bytes_of("hello "));
  file.write({});
  file.write(bytes_of("world"));
  EXPECT_EQ(file.position(), 11u);
  EXPECT_FALSE(fs::exists(at("out")));
  bool verified = false;
  file.commit([&](const std::string& temporary) {
    verified = true;
    EXPECT_EQ(read_text_file(temporary), "hello world");
    EXPECT_EQ(fs::path(temporary).parent_path(), folder_);
    EXPECT_FALSE(fs::exists(at("out")));
  });
  EXPECT_TRUE(verified);
  EXPECT_EQ(read_text_file(at("out")), "hello world");
  EXPECT_EQ(listing(), std::set<std::string>{"out"});
  EXPECT_NE(refusal([&] { file.commit(); }), "accepted");
  EXPECT_NE(refusal([&] { file.write(bytes_of("x")); }), "accepted");
  EXPECT_EQ(read_text_file(at("out")), "hello world");
}

TEST_F(Files, WithoutCommitNothingStays) {
  put(at("out"), "old");
  {
    AtomicFile file(at("out"));
    file.write(bytes_of("new"));
  }
  EXPECT_EQ(read_text_file(at("out")), "old");
  EXPECT_EQ(listing(), std::set<std::string>{"out"});
}

TEST_F(Files, FailedVerifyKeepsTheOldFile) {
  put(at("out"), "old");
  AtomicFile file(at("out"));
  file.write(bytes_of("new"));
  EXPECT_EQ(refusal([&] { file.commit([](const std::string&) { throw Error("bad"); }); }), "bad");
  EXPECT_EQ(read_text_file(at("out")), "old");
  EXPECT_EQ(listing(), std::set<std::string>{"out"});
}

TEST_F(Files, ReplacesAnOldFile) {
  put(at("out"), "old");
  write_file_atomically(at("out"), "new");
  EXPECT_EQ(read_text_file(at("out")), "new");
  EXPECT_EQ(listing(), std::set<std::string>{"out"});
}

TEST_F(Files, TwoWritersDoNotMeet) {
  AtomicFile first(at("out")), second(at("out"));
  first.write(bytes_of("1"));
  second.write(bytes_of("2"));
  first.commit();
  EXPECT_EQ(read_text_file(at("out")), "1");
  second.commit();
  EXPECT_EQ(read_text_file(at("out")), "2");
}

TEST_F(Files, ALongNameStillHasRoomForTheTemporaryOne) {
  const std::string name(255, 'n');
  write_file_atomically(at(name), "x");
  EXPECT_EQ(listing(), std::set<std::string>{name});
}

TEST_F(Files, MissingAndUnwritableFoldersAreNamed) {
  EXPECT_TRUE(contains(refusal([&] { AtomicFile(at("no/such/out")); }), "Create the folder " + at("no/such")));
  EXPECT_TRUE(contains(refusal([&] { AtomicFile file{folder_}; }), "is a folder"));
  EXPECT_TRUE(contains(refusal([&] { AtomicFile file{folder_ + "/"}; }), "no file name"));
  EXPECT_TRUE(contains(refusal([&] { AtomicFile file{""}; }), "no file name"));
  EXPECT_TRUE(contains(refusal([&] { AtomicFile file{"/dev/null"}; }), "no regular file"));
  EXPECT_TRUE(contains(refusal([&] { AtomicFile file{"/proc/miq-out"}; }), "cannot be written"));
  EXPECT_TRUE(listing().empty());
}

TEST_F(Files, ReadOnlyFolderIsRefused) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_TRUE(contains(refusal([&] { AtomicFile(at("out")); }), "Choose an output folder"));
}

TEST_F(Files, TooLittleSpaceIsRefusedBeforeWriting) {
  const std::string message = refusal([&] { AtomicFile(at("out"), std::uint64_t{1} << 62); });
  EXPECT_TRUE(contains(message, "needs 4398046511104.0 MiB (4611686018427387904 bytes)")) << message;
  EXPECT_TRUE(contains(message, "bytes) free")) << message;
  EXPECT_TRUE(listing().empty());
}

TEST_F(Files, AFailedWriteNamesTheOffsetAndRemovesTheTemporary) {
  put(at("out"), "old");
  // A file-size limit makes write() fail after a short write, as a full disk does.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 1000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = refusal([&] {
    AtomicFile file(at("out"));
    file.write(bytes_of(std::string(600, 'a')));
    file.write(bytes_of(std::string(600, 'b')));
  });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_TRUE(contains(message, "cannot be written at byte 1000")) << message;
  EXPECT_EQ(read_text_file(at("out")), "old");
  EXPECT_EQ(listing(), std::set<std::string>{"out"});
}

TEST(Digest, KnownValues) {
  // The XXH3 specification's values for empty input.
  EXPECT_EQ(digest_of({}), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(xxh3_64({}), 0x2d06800538d394c2u);
  EXPECT_EQ(Digest().hex(), digest_of({}));
}

TEST(Digest, PiecesGiveTheSameAsTheWhole) {
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += static_cast<char>(i * 31 >> 3);
  for (std::size_t piece : {1u, 7u, 240u, 241u, 1024u, 99'999u}) {
    Digest digest;
    for (std::size_t at = 0; at < text.size(); at += piece) digest.add(bytes_of(std::string_view(text).substr(at, piece)));
    EXPECT_EQ(digest.hex(), digest_of(bytes_of(text))) << piece;
    EXPECT_EQ(digest.hex(), digest.hex());
  }
}

TEST(Digest, TextsCarryTheirLength) {
  const auto of = [](std::string_view a, std::string_view b) {
    Digest digest;
    digest.add(a);
    digest.add(b);
    return digest.hex();
  };
  EXPECT_NE(of("ab", "c"), of("a", "bc"));
  EXPECT_NE(of("", "abc"), of("abc", ""));
  EXPECT_EQ(of("ab", "c"), of("ab", "c"));
}

// A process that writes `path`, or a folder of that name, and stops before it is finished.
pid_t half_written(const std::string& path, bool folder) {
  int ready[2];
  if (::pipe(ready) != 0) return -1;
  const pid_t child = ::fork();
  if (child == 0) {
    std::optional<AtomicFile> file;
    std::optional<AtomicFolder> whole;
    if (folder) {
      write_file_atomically(whole.emplace(path).temporary() + "/a", "half");
    } else {
      file.emplace(path).write(bytes_of("half"));
    }
    [[maybe_unused]] const ssize_t ignored = ::write(ready[1], "x", 1);
    for (;;) ::pause();
  }
  char byte;
  [[maybe_unused]] const ssize_t ignored = ::read(ready[0], &byte, 1);
  ::close(ready[0]);
  ::close(ready[1]);
  return child;
}

TEST_F(Files, TheNextWriterRemovesWhatAKilledOneLeft) {
  for (const bool folder : {false, true}) {
    const auto write = [&] {
      if (!folder) return write_file_atomically(at("x"), "whole");
      AtomicFolder whole(at("x"), [](const std::string&) { return true; });
      write_file_atomically(whole.temporary() + "/a", "whole");
      whole.commit();
    };
    const pid_t child = half_written(at("x"), folder);
    ASSERT_GT(child, 0);
    write();
    EXPECT_EQ(listing().size(), 2u) << "another process still writes it";
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(listing().size(), 2u);
    put(at(".x.1-0.tmp"), "a process that lives");
    put(at(".x.999999999-0.txt"), "a file of another kind");
    write();
    EXPECT_EQ(listing(), (std::set<std::string>{"x", ".x.1-0.tmp", ".x.999999999-0.txt"}));
    fs::remove_all(at("x"));
    fs::remove(at(".x.1-0.tmp"));
    fs::remove(at(".x.999999999-0.txt"));
  }
}

}  // namespace
}  // namespace miq
