#include "ops_cuda/few_inputs_conv.cuh"

namespace cks::cuda {
const void* few_inputs_tf32(int columns) { return few_inputs_kernel<Tf32Mma>(columns); }
}  // namespace cks::cuda
