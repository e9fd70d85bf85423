// Logs of journals, and their records as fields: whatever the bytes are, a record is whole or refused, and no read leaves it.
#include <cstdint>
#include <cstdlib>

#include "miq/base/error.h"
#include "miq/formats/journal.h"
#include "miq/formats/record_bytes.h"

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
  try {
    for (;;) {
      switch (reader.get<std::uint8_t>() % 6) {
        case 0: reader.u64(); break;
        case 1: reader.text(); break;
        case 2: reader.list<double>(); break;
        case 3: reader.list<std::uint8_t>(); break;
        case 4: reader.blob(); break;
        default: reader.u8(); break;
      }
    }
  } catch (const miq::FormatError&) {
  }
  return 0;
}
