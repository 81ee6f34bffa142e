#include "ops_cuda/few_inputs_wgmma.cuh"

namespace cks::cuda {
const void* few_inputs_wgmma_bfloat16(int columns) { return few_inputs_wgmma_kernel<BFloat16Mma>(columns); }
}  // namespace cks::cuda
