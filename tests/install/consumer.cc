// Opens what it is given with an installed miq, and says what it is.
#include <cstdio>

#include "miq/base/error.h"
#include "miq/base/version.h"
#include "miq/converters/open_model.h"

int main(int argc, char** argv) {
  std::printf("miq %s\n", miq::version());
  if (argc < 2) return 0;
  try {
    std::printf("%zu layers\n", miq::open_model(argv[1]).config.layers.size());
  } catch (const miq::Error& error) {
    std::printf("refused: %s\n", error.what());
  }
}
