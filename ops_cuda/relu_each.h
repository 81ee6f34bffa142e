// The Relu of several tensors on the GPU; see ops_cpu/relu_each.h.
#pragma once
#include <span>

#include "ops_cuda/convolution.h"
#include "plan/relu_tensor.h"

namespace cks::cuda {

// One launch for 16 tensors.
void relu_each(std::span<const ReluTensor>, DataType, Stream);

}  // namespace cks::cuda
