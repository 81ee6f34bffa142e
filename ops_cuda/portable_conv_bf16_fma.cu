#include "ops_cuda/portable_conv.cuh"

cks::cuda::PortableKernel cks::cuda::bfloat16_fma_kernel(int shape) {
  return portable_kernel<Fma<__nv_bfloat16>>(shape, "implicit GEMM, bf16 fma");
}
