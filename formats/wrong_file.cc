// A table of beginnings. Only called where the bytes cannot be (or were found not to be) the wanted
// format, so a beginning needs no more than to be typical.
#include "miq/formats/wrong_file.h"

#include <string_view>

#include "miq/base/error.h"

namespace miq {
namespace {

struct Beginning {
  std::string_view bytes;
  std::string_view what, remedy;
  std::string_view own_format;  // the format for which this beginning is right
};

constexpr std::string_view kFetchAgain = "Download the file again, with the site's own download link or tool";
constexpr std::string_view kConvert = "Give the file itself to convert-checkpoint, which finds out the kind by the content";

constexpr Beginning kBeginnings[] = {
    {"version https://git-lfs", "is a Git LFS pointer, not the file itself",
     "Run 'git lfs pull' in the repository, or download the file itself", ""},
    {"<!DOCTYPE", "is a web page, not a model file", kFetchAgain, ""},
    {"<!doctype", "is a web page, not a model file", kFetchAgain, ""},
    {"<html", "is a web page, not a model file", kFetchAgain, ""},
    {"<?xml", "is an XML document (often an error message of a download server)", kFetchAgain, ""},
    {"GGUF", "is a GGUF file", kConvert, "GGUF"},
    {"ggjt", "is a file in a form that llama.cpp gave up in 2023 (GGJT)", "Convert it to GGUF with llama.cpp first", ""},
    {"PK\x03\x04", "is a zip archive or a PyTorch file", kConvert, "PyTorch"},
    {"\x80\x02", "is a pickle (an old PyTorch file)", kConvert, "PyTorch"},
    {"\x80\x04", "is a pickle", kConvert, "PyTorch"},
    {"\x1f\x8b", "is compressed with gzip", "Unpack it with gunzip first", ""},
    {"{\"", "is a JSON text", "Name the file with the weights, or the folder that holds it", ""},
};

}  // namespace

void refuse_wrong_file(Bytes file, const std::string& name, const std::string& wanted) {
  if (file.empty()) throw FormatError(name, "is empty, not a " + wanted + " file", kFetchAgain);
  std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  for (const Beginning& known : kBeginnings) {
    if (known.own_format != wanted && text.starts_with(known.bytes)) {
      throw FormatError(name, std::string(known.what) + " (a " + wanted + " file was expected)", known.remedy);
    }
  }
}

}  // namespace miq
