// XXH3 from libxxhash. The digest is printed most significant byte first (xxhsum's canonical form).
#include "miq/formats/digest.h"

#include <xxhash.h>

#include <bit>
#include <new>

namespace miq {
namespace {

XXH3_state_t* state_of(void* state) { return static_cast<XXH3_state_t*>(state); }

std::string hex_of(XXH128_hash_t hash) {
  constexpr char kDigits[] = "0123456789abcdef";
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  std::string text;
  text.reserve(32);
  for (unsigned char byte : canonical.digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace

Digest::Digest() : state_(XXH3_createState()) {
  if (!state_) throw std::bad_alloc();
  XXH3_128bits_reset(state_of(state_));
}

Digest::~Digest() { XXH3_freeState(state_of(state_)); }

void Digest::add(Bytes bytes) {
  if (!bytes.empty()) XXH3_128bits_update(state_of(state_), bytes.data(), bytes.size());
}

void Digest::add(std::string_view text) {
  std::uint8_t length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<std::uint8_t>(std::uint64_t{text.size()} >> (8 * i));
  add(Bytes(length));
  add(Bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()));
}

std::string Digest::hex() const { return hex_of(XXH3_128bits_digest(state_of(state_))); }

std::string digest_of(Bytes bytes) { return hex_of(XXH3_128bits(bytes.data(), bytes.size())); }

std::uint64_t xxh3_64(Bytes bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace miq
