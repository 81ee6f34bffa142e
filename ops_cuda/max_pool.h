// MaxPool of channels-last tensors on the GPU; see ops_cpu/max_pool.h.
#pragma once
#include "ops_cuda/convolution.h"
#include "ops_cuda/device_plan.h"

namespace cks::cuda {

struct MaxPoolArgs {
  const void* x;
  void* y;
  Int3 input, output, window, stride, dilation, pad;
  int32_t C;
  uint32_t column_blocks, strip_blocks, rows;
};

// A thread block covers `threads`: chunks of channels, outputs along w, rows of outputs, of any image and plane.
struct MaxPoolLaunch {
  MaxPoolArgs args;
  uint32_t blocks, threads[3];
};

class MaxPool {
 public:
  MaxPool(const Problem&, DataType);
  void run(const void* x, void* y, Stream) const;  // for an output that is not empty; launches one kernel

 private:
  DataType type_;
  bool channels_are_chunks_;
  MaxPoolLaunch by_chunks_{}, by_elements_{};  // the latter where channels or tensors are not whole chunks
};

}  // namespace cks::cuda
