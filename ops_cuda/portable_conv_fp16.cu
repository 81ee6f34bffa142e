#include "ops_cuda/portable_conv.cuh"

cks::cuda::PortableKernel cks::cuda::half_mma_kernel(int shape) {
  return portable_kernel<HalfMma>(shape, "implicit GEMM, fp16 mma");
}
