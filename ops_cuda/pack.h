// Copies that bring tensors into the order the kernels read.
#pragma once
#include "ops_cuda/convolution.h"

namespace cks::cuda {

// Channels are rounded up to 16 bytes, so that a kernel copies whole chunks.
inline int64_t padded_channels(int64_t channels, DataType type) {
  const int64_t chunk = 16 / int64_t(size_of(type));
  return (channels + chunk - 1) / chunk * chunk;
}

// Depthwise and other groups of one input channel go to kernels that read the filter as [taps][C / groups][K].
inline bool is_direct(const Filter& f) {
  const int64_t group_c = f.C / f.groups, group_k = f.K / f.groups;
  return group_c == 1 && group_k <= (f.groups == 1 ? 1 : 4);
}

// The matrix product multiplies narrow groups several at a time, as one group whose filter is zero from a channel of
// one member to a channel of another: tiles are 32 channels wide at least. (So an Inf or NaN of X reaches all of them.)
// It reads the filter as [count][taps][k][padded c].
struct GemmGroups {
  int64_t count, k, c;
};
inline GemmGroups gemm_groups(const Filter& f) {
  const int64_t group_c = f.C / f.groups, group_k = f.K / f.groups;
  int64_t members = 1;
  for (int64_t m = 2; m <= f.groups && m * group_k <= 32 && m * group_c <= 64; ++m)
    if (f.groups % m == 0) members = m;
  return {f.groups / members, group_k * members, group_c * members};
}

// x [N][pixels of `pixels`][C] or [N][C][pixels] to [N][pixels][groups][padded C / groups], zeros in the padding.
struct PixelMajor {
  int64_t images, pixels, groups, group_channels;
  DataType type;
  Layout layout;  // of the source

  int64_t group_pitch() const { return padded_channels(group_channels, type); }
  size_t bytes() const { return size_t(images * pixels * groups * group_pitch()) * size_of(type); }
  bool is_already() const { return (layout == Layout::kNHWC || pixels == 1) && group_pitch() == group_channels; }
};
void pack_pixel_major(const PixelMajor&, const void* source, void* packed, Stream);

// The filter as all kernels but those for Hopper read it; floats are rounded to TF32 where that is the precision.
size_t portable_filter_bytes(const FilterUse&);
void pack_portable_filter(const FilterUse&, const void* w_onnx, void* packed, Stream);

}  // namespace cks::cuda
