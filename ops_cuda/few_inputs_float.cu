#include "ops_cuda/few_inputs_conv.cuh"

namespace cks::cuda {
const void* few_inputs_float(FewInputsShape shape, int columns) {
  return few_inputs_kernel<SplitTf32Mma>(shape, columns);
}
}  // namespace cks::cuda
