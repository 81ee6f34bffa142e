#include "ops_cpu/concatenate.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace cks::cpu {

void Concatenation::make(InputTensors input, void* to, const ParallelFor& parallel_for) const {
  constexpr int64_t kBytesPerTask = 65536;  // some microseconds
  const int64_t pitch = x_bytes + x2_bytes, block = std::max<int64_t>(1, kBytesPerTask / pitch);
  const auto* x = static_cast<const std::byte*>(input.x);
  const auto* x2 = static_cast<const std::byte*>(input.x2);
  parallel_for(ceil_div(pixels, block), [&](int64_t i) {
    std::byte* pixel = static_cast<std::byte*>(to) + i * block * pitch;
    for (int64_t p = i * block, end = std::min(pixels, p + block); p < end; ++p, pixel += pitch) {
      std::memcpy(pixel, x + p * x_bytes, size_t(x_bytes));
      std::memcpy(pixel + x_bytes, x2 + p * x2_bytes, size_t(x2_bytes));
    }
  });
}

}  // namespace cks::cpu
