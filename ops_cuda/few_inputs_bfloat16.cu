#include "ops_cuda/few_inputs_conv.cuh"

namespace cks::cuda {
const void* few_inputs_bfloat16(FewInputsShape shape, int columns) {
  return few_inputs_kernel<BFloat16Mma>(shape, columns);
}
}  // namespace cks::cuda
