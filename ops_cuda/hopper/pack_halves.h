// The filter of a float convolution as the Hopper kernel multiplies it: as halves (halves.cuh).
#pragma once
#include "ops_cuda/convolution.h"

namespace cks::cuda::hopper {

// Halves [taps][K][blocks of 32 channels][row of filter_row(4, products)], then floats [K]: what undoes an output
// channel's scale.
struct HalvesFilter {
  Filter filter;  // of one group
  int products;   // 1 or 3

  int64_t row_elements() const;  // of an output channel and a tap
  size_t scales_at() const;      // bytes from the beginning
  size_t bytes() const { return scales_at() + size_t(filter.K) * sizeof(float); }
};
void pack_halves(const HalvesFilter&, const float* w_onnx, void* packed, Stream);

}  // namespace cks::cuda::hopper
