#include "ops_cuda/few_inputs_conv.cuh"

namespace cks::cuda {
const void* few_inputs_tf32(FewInputsShape shape, int columns) { return few_inputs_kernel<Tf32Mma>(shape, columns); }
}  // namespace cks::cuda
