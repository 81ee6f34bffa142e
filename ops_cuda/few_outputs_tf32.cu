#include "ops_cuda/few_outputs_conv.cuh"

namespace cks::cuda {
const void* few_outputs_tf32(int columns, bool chunks) { return few_outputs_kernel<Tf32Mma>(columns, chunks); }
}  // namespace cks::cuda
