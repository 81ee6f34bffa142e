#include "ops_cuda/few_inputs_conv.cuh"

namespace cks::cuda {
const void* few_inputs_half(int columns) { return few_inputs_kernel<HalfMma>(columns); }
}  // namespace cks::cuda
