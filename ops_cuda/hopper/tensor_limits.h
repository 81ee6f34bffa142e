// What a tensor map's box is limited to, for plans that are made without a device.
#pragma once

namespace cks::cuda::hopper {

inline constexpr int kMaxTensorBox = 256;     // elements that a copy spans along an axis
inline constexpr int kMaxElementStride = 8;   // from one that it takes to the next
inline constexpr int kMaxIm2colOffset = 255;  // of a pixel from its base pixel, in a map of two spatial axes

}  // namespace cks::cuda::hopper
