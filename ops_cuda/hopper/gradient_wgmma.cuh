// wgmma for the weight gradient: D[64 x 64] += A[16 pixels x 64]^T * B[16 pixels x 64]. Both operands lie in shared
// memory pixel by pixel, channels contiguous, so that both are transposed on their way in (16-bit types alone can be).
#pragma once
#include "ops_cuda/hopper/wgmma.cuh"

namespace cks::cuda::hopper {

// A transposed operand's descriptor: `low` is its address in 16 bytes, `high` (made on the host) says how far its
// groups of 8 pixels lie apart. The 128-byte swizzle goes by the address, so that an operand may begin at any pixel of
// a box.
__device__ inline uint64_t transposed_descriptor(uint32_t high, uint32_t low) {
  return uint64_t(high) << 32 | (low & 0x3FFF);
}

// Registers of every thread of a warpgroup from here on.
template <int kRegisters>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

#define CKS_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CKS_D16(i) CKS_D4(i), CKS_D4(i + 4), CKS_D4(i + 8), CKS_D4(i + 12)
#define CKS_WGMMA(type)                                                                                           \
  asm volatile(                                                                                                   \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                                                                \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                                 \
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%" \
      "28,%29,%30,%31}, %32, %33, p, 1, 1, 1, 1;\n}"                                                              \
      : CKS_D16(0), CKS_D16(16)                                                                                   \
      : "l"(a), "l"(b), "r"(accumulate))

// accumulate 0: D = A^T * B.
template <class T>
__device__ void wgmma_transposed(float (&d)[32], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (std::is_same_v<T, __half>) {
    CKS_WGMMA("f16");
  } else {
    static_assert(std::is_same_v<T, __nv_bfloat16>);
    CKS_WGMMA("bf16");
  }
}

#undef CKS_WGMMA
#undef CKS_D16
#undef CKS_D4

}  // namespace cks::cuda::hopper
