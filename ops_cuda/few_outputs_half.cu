#include "ops_cuda/few_outputs_conv.cuh"

namespace cks::cuda {
const void* few_outputs_half(int columns, bool chunks) { return few_outputs_kernel<HalfMma>(columns, chunks); }
}  // namespace cks::cuda
