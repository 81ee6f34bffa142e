// Concat([X, X2]) on the channel axis, of NHWC tensors.
#pragma once
#include "ops_cpu/convolution.h"

namespace cks::cpu {

struct Concatenation {
  int64_t pixels, x_bytes, x2_bytes;  // bytes: of a pixel

  size_t bytes() const { return size_t(pixels * (x_bytes + x2_bytes)); }
  void make(InputTensors, void* to, const ParallelFor&) const;
};

}  // namespace cks::cpu
