// The op-codes of pickle streams, by the names of Python's pickletools. Within this room only.
#pragma once

#include <cstdint>

namespace miq::pickle {

enum Op : std::uint8_t {
  kMark = '(', kStop = '.', kPop = '0', kPopMark = '1',
  kNone = 'N', kNewTrue = 0x88, kNewFalse = 0x89,
  kBinInt = 'J', kBinInt1 = 'K', kBinInt2 = 'M', kLong1 = 0x8a, kLong4 = 0x8b, kBinFloat = 'G',
  kBinString = 'T', kShortBinString = 'U', kBinBytes = 'B', kShortBinBytes = 'C', kBinBytes8 = 0x8e, kByteArray8 = 0x96,
  kBinUnicode = 'X', kShortBinUnicode = 0x8c, kBinUnicode8 = 0x8d,
  kEmptyTuple = ')', kTuple = 't', kTuple1 = 0x85, kTuple2 = 0x86, kTuple3 = 0x87,
  kEmptyList = ']', kAppend = 'a', kAppends = 'e',
  kEmptyDict = '}', kSetItem = 's', kSetItems = 'u',
  kEmptySet = 0x8f, kAddItems = 0x90, kFrozenSet = 0x91,
  kBinGet = 'h', kLongBinGet = 'j', kBinPut = 'q', kLongBinPut = 'r', kMemoize = 0x94,
  kGlobal = 'c', kStackGlobal = 0x93, kReduce = 'R', kBuild = 'b', kNewObj = 0x81, kNewObjEx = 0x92, kBinPersId = 'Q',
  kProto = 0x80, kFrame = 0x95,
  // Known, and refused.
  kInt = 'I', kLong = 'L', kFloat = 'F', kString = 'S', kUnicode = 'V', kGet = 'g', kPut = 'p', kPersId = 'P', kInst = 'i', kObj = 'o',
  kList = 'l', kDict = 'd', kDup = '2', kExt1 = 0x82, kExt2 = 0x83, kExt4 = 0x84, kNextBuffer = 0x97, kReadonlyBuffer = 0x98,
};

}  // namespace miq::pickle
