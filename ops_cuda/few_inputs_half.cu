#include "ops_cuda/few_inputs_conv.cuh"

namespace cks::cuda {
const void* few_inputs_half(FewInputsShape shape, int columns) { return few_inputs_kernel<HalfMma>(shape, columns); }
}  // namespace cks::cuda
