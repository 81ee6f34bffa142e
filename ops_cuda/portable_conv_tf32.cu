#include "ops_cuda/portable_conv.cuh"

cks::cuda::PortableKernel cks::cuda::tf32_mma_kernel(int shape) {
  return portable_kernel<Tf32Mma>(shape, "implicit GEMM, tf32 mma");
}
