#include "ops_cuda/few_inputs_conv.cuh"

namespace cks::cuda {
const void* few_inputs_bfloat16(int columns) { return few_inputs_kernel<BFloat16Mma>(columns); }
}  // namespace cks::cuda
