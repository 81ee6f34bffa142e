#include "ops_cpu/feature_rows.h"

#include <algorithm>

namespace cks::cpu {

const float* FeatureRows::make(const Kernels& kernels, const void* tensor, float* workspace,
                               const ParallelFor& parallel_for) const {
  if (readable_in_place()) return static_cast<const float*>(tensor);
  constexpr int64_t kElementsPerTask = 16384;  // some microseconds
  const int64_t block = std::max<int64_t>(16, kElementsPerTask / channels / 16 * 16);
  const int64_t blocks = (pixels + block - 1) / block;
  parallel_for(N * blocks, [&](int64_t i) {
    const int64_t n = i / blocks, begin = i % blocks * block, end = std::min(pixels, begin + block);
    const std::byte* image = static_cast<const std::byte*>(tensor) + n * channels * pixels * int64_t(size_of(type));
    float* rows = workspace + n * pixels * pitch();
    if (rows_already())
      kernels.widen_rows(image, type, channels, begin, end, rows, pitch());
    else
      kernels.planes_to_rows(image, type, channels, pixels, begin, end, rows, pitch());
  });
  return workspace;
}

}  // namespace cks::cpu
