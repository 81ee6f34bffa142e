// Tensor maps, made by the driver that is loaded: the library itself links to none.
#pragma once
#include <cuda.h>

#include <array>
#include <string>

#include "ops_cuda/error.h"

namespace cks::cuda::hopper {

template <class Function>
Function find_in_driver(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  check(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found),
        (std::string("looking for ") + name + " in the driver").c_str());
  if (!function) throw Error("the CUDA driver is too old for tensor maps: it must support CUDA 12.0");
  return reinterpret_cast<Function>(function);
}

inline void require_map(CUresult status) {
  if (status == CUDA_SUCCESS) return;
  throw Error("the CUDA driver refused a tensor map (error " + std::to_string(status) + ")");
}

// Axes innermost first; pitches in bytes, of all axes but the first. One copy moves every step-th element of a box that
// spans `span` elements.
template <size_t kRank>
CUtensorMap make_tensor_map(CUtensorMapDataType type, CUtensorMapSwizzle swizzle, const void* base,
                            const std::array<cuuint64_t, kRank>& extent, const std::array<cuuint64_t, kRank - 1>& pitch,
                            const std::array<cuuint32_t, kRank>& span, const std::array<cuuint32_t, kRank>& step) {
  static const auto encode = find_in_driver<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  CUtensorMap map;
  require_map(encode(&map, type, kRank, const_cast<void*>(base), extent.data(), pitch.data(), span.data(), step.data(),
                     CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                     CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  return map;
}

// Of (C, W, H, N), in im2col mode: one copy moves `channels` of `pixels` base pixels, every step-th between the corners
// (W, H), in the order of the map.
inline CUtensorMap make_im2col_map(CUtensorMapDataType type, CUtensorMapSwizzle swizzle, const void* base,
                                   const std::array<cuuint64_t, 4>& extent, const std::array<cuuint64_t, 3>& pitch,
                                   const std::array<int, 2>& lower, const std::array<int, 2>& upper,
                                   cuuint32_t channels, cuuint32_t pixels, const std::array<cuuint32_t, 4>& step) {
  static const auto encode = find_in_driver<decltype(&cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  CUtensorMap map;
  require_map(encode(&map, type, 4, const_cast<void*>(base), extent.data(), pitch.data(), lower.data(), upper.data(),
                     channels, pixels, step.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  return map;
}

// The map for another tensor of the same shape: what making it anew would check has been checked.
inline void move_map(CUtensorMap& map, const void* base) {
  static const auto replace = find_in_driver<decltype(&cuTensorMapReplaceAddress)>("cuTensorMapReplaceAddress");
  require_map(replace(&map, const_cast<void*>(base)));
}

}  // namespace cks::cuda::hopper
