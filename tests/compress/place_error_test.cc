#include "miq/compress/place_error.h"

#include <gtest/gtest.h>

#include <string>

namespace miq {
namespace {

template <typename Thrown>
std::string message_of(const Thrown& thrown) {
  try {
    naming([] { return std::string("model.layers.3.mlp.down_proj.weight"); }, [&] { throw thrown; });
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(PlaceError, NumbersThatAreNotFiniteGetThePlaceAndTheRemedy) {
  const std::string said = message_of(NotFinite("Hessian: the calibration inputs hold NaN or infinity"));
  EXPECT_TRUE(said.starts_with("model.layers.3.mlp.down_proj.weight: Hessian: the calibration inputs hold NaN or infinity. ")) << said;
  EXPECT_NE(said.find("check its weights and the calibration text"), std::string::npos) << said;
}

TEST(PlaceError, AnotherErrorGetsThePlaceAlone) {
  EXPECT_EQ(message_of(Error("the sum between the processes failed: no route to host")),
            "model.layers.3.mlp.down_proj.weight: the sum between the processes failed: no route to host");
}

TEST(PlaceError, WrongUseAndWrongFilesStayWhatTheyAre) {
  EXPECT_THROW(naming([] { return std::string("m"); }, [] { throw UsageError("--nsamples 0"); }), UsageError);
  EXPECT_EQ(message_of(UsageError("--nsamples 0")), "--nsamples 0");
  EXPECT_EQ(message_of(FormatError("f.miq", "is cut short")), "f.miq: is cut short");
}

TEST(PlaceError, APlaceIsNamedOnlyWhereSomethingFails) {
  int named = 0;
  EXPECT_EQ(naming([&] { return ++named, std::string(); }, [] { return 7; }), 7);
  EXPECT_EQ(named, 0);
}

}  // namespace
}  // namespace miq
