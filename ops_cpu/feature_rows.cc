#include "ops_cpu/feature_rows.h"

#include <algorithm>

namespace cks::cpu {

const float* FeatureRows::make(const Kernels& kernels, const void* tensor, float* workspace,
                               const ParallelFor& parallel_for) const {
  if (readable_in_place()) return static_cast<const float*>(tensor);
  constexpr int64_t kElementsPerTask = 16384;  // some microseconds
  const auto* from = static_cast<const std::byte*>(tensor);
  const int64_t element = int64_t(size_of(type));
  if (same_order()) {
    const int64_t count = N * channels * pixels;
    parallel_for((count + kElementsPerTask - 1) / kElementsPerTask, [&](int64_t i) {
      const int64_t begin = i * kElementsPerTask;
      kernels.to_float(from + begin * element, type, std::min(kElementsPerTask, count - begin), workspace + begin);
    });
    return workspace;
  }
  const int64_t block = std::max<int64_t>(16, kElementsPerTask / channels / 16 * 16);
  const int64_t blocks = (pixels + block - 1) / block;
  parallel_for(N * blocks, [&](int64_t i) {
    const int64_t n = i / blocks, begin = i % blocks * block;
    kernels.planes_to_rows(from + n * channels * pixels * element, type, channels, pixels, begin,
                           std::min(pixels, begin + block), workspace + n * channels * pixels);
  });
  return workspace;
}

}  // namespace cks::cpu
