// Logs of journals, and their records as fields: whatever the bytes are, a record is whole or refused, and no read leaves it. Fields that
// were read are written again and read back as themselves.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/journal.h"
#include "miq/formats/record_bytes.h"

namespace {

template <typename T>
std::string bytes_of(const T* values, std::size_t count) {
  return std::string(reinterpret_cast<const char*>(values), count * sizeof(T));
}

// A field of one of seven kinds, as its bytes.
std::string read_field(miq::RecordReader& reader, int kind) {
  const auto number = [](auto value) { return bytes_of(&value, 1); };
  const auto list = [](const auto& values) { return bytes_of(values.data(), values.size()); };
  switch (kind) {
    case 0: return number(reader.u64());
    case 1: return reader.text();
    case 2: return list(reader.list<double>());
    case 3: return list(reader.list<std::uint8_t>());
    case 4: return std::string(reader.blob().text());
    case 5: return number(reader.f64());
    default: return number(static_cast<std::uint8_t>(reader.u8()));
  }
}

void write_field(miq::RecordWriter& writer, int kind, const std::string& bytes) {
  const auto value = [&]<typename T>(T made, std::size_t place = 0) {
    bytes.copy(reinterpret_cast<char*>(&made), sizeof made, place * sizeof made);
    return made;
  };
  switch (kind) {
    case 0: return writer.u64(value(std::uint64_t{}));
    case 1: return writer.text(bytes);
    case 2: {
      std::vector<double> values;
      for (std::size_t i = 0; i < bytes.size() / sizeof(double); ++i) values.push_back(value(double{}, i));
      return writer.list(values);
    }
    case 3: return writer.list(std::vector<std::uint8_t>(bytes.begin(), bytes.end()));
    case 4: return writer.blob(miq::Blob(std::string_view(bytes)));
    case 5: return writer.f64(value(double{}));
    default: return writer.u8(value(std::uint8_t{}) == 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const miq::Blob log(std::vector<std::uint8_t>(data, data + size));
  try {
    const miq::JournalLog found = miq::read_journal_log(log, "log");
    if (found.whole_bytes > size) std::abort();
    // What was accepted is accepted again without its torn end.
    if (miq::read_journal_log(log.slice(0, found.whole_bytes), "log").records.size() != found.records.size()) std::abort();
  } catch (const miq::FormatError&) {
  }
  // The first byte of each step chooses a field; checksums would hide these from the fuzzer.
  miq::RecordReader reader(log, "record");
  std::vector<std::pair<int, std::string>> fields;
  try {
    for (;;) {
      const int kind = reader.get<std::uint8_t>() % 7;
      fields.emplace_back(kind, read_field(reader, kind));
    }
  } catch (const miq::FormatError&) {
  }
  miq::RecordWriter writer;
  for (const auto& [kind, bytes] : fields) write_field(writer, kind, bytes);
  std::string record;
  for (const miq::Bytes piece : writer.pieces()) record.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  miq::RecordReader again(miq::Blob(std::string_view(record)), "again");
  for (const auto& [kind, bytes] : fields) {
    if (read_field(again, kind) != bytes) std::abort();
  }
  return 0;
}
