// wgmma: D[64 x N] += A[64 x 16] * B[N x 16], 16-bit operands whose sum index (the channels) is contiguous. B lies in
// shared memory, A there or in registers.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "ops_cuda/hopper/ptx.cuh"

namespace cks::cuda::hopper {

// A matrix descriptor's low word holds the address: steps along stages and channels are additions to it. The high word
// says how rows of kRowBytes (128, 64 or 32, in the swizzle of that width) follow each other: in groups of eight, which
// are `group_bytes` apart.
__device__ inline uint32_t descriptor_low(uint32_t address) { return (address & 0x3FFFF) >> 4; }
template <int kRowBytes>
__device__ uint64_t descriptor(uint32_t low, uint32_t group_bytes = kRowBytes * 8) {
  static_assert(kRowBytes == 128 || kRowBytes == 64 || kRowBytes == 32);
  constexpr uint32_t kSwizzle = (kRowBytes == 128 ? 1u : kRowBytes == 64 ? 2u : 3u) << 30;
  return uint64_t((group_bytes >> 4) | kSwizzle) << 32 | low;
}

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
#define CKS_D48(i) CKS_D32(i), CKS_D16(i + 32)
#define CKS_D64(i) CKS_D32(i), CKS_D32(i + 32)
#define CKS_R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define CKS_R32 CKS_R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define CKS_R48 CKS_R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define CKS_R64                                                                                                       \
  CKS_R32                                                                                                             \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59," \
  "%60,%61,%62,%63"
#define CKS_R128                                                                                                      \
  CKS_R64                                                                                                             \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91," \
  "%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,"  \
  "%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
// The last operands: whether D is added to, signs of A and B, and "not transposed" for what lies in shared memory.
#define CKS_WGMMA(n, type, registers, at_a, at_b, at_add, outputs)                                       \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #at_add ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n \
               "k16.f32." type "." type " {" registers "}, %" #at_a ", %" #at_b ", p, 1, 1, 0, 0;\n}"    \
               : outputs                                                                                 \
               : "l"(a), "l"(b), "r"(int(add)))
#define CKS_WGMMA_ALL_N(type)                                                    \
  if constexpr (N == 32) CKS_WGMMA(32, type, CKS_R16, 16, 17, 18, CKS_D16(0));   \
  if constexpr (N == 64) CKS_WGMMA(64, type, CKS_R32, 32, 33, 34, CKS_D32(0));   \
  if constexpr (N == 96) CKS_WGMMA(96, type, CKS_R48, 48, 49, 50, CKS_D48(0));   \
  if constexpr (N == 128) CKS_WGMMA(128, type, CKS_R64, 64, 65, 66, CKS_D64(0)); \
  if constexpr (N == 256) CKS_WGMMA(256, type, CKS_R128, 128, 129, 130, CKS_D128_ALL);
#define CKS_D128_ALL CKS_D64(0), CKS_D64(64)

// T: __half or __nv_bfloat16. Without `add` D is overwritten.
template <class T, int N>
__device__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool add = true) {
  if constexpr (std::is_same_v<T, __half>) {
    CKS_WGMMA_ALL_N("f16")
  } else {
    CKS_WGMMA_ALL_N("bf16")
  }
}

#define CKS_WGMMA_A(n, registers, a0, a1, a2, a3, at_b, at_add, outputs)                                               \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #at_add ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n               \
               "k16.f32.f16.f16 {" registers "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #at_b ", p, 1, 1, 0;\n}" \
               : outputs                                                                                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)))

// A in registers, halves. A thread holds, for rows lane / 4 and lane / 4 + 8 of its warp's 16: the pair at
// 2 * (lane % 4) of either row, then the pair eight further of either row.
template <int N>
__device__ void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add) {
  if constexpr (N == 32) CKS_WGMMA_A(32, CKS_R16, 16, 17, 18, 19, 20, 21, CKS_D16(0));
  if constexpr (N == 64) CKS_WGMMA_A(64, CKS_R32, 32, 33, 34, 35, 36, 37, CKS_D32(0));
  if constexpr (N == 96) CKS_WGMMA_A(96, CKS_R48, 48, 49, 50, 51, 52, 53, CKS_D48(0));
  if constexpr (N == 128) CKS_WGMMA_A(128, CKS_R64, 64, 65, 66, 67, 68, 69, CKS_D64(0));
  if constexpr (N == 256) CKS_WGMMA_A(256, CKS_R128, 128, 129, 130, 131, 132, 133, CKS_D128_ALL);
}

#undef CKS_WGMMA_A
#undef CKS_WGMMA_ALL_N
#undef CKS_WGMMA
#undef CKS_D128_ALL
#undef CKS_D64
#undef CKS_D48
#undef CKS_D32
#undef CKS_D16
#undef CKS_D4
#undef CKS_R128
#undef CKS_R64
#undef CKS_R48
#undef CKS_R32
#undef CKS_R16

}  // namespace cks::cuda::hopper
