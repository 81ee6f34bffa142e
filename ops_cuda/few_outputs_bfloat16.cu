#include "ops_cuda/few_outputs_conv.cuh"

namespace cks::cuda {
const void* few_outputs_bfloat16(int columns, bool chunks) { return few_outputs_kernel<BFloat16Mma>(columns, chunks); }
}  // namespace cks::cuda
