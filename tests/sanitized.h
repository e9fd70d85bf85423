// Whether this build runs under AddressSanitizer, which keeps freed memory: figures of memory say nothing there.
#pragma once

#ifndef __has_feature  // Clang's; GCC defines __SANITIZE_ADDRESS__
#define __has_feature(feature) 0
#endif

namespace miq::test {

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif

}  // namespace miq::test
