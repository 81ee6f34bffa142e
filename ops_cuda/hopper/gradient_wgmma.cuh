// wgmma for the weight gradient: D[64 x N] += A[16 pixels x 64]^T * B[16 pixels x N], N columns of squares D side by
// side. Both operands lie in shared memory pixel by pixel, channels contiguous, so that both are
// transposed on their way in (16-bit types alone can be).
#pragma once
#include "ops_cuda/hopper/wgmma.cuh"

namespace cks::cuda::hopper {

// A transposed operand's descriptor: `low` is its address in 16 bytes, `high` (made on the host) says how far its
// groups of 8 pixels lie apart, `square` how far the next square's operand does, in 16 bytes. The 128-byte swizzle goes
// by the address, so that an operand may begin at any pixel of a box: squares one pixel apart are neighbouring taps.
__device__ inline uint64_t transposed_descriptor(uint32_t high, uint32_t low, uint32_t square = 0) {
  return uint64_t(high) << 32 | square << 16 | low;
}

#define CKS_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CKS_D8(i) CKS_D4(i), CKS_D4(i + 4)
#define CKS_D16(i) CKS_D8(i), CKS_D8(i + 8)
#define CKS_D32(i) CKS_D16(i), CKS_D16(i + 16)
#define CKS_R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define CKS_R24 CKS_R16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define CKS_R32 CKS_R24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define CKS_R40 CKS_R32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define CKS_R48 CKS_R40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define CKS_R64 CKS_R48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define CKS_R96                                                                                                       \
  CKS_R64                                                                                                             \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91," \
  "%92,%93,%94,%95"
#define CKS_WGMMA(n, type, registers, a_at, b_at, accumulate_at, ...)                                           \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #accumulate_at ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n \
               "k16.f32." type "." type " {" registers "}, %" #a_at ", %" #b_at ", p, 1, 1, 1, 1;\n}"           \
               : __VA_ARGS__                                                                                    \
               : "l"(a), "l"(b), "r"(accumulate))
#define CKS_WGMMA_ALL_N(type)                                                                 \
  if constexpr (N == 48) CKS_WGMMA(48, type, CKS_R24, 24, 25, 26, CKS_D16(0), CKS_D8(16));    \
  if constexpr (N == 64) CKS_WGMMA(64, type, CKS_R32, 32, 33, 34, CKS_D32(0));                \
  if constexpr (N == 80) CKS_WGMMA(80, type, CKS_R40, 40, 41, 42, CKS_D32(0), CKS_D8(32));    \
  if constexpr (N == 96) CKS_WGMMA(96, type, CKS_R48, 48, 49, 50, CKS_D32(0), CKS_D16(32));   \
  if constexpr (N == 128) CKS_WGMMA(128, type, CKS_R64, 64, 65, 66, CKS_D32(0), CKS_D32(32)); \
  if constexpr (N == 192) CKS_WGMMA(192, type, CKS_R96, 96, 97, 98, CKS_D32(0), CKS_D32(32), CKS_D32(64));

// D begins at d. accumulate 0: D = A^T * B.
template <class T, int N>
__device__ void wgmma_transposed(float* d, uint64_t a, uint64_t b, int accumulate) {
  if constexpr (std::is_same_v<T, __half>) {
    CKS_WGMMA_ALL_N("f16")
  } else {
    static_assert(std::is_same_v<T, __nv_bfloat16>);
    CKS_WGMMA_ALL_N("bf16")
  }
}

#undef CKS_WGMMA_ALL_N
#undef CKS_WGMMA
#undef CKS_R96
#undef CKS_R64
#undef CKS_R48
#undef CKS_R40
#undef CKS_R32
#undef CKS_R24
#undef CKS_R16
#undef CKS_D32
#undef CKS_D16
#undef CKS_D8
#undef CKS_D4

}  // namespace cks::cuda::hopper
