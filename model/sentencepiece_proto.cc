// A reader of the protobuf wire format that knows the handful of fields a tokenizer needs. Facts:
// sentencepiece's sentencepiece_model.proto and protobuf's encoding guide. Messages nest two deep here
// and unknown fields are skipped by their length, so nothing recurses.
#include <bit>

#include "miq/base/error.h"
#include "miq/model/sentencepiece_tokenizer.h"
#include "miq/model/unicode.h"

namespace miq {
namespace {

constexpr std::size_t kMaxPieceBytes = 64 << 10;

enum class Wire { Varint = 0, Fixed64 = 1, Bytes = 2, Fixed32 = 5 };

struct Field {
  std::uint64_t number = 0;
  Wire wire = Wire::Varint;
  std::uint64_t value = 0;         // Varint, Fixed32, Fixed64
  std::size_t begin = 0, end = 0;  // Bytes: the content's place in the file
};

class Reader {
 public:
  Reader(Bytes file, std::size_t begin, std::size_t end, const std::string& name) : file_(file), at_(begin), end_(end), name_(name) {}
  [[noreturn]] void fail(std::size_t at, const std::string& problem) const {
    throw FormatError(name_, at, problem, "The file may be damaged or no SentencePiece model");
  }

  bool next(Field& field) {
    if (at_ == end_) return false;
    const std::size_t start = at_;
    const std::uint64_t tag = varint();
    field.number = tag >> 3;
    if (field.number == 0) fail(start, "a field with the number 0");
    switch (tag & 7) {
      case 0:
        field.wire = Wire::Varint;
        field.value = varint();
        return true;
      case 1:
        field.wire = Wire::Fixed64;
        field.value = fixed(8);
        return true;
      case 2: {
        field.wire = Wire::Bytes;
        const std::uint64_t length = varint();
        if (length > end_ - at_) {
          fail(start, "a field of " + std::to_string(length) + " bytes where " + std::to_string(end_ - at_) + " are left");
        }
        field.begin = at_;
        at_ += length;
        field.end = at_;
        return true;
      }
      case 5:
        field.wire = Wire::Fixed32;
        field.value = fixed(4);
        return true;
      default:
        fail(start, "a field of wire type " + std::to_string(tag & 7) + ", which no model uses");
    }
  }
  void require(const Field& field, Wire wire, const char* what) const {
    if (field.wire != wire) fail(at_, std::string(what) + " has the wrong wire type");
  }
  std::string text(const Field& field, const char* what) const {
    require(field, Wire::Bytes, what);
    if (field.end - field.begin > kMaxPieceBytes) fail(field.begin, std::string(what) + " is longer than 64 KiB");
    const auto bytes = file_.subspan(field.begin, field.end - field.begin);
    return std::string(bytes.begin(), bytes.end());
  }
  bool flag(const Field& field, const char* what) const {
    require(field, Wire::Varint, what);
    return field.value != 0;
  }
  Reader inside(const Field& field, const char* what) const {
    require(field, Wire::Bytes, what);
    return Reader(file_, field.begin, field.end, name_);
  }
  std::size_t at() const { return at_; }

 private:
  std::uint64_t varint() {
    const std::size_t start = at_;
    std::uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (at_ == end_) fail(start, "a number is cut short");
      const std::uint8_t byte = file_[at_++];
      if (shift == 63 && byte > 1) fail(start, "a number does not fit 64 bits");
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    fail(start, "a number is longer than 10 bytes");
  }
  std::uint64_t fixed(std::size_t bytes) {
    if (end_ - at_ < bytes) fail(at_, "a number is cut short");
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i) value |= std::uint64_t{file_[at_++]} << (8 * i);
    return value;
  }

  Bytes file_;
  std::size_t at_, end_;
  const std::string& name_;
};

Piece read_piece(Reader reader) {
  Piece piece;
  for (Field field; reader.next(field);) {
    if (field.number == 1) {
      piece.text = reader.text(field, "a piece");
    } else if (field.number == 2) {
      reader.require(field, Wire::Fixed32, "a score");
      piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(field.value));
    } else if (field.number == 3) {
      reader.require(field, Wire::Varint, "a piece's type");
      if (field.value < 1 || field.value > 6) reader.fail(reader.at(), "a piece has the unknown type " + std::to_string(field.value));
      piece.type = static_cast<PieceType>(field.value);
    }
  }
  return piece;
}

void read_trainer_spec(Reader reader, SentencePieceModel& model, std::uint64_t& model_type) {
  for (Field field; reader.next(field);) {
    if (field.number == 3) {
      reader.require(field, Wire::Varint, "model_type");
      model_type = field.value;
    } else if (field.number == 24) {
      model.whitespace_as_suffix = reader.flag(field, "treat_whitespace_as_suffix");
    } else if (field.number == 35) {
      model.byte_fallback = reader.flag(field, "byte_fallback");
    } else if (field.number == 44) {
      model.unknown_surface = reader.text(field, "unk_surface");
    } else if (field.number == 46) {
      model.bos_piece = reader.text(field, "bos_piece");
    } else if (field.number == 47) {
      model.eos_piece = reader.text(field, "eos_piece");
    }
  }
}

void read_normalizer_spec(Reader reader, SentencePieceModel& model, std::string& rule, bool& charsmap) {
  for (Field field; reader.next(field);) {
    if (field.number == 1) {
      rule = reader.text(field, "the normaliser's name");
    } else if (field.number == 2) {
      reader.require(field, Wire::Bytes, "precompiled_charsmap");
      charsmap = field.end > field.begin;
    } else if (field.number == 3) {
      model.add_dummy_prefix = reader.flag(field, "add_dummy_prefix");
    } else if (field.number == 4) {
      model.remove_extra_whitespaces = reader.flag(field, "remove_extra_whitespaces");
    } else if (field.number == 5) {
      model.escape_whitespaces = reader.flag(field, "escape_whitespaces");
    }
  }
}

std::string model_type_name(std::uint64_t type) {
  constexpr const char* kNames[] = {"type 0", "UNIGRAM", "BPE", "WORD", "CHAR"};
  return type < 5 ? kNames[type] : "type " + std::to_string(type);
}

}  // namespace

SentencePieceModel parse_sentencepiece(Bytes proto, const std::string& name) {
  SentencePieceModel model;
  std::uint64_t model_type = 1;  // the proto's default
  std::string rule;
  bool charsmap = false;
  Reader reader(proto, 0, proto.size(), name);
  for (Field field; reader.next(field);) {
    if (field.number == 1) {
      model.pieces.push_back(read_piece(reader.inside(field, "a piece")));
    } else if (field.number == 2) {
      read_trainer_spec(reader.inside(field, "trainer_spec"), model, model_type);
    } else if (field.number == 3) {
      read_normalizer_spec(reader.inside(field, "normalizer_spec"), model, rule, charsmap);
    }
  }
  if (model.pieces.empty()) throw FormatError(name, "holds no pieces", "The file may be damaged or no SentencePiece model");
  if (model_type != 2) {
    throw FormatError(name, "is a SentencePiece model of type " + model_type_name(model_type) + ", which is not supported",
                      "Supported: BPE");
  }
  if (charsmap) {
    throw FormatError(name, "normalises text by a precompiled_charsmap (rule " + shown(rule) + "), which is not supported",
                      "Supported: identity normalisation");
  }
  return model;
}

}  // namespace miq
