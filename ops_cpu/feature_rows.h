// A feature map of any data type and layout as the kernels read it: floats, the channels of a pixel contiguous (NHWC).
#pragma once
#include "ops_cpu/convolution.h"
#include "ops_cpu/kernels.h"

namespace cks::cpu {

struct FeatureRows {
  DataType type;
  Layout layout;
  int64_t N, channels, pixels;

  // Floats from one pixel to the next. A kernel reads a dozen pixels side by side: were they a multiple of 4 KB apart,
  // all would fall into one set of the first-level cache and evict each other.
  int64_t pitch() const { return channels % 1024 == 0 ? channels + 16 : channels; }
  // Floats of workspace: none where the tensor can be read as it is.
  int64_t workspace_floats() const { return readable_in_place() ? 0 : N * pixels * pitch(); }
  // The rows of `tensor`, in the workspace or where they are.
  const float* make(const Kernels&, const void* tensor, float* workspace, const ParallelFor&) const;

 private:
  bool rows_already() const { return layout == Layout::kNHWC || channels == 1 || pixels == 1; }
  bool readable_in_place() const { return type == DataType::kFloat && rows_already() && pitch() == channels; }
};

}  // namespace cks::cpu
