// Division by a number known at launch, in two instructions: a kernel that computes few outputs a thread would spend
// more on the division of its indices than on them.
#pragma once
#include <cstdint>

namespace cks::cuda {

// Exact for dividends and divisors below 2^16.
struct Divider {
  int32_t divisor = 1;
  uint32_t reciprocal = 0;  // 2^32 / divisor, rounded up; 0 for a divisor of 1

  Divider() = default;
  explicit Divider(int64_t d) : divisor(int32_t(d)), reciprocal(d > 1 ? uint32_t(((1ull << 32) + d - 1) / d) : 0) {}

#ifdef __CUDACC__
  __device__ int quotient(int n) const { return reciprocal ? int(__umulhi(uint32_t(n), reciprocal)) : n; }
#endif
};

}  // namespace cks::cuda
