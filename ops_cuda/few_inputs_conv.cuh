// The kernels for few input channels, of one way to multiply.
#pragma once
#include "ops_cuda/few_inputs_steps.cuh"
#include "ops_cuda/few_inputs_words.cuh"

namespace cks::cuda {

template <class Math, int kColumns>
const void* few_inputs_kernel_of(FewInputsShape shape) {
  constexpr FewInputsShape kSmall = kFewInputsSmall, kLarge = few_inputs_large(kColumns);
  if (shape == kSmall)
    return reinterpret_cast<const void*>(&few_inputs_steps<Math, kColumns, kSmall.warps, kSmall.row_tiles>);
  if (shape == kLarge)
    return reinterpret_cast<const void*>(&few_inputs_steps<Math, kColumns, kLarge.warps, kLarge.row_tiles>);
  return reinterpret_cast<const void*>(&few_inputs_words<Math, kColumns>);
}

template <class Math>
const void* few_inputs_kernel(FewInputsShape shape, int columns) {
  return columns == 16   ? few_inputs_kernel_of<Math, 16>(shape)
         : columns == 32 ? few_inputs_kernel_of<Math, 32>(shape)
                         : few_inputs_kernel_of<Math, 64>(shape);
}

}  // namespace cks::cuda
