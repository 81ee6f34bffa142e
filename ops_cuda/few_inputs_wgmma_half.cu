#include "ops_cuda/few_inputs_wgmma.cuh"

namespace cks::cuda {
const void* few_inputs_wgmma_half(int columns) { return few_inputs_wgmma_kernel<HalfMma>(columns); }
}  // namespace cks::cuda
