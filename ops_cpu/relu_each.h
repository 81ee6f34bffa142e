// The Relu of several tensors on the CPU.
#pragma once
#include <span>

#include "ops_cpu/convolution.h"
#include "plan/relu_tensor.h"

namespace cks::cpu {

void relu_each(std::span<const ReluTensor>, DataType, const ParallelFor&);

}  // namespace cks::cpu
