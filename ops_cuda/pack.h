// Copies that bring tensors into the order the kernels read.
#pragma once
#include "ops_cuda/convolution.h"

namespace cks::cuda {

// Channels are rounded up to 16 bytes, so that a kernel copies whole chunks.
inline int64_t padded_channels(int64_t channels, DataType type) {
  const int64_t chunk = 16 / int64_t(size_of(type));
  return (channels + chunk - 1) / chunk * chunk;
}

// Too few channels a group for a matrix product, which would fill less than a sixteenth of its tiles: the direct
// kernels read the filter as [taps][C / groups][K], not as [groups][taps][K / groups][padded C / groups].
inline bool is_direct(const Filter& f) { return (f.C / f.groups) * (f.K / f.groups) < 16; }

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

}  // namespace cks::cuda
