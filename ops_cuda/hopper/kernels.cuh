// The table of compiled kernels of one way to multiply.
#pragma once
#include <iterator>
#include <utility>

#include "ops_cuda/hopper/kernel.cuh"

namespace cks::cuda::hopper {

template <class Math, size_t kIndex>
const void* kernel_of_shape() {
  constexpr TileShape s = kTileShapes[kIndex];
  constexpr bool halved = sizeof(typename Math::Input) < sizeof(typename Math::Element);
  if constexpr (s.serves(int(sizeof(typename Math::Input)), Math::kProducts) && (!halved || s.serves_halved())) {
    return reinterpret_cast<const void*>(&hopper_conv<Math, s.team, s.row_blocks, s.bn, s.curve, s.source>);
  } else {
    return nullptr;
  }
}

template <class Math, size_t... kIndices>
const void* kernel_of(int shape, std::index_sequence<kIndices...>) {
  static const void* const table[] = {kernel_of_shape<Math, kIndices>()...};
  return table[shape];
}

template <class Math>
const void* kernel_of(int shape) {
  return kernel_of<Math>(shape, std::make_index_sequence<std::size(kTileShapes)>());
}

}  // namespace cks::cuda::hopper
