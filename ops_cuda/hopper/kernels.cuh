// The table of compiled kernels of one element type.
#pragma once
#include <iterator>
#include <utility>

#include "ops_cuda/hopper/kernel.cuh"

namespace cks::cuda::hopper {

template <class T, size_t... kShape>
const void* kernel_of(int shape, std::index_sequence<kShape...>) {
  static const void* const table[] = {
      reinterpret_cast<const void*>(&hopper_conv<T, kTileShapes[kShape].team, kTileShapes[kShape].row_blocks,
                                                 kTileShapes[kShape].bn, kTileShapes[kShape].curve>)...};
  return table[shape];
}

template <class T>
const void* kernel_of(int shape) {
  return kernel_of<T>(shape, std::make_index_sequence<std::size(kTileShapes)>());
}

}  // namespace cks::cuda::hopper
