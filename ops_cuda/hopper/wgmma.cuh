// wgmma: D[64 x N] += A[64 x 32 bytes of channels] * B[N x 32 bytes of channels], both operands in shared memory,
// channels contiguous, 128-byte swizzle. T is the element type of the tensors; float is multiplied as TF32.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "ops_cuda/hopper/ptx.cuh"

namespace cks::cuda::hopper {

// A matrix descriptor's low word holds the address, the high word what every operand here shares: rows of 128 bytes in
// the 128-byte swizzle, groups of 8 rows 1024 bytes apart. Steps along stages and channels are additions to the low
// word.
__device__ inline uint32_t descriptor_low(uint32_t address) { return (address & 0x3FFFF) >> 4; }
__device__ inline uint64_t descriptor(uint32_t low) { return uint64_t((1024 >> 4) | 1 << 30) << 32 | low; }

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kInFlight>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kInFlight) : "memory");
}
// Tells the compiler that the accumulators change here: it must not read them before the wait above.
template <int N>
__device__ void accumulators_changed(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define CKS_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CKS_D16(i) CKS_D4(i), CKS_D4(i + 4), CKS_D4(i + 8), CKS_D4(i + 12)
#define CKS_D32(i) CKS_D16(i), CKS_D16(i + 16)
#define CKS_D64(i) CKS_D32(i), CKS_D32(i + 32)
#define CKS_R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define CKS_R32 CKS_R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define CKS_R64                                                                                                       \
  CKS_R32                                                                                                             \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59," \
  "%60,%61,%62,%63"
#define CKS_R128                                                                                                      \
  CKS_R64                                                                                                             \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91," \
  "%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,"  \
  "%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
// The last operands: scale of D and signs of A and B; 16-bit types also take "not transposed" for both.
#define CKS_WGMMA(n, k, type, tail, registers, a_at, b_at, outputs)                                            \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k" #k ".f32." type "." type " {" registers "}, %" #a_at \
               ", %" #b_at ", 1, 1, 1" tail ";"                                                                \
               : outputs                                                                                       \
               : "l"(a), "l"(b))
#define CKS_WGMMA_ALL_N(k, type, tail)                                                \
  if constexpr (N == 32) CKS_WGMMA(32, k, type, tail, CKS_R16, 16, 17, CKS_D16(0));   \
  if constexpr (N == 64) CKS_WGMMA(64, k, type, tail, CKS_R32, 32, 33, CKS_D32(0));   \
  if constexpr (N == 128) CKS_WGMMA(128, k, type, tail, CKS_R64, 64, 65, CKS_D64(0)); \
  if constexpr (N == 256) CKS_WGMMA(256, k, type, tail, CKS_R128, 128, 129, CKS_D128_ALL);
#define CKS_D128_ALL CKS_D64(0), CKS_D64(64)

template <class T, int N>
__device__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    CKS_WGMMA_ALL_N(16, "f16", ", 0, 0")
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    CKS_WGMMA_ALL_N(16, "bf16", ", 0, 0")
  } else {
    CKS_WGMMA_ALL_N(8, "tf32", "")
  }
}

#undef CKS_WGMMA_ALL_N
#undef CKS_WGMMA
#undef CKS_D128_ALL
#undef CKS_D64
#undef CKS_D32
#undef CKS_D16
#undef CKS_D4
#undef CKS_R128
#undef CKS_R64
#undef CKS_R32
#undef CKS_R16

}  // namespace cks::cuda::hopper
