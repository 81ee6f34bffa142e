// MaxPool of channels-last tensors on the GPU; see ops_cpu/max_pool.h.
#pragma once
#include "ops_cuda/convolution.h"

namespace cks::cuda {

class MaxPool {
 public:
  MaxPool(const Problem& problem, DataType type) : problem_(problem), type_(type) {}
  void run(const void* x, void* y, Stream) const;  // for an output that is not empty; launches one kernel

 private:
  Problem problem_;
  DataType type_;
};

}  // namespace cks::cuda
