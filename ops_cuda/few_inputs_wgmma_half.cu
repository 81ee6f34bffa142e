#include "ops_cuda/few_inputs_wgmma.cuh"

namespace cks::cuda {
const void* few_inputs_wgmma_half(FewInputsShape shape, int columns) {
  return few_inputs_wgmma_kernel<HalfMma>(shape, columns);
}
}  // namespace cks::cuda
