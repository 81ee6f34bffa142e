// The portable weight gradient: tap by tap, dW[k][c] is a product of dY and X summed over the tap's live pixels. The
// pixels of a tap are cut into slices; each gives a partial sum, and a last kernel adds the slices in order, so that
// results repeat bit by bit.
#pragma once
#include "ops_cuda/device_plan.h"

namespace cks::cuda {

// The pixels of dY that meet a real input pixel through the tap: begin + q, q in [0, extent), of every image.
struct LiveTap {
  Int3 offset, begin, extent;
  int32_t filter;
};

// Both operands are pixel-major: channel c of group g of pixel p at p * pitch + g * group + c.
struct GradientOperand {
  const void* data;
  Int3 size;
  int64_t pitch;
  int32_t group, channels;  // stride from group to group, and channels of a group to read
};

struct WeightGradientArgs {
  const LiveTap* taps;
  int32_t num_taps, slices;
  int64_t images;
  Int3 stride;
  GradientOperand dy, x;
  int32_t K, group_k, group_c;
  int32_t groups, row_tiles, column_tiles;  // blocks: for each group, across group_k and group_c (direct: 1, across
                                            // K * group_c, 1)
  int32_t columns;                          // of a block of the direct kernel
  float* partial;                           // [slices][num_taps][K][group_c]
};

// __global__ functions of one WeightGradientArgs, a block of kGradientThreads for each (slice, tap, group, row tile,
// column tile), the last fastest.
inline constexpr int kGradientThreads = 128, kGradientTile = 64;
enum class GradientMath { kHalfMma, kBFloat16Mma, kTf32Mma, kFloatFma, kBFloat16Fma };
const void* gradient_gemm_kernel(GradientMath);

}  // namespace cks::cuda
