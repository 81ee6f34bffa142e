#include "ops_cuda/few_inputs_conv.cuh"

namespace cks::cuda {
const void* few_inputs_float(int columns) { return few_inputs_kernel<SplitTf32Mma>(columns); }
}  // namespace cks::cuda
