#include "ops_cuda/portable_conv.cuh"

cks::cuda::PortableKernel cks::cuda::bfloat16_mma_kernel(int shape) {
  return portable_kernel<BFloat16Mma>(shape, "implicit GEMM, bf16 mma");
}
