// Tensor maps, made by the driver that is loaded: the library itself links to none.
#pragma once
#include <cuda.h>

#include <array>

#include "ops_cuda/error.h"

namespace cks::cuda::hopper {

inline auto tensor_map_encoder() {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
          "looking for cuTensorMapEncodeTiled in the driver");
    if (!function) throw Error("the CUDA driver is too old for tensor maps: it must support CUDA 12.0");
    return reinterpret_cast<Encode>(function);
  }();
  return encode;
}

// Axes innermost first; pitches in bytes, of all axes but the first. One copy moves every step-th element of a box that
// spans `span` elements.
template <size_t kRank>
CUtensorMap make_tensor_map(CUtensorMapDataType type, CUtensorMapSwizzle swizzle, const void* base,
                            const std::array<cuuint64_t, kRank>& extent, const std::array<cuuint64_t, kRank - 1>& pitch,
                            const std::array<cuuint32_t, kRank>& span, const std::array<cuuint32_t, kRank>& step) {
  CUtensorMap map;
  const CUresult status = tensor_map_encoder()(&map, type, kRank, const_cast<void*>(base), extent.data(), pitch.data(),
                                               span.data(), step.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw Error("the CUDA driver refused a tensor map (error " + std::to_string(status) + ")");
  return map;
}

}  // namespace cks::cuda::hopper
