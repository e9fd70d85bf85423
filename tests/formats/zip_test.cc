// Zip files made field by field: good ones, and every way we know to make a bad one.
#include "miq/formats/zip.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "miq/base/error.h"
#include "tests/formats/pickle_assembler.h"

namespace miq {
namespace {

ZipFile read(const std::string& text) { return ZipFile::read(Blob(std::string_view(text)), "x.zip"); }

std::string refusal(const std::string& text) {
  try {
    const ZipFile zip = read(text);
    for (const ZipEntry& entry : zip.entries()) zip.verify(entry);
    for (const ZipEntry& entry : zip.entries()) zip.content(entry);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

ZipMaker two() { return ZipMaker().add("a/first", "one").add("a/second", "another"); }

// A good archive with one thing changed.
std::string changed(const std::function<void(ZipMaker&)>& change) {
  ZipMaker maker = two();
  change(maker);
  return maker.make();
}

void expect_refused(const std::function<void(ZipMaker&)>& change, const std::string& part) {
  const std::string message = refusal(changed(change));
  EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks: " << part;
  EXPECT_EQ(message.rfind("x.zip: ", 0), 0u) << message;
}

void expect_read(const std::string& text) {
  const ZipFile zip = read(text);
  ASSERT_EQ(zip.entries().size(), 2u);
  ASSERT_TRUE(zip.find("a/second"));
  EXPECT_EQ(zip.content(*zip.find("a/second")).text(), "another");
  EXPECT_EQ(zip.content(zip.entries()[0]).text(), "one");
  EXPECT_EQ(zip.find("a/third"), nullptr);
  EXPECT_EQ(zip.find(""), nullptr);
  for (const ZipEntry& entry : zip.entries()) zip.verify(entry);
}

std::string zip64_extra(std::initializer_list<std::uint64_t> values) {
  std::string text = little(1, 2) + little(8 * values.size(), 2);
  for (const std::uint64_t value : values) text += little(value, 8);
  return text;
}

TEST(Zip, ReadsWhatTorchWrites) {
  expect_read(two().make());
  expect_read(changed([](ZipMaker& maker) { maker.zip64 = true; }));
  expect_read(changed([](ZipMaker& maker) { maker.comment = "a comment with PK\x05\x06 in it, and more behind that"; }));
  expect_read(changed([](ZipMaker& maker) { maker.parts[1].local_extra = "FB" + little(20, 2) + std::string(20, 'Z'); }));
  expect_read(changed([](ZipMaker& maker) { maker.parts[0].behind = std::string(16, 'd'); }));  // a data descriptor: nobody looks
  // Sizes and checksum follow the content: the local header holds zeros, or full fields beside a zip64 one.
  expect_read(changed([](ZipMaker& maker) {
    for (ZipPart& part : maker.parts) {
      part.flags = 0x808;
      part.local_crc = 0;
      part.local_size = part.local_stored = 0;
    }
  }));
  expect_read(changed([](ZipMaker& maker) {
    ZipPart& part = maker.parts[1];
    part.local_extra = zip64_extra({part.size, part.stored});
    part.local_size = part.local_stored = part.size = part.stored = 0xffffffff;
    part.central_extra = zip64_extra({7, 7});
  }));
  // Folders are no entries.
  expect_read(changed([](ZipMaker& maker) { maker.parts.insert(maker.parts.begin(), ZipPart("a/", "")); }));
  // No checksum stated.
  expect_read(changed([](ZipMaker& maker) { maker.parts[0].crc = maker.parts[0].local_crc = 0; }));
}

TEST(Zip, RefusesWrongEnds) {
  EXPECT_NE(refusal("").find("is empty"), std::string::npos);
  EXPECT_NE(refusal("PK\x03\x04").find("too short"), std::string::npos);
  EXPECT_NE(refusal("GGUF....").find("GGUF"), std::string::npos);
  EXPECT_NE(refusal("garbage in front" + two().make()).find("does not begin"), std::string::npos);
  // A local entry in front that the directory does not know.
  const std::string local = ZipMaker().add("a/zero", "hidden").make().substr(0, 30 + 6 + 6);
  EXPECT_NE(refusal(local + changed([&](ZipMaker& maker) {
                      maker.directory_move = static_cast<std::int64_t>(local.size());
                      for (ZipPart& part : maker.parts) part.move = static_cast<std::int64_t>(local.size());
                    }))
                .find("before its first entry"),
            std::string::npos);
  expect_refused([](ZipMaker& maker) { maker.behind = "x"; }, "no zip directory at its end");
  expect_refused([](ZipMaker& maker) { maker.directory_move = 1; }, "does not end where its end record begins");
  expect_refused([](ZipMaker& maker) { maker.directory_grow = -1; }, "does not end where its end record begins");
  expect_refused([](ZipMaker& maker) { maker.before_end = "gap"; }, "does not end where its end record begins");
  expect_refused([](ZipMaker& maker) { maker.in_directory = "gap"; }, "more in its directory");
  expect_refused([](ZipMaker& maker) { maker.count_more = 1; }, "states 3 entries");
  expect_refused(
      [](ZipMaker& maker) {
        maker.count_more = 1;
        maker.in_directory = std::string(60, 'x');
      },
      "no directory entry");
  expect_refused([](ZipMaker& maker) { maker.count_more = -1; }, "more in its directory");
  expect_refused([](ZipMaker& maker) { maker.count_more = 1000; }, "states 1002 entries");
  const std::string good = two().make();
  std::string disk = good;
  disk[good.size() - 18] = 1;
  EXPECT_NE(refusal(disk).find("several parts"), std::string::npos);
  std::string counts = good;
  counts[good.size() - 14] = 1;
  EXPECT_NE(refusal(counts).find("two different numbers"), std::string::npos);
}

TEST(Zip, RefusesZip64Liars) {
  const auto wide = [](ZipMaker& maker) { maker.zip64 = true; };
  const std::string good = changed(wide);
  const std::size_t end64 = good.size() - 22 - 20 - 56;
  const auto patched = [&](std::size_t at, std::uint64_t value, std::size_t bytes) {
    std::string text = good;
    text.replace(end64 + at, bytes, little(value, bytes));
    return refusal(text);
  };
  EXPECT_EQ(refusal(good), "accepted");
  EXPECT_NE(patched(56 + 8, 0, 8).find("points at no zip64"), std::string::npos);
  EXPECT_NE(patched(56 + 8, ~std::uint64_t{0}, 8).find("points at no zip64"), std::string::npos);
  EXPECT_NE(patched(56 + 16, 2, 4).find("several parts"), std::string::npos);
  EXPECT_NE(patched(16, 1, 4).find("several parts"), std::string::npos);
  EXPECT_NE(patched(4, 45, 8).find("another length"), std::string::npos);
  EXPECT_NE(patched(24, 3, 8).find("contradicts"), std::string::npos);
  EXPECT_NE(patched(40, ~std::uint64_t{0}, 8).find("does not end where"), std::string::npos);
  EXPECT_NE(patched(48, ~std::uint64_t{0} - 5, 8).find("does not end where"), std::string::npos);
  // Entries: as many as the directory of two could not hold.
  std::string many = good;
  many.replace(end64 + 24, 8, little(std::uint64_t{1} << 60, 8)).replace(end64 + 32, 8, little(std::uint64_t{1} << 60, 8));
  EXPECT_NE(refusal(many).find("more than its directory"), std::string::npos);
  // A full end record without the locator.
  std::string without = good;
  without.erase(good.size() - 22 - 20, 20);
  EXPECT_NE(refusal(without).find("without its locator"), std::string::npos);
}

TEST(Zip, RefusesWrongNames) {
  for (const std::string name : {"", "/a", "a/../b", "..", "./a", "a//b", "a\\b", "C:a"}) {
    expect_refused([&](ZipMaker& maker) { maker.parts[0] = ZipPart(name, "x"); }, "no plain relative path");
  }
  expect_refused([](ZipMaker& maker) { maker.parts[0] = ZipPart(std::string("a\0b", 3), "x"); }, "no plain relative path");
  expect_refused([](ZipMaker& maker) { maker.parts[0] = ZipPart("a/second", "x"); }, "appears twice");
  expect_refused([](ZipMaker& maker) { maker.parts[0].local_name = "a/other"; }, "another name");
}

TEST(Zip, RefusesWrongEntries) {
  expect_refused([](ZipMaker& maker) { maker.parts[0].method = 8; }, "is compressed (method 8)");
  for (const std::uint16_t flag : {0x1, 0x40, 0x2000})
    expect_refused([&](ZipMaker& maker) { maker.parts[0].flags = flag; }, "is encrypted");
  expect_refused([](ZipMaker& maker) { maker.parts[0].flags = 0x20; }, "is a patch");
  expect_refused([](ZipMaker& maker) { maker.parts[0].disk = 1; }, "another part");
  expect_refused([](ZipMaker& maker) { maker.parts[0].size = 2; }, "two sizes differ");
  expect_refused([](ZipMaker& maker) { maker.parts[0].local_method_change = 8; }, "another method or other flags");
  expect_refused([](ZipMaker& maker) { maker.parts[0].local_change = 1; }, "another method or other flags");
  expect_refused([](ZipMaker& maker) { maker.parts[0].local_size = 2; }, "another size or checksum");
  expect_refused([](ZipMaker& maker) { maker.parts[0].local_size = maker.parts[0].local_stored = 0; }, "another size or checksum");
  expect_refused([](ZipMaker& maker) { maker.parts[0].local_crc = 5; }, "another size or checksum");
  expect_refused([](ZipMaker& maker) { maker.parts[0].crc = maker.parts[0].local_crc = 5; }, "its checksum (CRC-32) is wrong");
  expect_refused([](ZipMaker& maker) { maker.parts[1].move = 1; }, "points at no entry");
  expect_refused([](ZipMaker& maker) { maker.parts[1].move = 1 << 30; }, "points at no entry");
  expect_refused(
      [](ZipMaker& maker) {
        ZipPart& part = maker.parts[1];
        part.size = part.stored = part.local_size = part.local_stored = 1 << 30;
      },
      "leave the file");
  // Contents that reach into what follows.
  expect_refused(
      [](ZipMaker& maker) {
        ZipPart& part = maker.parts[0];
        part.size = part.stored = part.local_size = part.local_stored = 20;
      },
      "overlap");
  expect_refused(
      [](ZipMaker& maker) {
        ZipPart& part = maker.parts[1];
        part.size = part.stored = part.local_size = part.local_stored = 20;
      },
      "overlaps the directory");
  // Two directory entries for one local entry.
  expect_refused(
      [](ZipMaker& maker) {
        maker.parts[0] = ZipPart("a/x", "same");
        maker.parts[1] = ZipPart("a/x", "same");
        maker.parts[1].move = -static_cast<std::int64_t>(30 + 3 + 4);
      },
      "overlap");
}

TEST(Zip, RefusesWrongExtraFields) {
  expect_refused([](ZipMaker& maker) { maker.parts[0].local_extra = "FB" + little(9, 2) + "Z"; }, "longer than its header");
  expect_refused([](ZipMaker& maker) { maker.parts[0].central_extra = zip64_extra({1}) + zip64_extra({1}); }, "two zip64 fields");
  expect_refused(
      [](ZipMaker& maker) {
        ZipPart& part = maker.parts[0];
        part.size = part.stored = 0xffffffff;
        part.central_extra = zip64_extra({3});
      },
      "too short for what it must give");
  expect_refused(
      [](ZipMaker& maker) {
        ZipPart& part = maker.parts[0];
        part.size = part.stored = 0xffffffff;
        part.central_extra = zip64_extra({~std::uint64_t{0}, ~std::uint64_t{0}});
      },
      "another size");
}

TEST(Zip, CutAnywhereIsRefused) {
  const std::string whole = changed([](ZipMaker& maker) { maker.zip64 = true; });
  for (std::size_t length = 0; length < whole.size(); ++length) EXPECT_NE(refusal(whole.substr(0, length)), "accepted") << length;
}

TEST(Zip, EveryChangedByteIsHarmless) {
  const std::string whole = changed([](ZipMaker& maker) { maker.zip64 = true; });
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int change : {1, 0x80, 0xff}) {
      std::string text = whole;
      text[at] = static_cast<char>(text[at] ^ change);
      refusal(text);
    }
  }
}

}  // namespace
}  // namespace miq
