// A warp's share of a matrix product, kM x kN sums in registers, for each way to multiply. Operands come from shared
// memory in one of two orders:
//   by rows:    row i holds 64 or 128 bytes of summed index of output row (column) i (convolution: channels contiguous)
//   by columns: row p holds the output rows (columns) of summed index p (weight gradient: pixels summed)
// Both are swizzled by chunks of 16 bytes, so that neither the copies nor the loads of fragments meet in a bank.
#pragma once
#include "ops_cuda/element.cuh"
#include "ops_cuda/ptx.cuh"

namespace cks::cuda {

// Ways to multiply. Element: what lies in memory; on tensor cores a step sums 32 bytes of it.
struct HalfMma {
  using Element = __half;
  static constexpr bool kTensorCores = true;
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_fp16(d, a, b);
  }
  __device__ static uint32_t prepare(uint32_t v) { return v; }
};
struct BFloat16Mma {
  using Element = __nv_bfloat16;
  static constexpr bool kTensorCores = true;
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_bf16(d, a, b);
  }
  __device__ static uint32_t prepare(uint32_t v) { return v; }
};
struct Tf32Mma {
  using Element = float;
  static constexpr bool kTensorCores = true;
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_tf32(d, a, b);
  }
  __device__ static uint32_t prepare(uint32_t v) { return ptx::round_to_tf32(v); }
};
template <class T>
struct Fma {  // CUDA cores: strict float, and what the tensor cores of an old device cannot take
  using Element = T;
  static constexpr bool kTensorCores = false;
};

// Byte offset of a chunk in a tile stored by rows of 64 or 128 bytes: eight chunks fill the banks.
template <int kRowBytes>
__device__ int chunk_by_row(int row, int chunk) {
  return row * kRowBytes + ((chunk ^ (row * kRowBytes / 128 & (kRowBytes / kChunkBytes - 1))) * kChunkBytes);
}

// Byte offset of a chunk in a tile stored by columns, kWidth of them. Fragments of 16-bit elements are read by rows of
// 16 bytes, those of floats by single words, four rows at a time.
template <class T, int kWidth>
__device__ int chunk_by_column(int row, int chunk) {
  const int swizzle = sizeof(T) == 2 ? row & 7 : (row & 3) * 2;
  return row * kWidth * int(sizeof(T)) + ((chunk ^ swizzle) * kChunkBytes);
}

template <class Math, int kM, int kN, bool = Math::kTensorCores>
class WarpTile;

template <class Math, int kM, int kN>
class WarpTile<Math, kM, kN, true> {
  static_assert(kM % 16 == 0 && kN % 16 == 0);
  using T = typename Math::Element;
  static constexpr int kRowTiles = kM / 16, kColumnTiles = kN / 8;
  static constexpr int kStepBytes = 32;
  static constexpr int kStep = kStepBytes / int(sizeof(T));  // summed elements

 public:
  // a, b: shared addresses of the two tiles; the warp's part starts at row a_row and b_row. Weights were rounded to
  // tf32 when they were packed, so only A is prepared.
  template <int kRowBytes>
  __device__ void multiply_rows(uint32_t a, int a_row, uint32_t b, int b_row) {
    const int lane = threadIdx.x % 32;
    // Moving down by 16 rows keeps the swizzle, moving by a step flips bits of the chunk: one address each does for
    // all.
    const uint32_t a_lane = a + chunk_by_row<kRowBytes>(a_row + lane % 16, lane / 16);
    const uint32_t b_lane = b + chunk_by_row<kRowBytes>(b_row + lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int step = 0; step < kRowBytes / kStepBytes; ++step) {
      uint32_t af[kRowTiles][4], bf[kColumnTiles / 2][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        ptx::load_matrices(af[i], (a_lane ^ step * kStepBytes) + i * 16 * kRowBytes);
#pragma unroll
        for (uint32_t& v : af[i]) v = Math::prepare(v);
      }
#pragma unroll
      for (int j = 0; j < kColumnTiles / 2; ++j)
        ptx::load_matrices(bf[j], (b_lane ^ step * kStepBytes) + j * 16 * kRowBytes);
      multiply(af, bf);
    }
  }

  // A tile of kDepth rows of kWidthA columns against one of kWidthB columns, the warp's part starting at column
  // a_column and b_column.
  template <int kDepth, int kWidthA, int kWidthB>
  __device__ void multiply_columns(uint32_t a, int a_column, uint32_t b, int b_column) {
#pragma unroll
    for (int step = 0; step < kDepth / kStep; ++step) {
      uint32_t af[kRowTiles][4], bf[kColumnTiles / 2][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) load_columns<kWidthA>(af[i], a, step * kStep, a_column + i * 16, true);
#pragma unroll
      for (int j = 0; j < kColumnTiles / 2; ++j)
        load_columns<kWidthB>(bf[j], b, step * kStep, b_column + j * 16, false);
      multiply(af, bf);
    }
  }

  // Calls f(row, column, v): v holds the sums of columns `column` and `column` + 1, `column` even.
  template <class F>
  __device__ void for_each_pair(F f) const {
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        f(i * 16 + row, j * 8 + column, make_float2(sum_[i][j][0], sum_[i][j][1]));
        f(i * 16 + row + 8, j * 8 + column, make_float2(sum_[i][j][2], sum_[i][j][3]));
      }
  }

 private:
  __device__ void multiply(const uint32_t (&af)[kRowTiles][4], const uint32_t (&bf)[kColumnTiles / 2][4]) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        const uint32_t b[2] = {bf[j / 2][j % 2 * 2], bf[j / 2][j % 2 * 2 + 1]};
        Math::multiply(sum_[i][j], af[i], b);
      }
  }

  // A fragment of 16 columns x kStep rows. Registers 1 and 2 of A are (next 8 columns, next rows); of a pair of Bs they
  // are (next rows, next 8 columns).
  template <int kWidth>
  __device__ static void load_columns(uint32_t (&r)[4], uint32_t tile, int row, int column, bool is_a) {
    const int lane = threadIdx.x % 32;
    if constexpr (sizeof(T) == 2) {
      const int matrix = lane / 8;
      const int rows = is_a ? matrix / 2 : matrix % 2, columns = is_a ? matrix % 2 : matrix / 2;
      ptx::load_matrices_transposed(r,
                                    tile + chunk_by_column<T, kWidth>(row + lane % 8 + rows * 8, column / 8 + columns));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int rows = is_a ? i / 2 : i % 2, columns = is_a ? i % 2 : i / 2;
        const int p = row + lane % 4 + rows * 4, c = column + lane / 4 + columns * 8;
        r[i] = Math::prepare(ptx::load_word(tile + chunk_by_column<T, kWidth>(p, c / 4) + c % 4 * 4));
      }
    }
  }

  float sum_[kRowTiles][kColumnTiles][4] = {};
};

// Each lane sums kM / 8 rows x kN / 4 columns: rows 8 apart, columns in pairs 8 apart.
template <class Math, int kM, int kN>
class WarpTile<Math, kM, kN, false> {
  static_assert(kM % 8 == 0 && kN % 8 == 0);
  using T = typename Math::Element;
  static constexpr int kRows = kM / 8, kColumns = kN / 4;
  static constexpr int kVector = 4;  // elements of a load

 public:
  template <int kRowBytes>
  __device__ void multiply_rows(uint32_t a, int a_row, uint32_t b, int b_row) {
    constexpr int kPerChunk = kChunk<T> / kVector;
    const int row = a_row + lane_row(), column = b_row + lane_column();
#pragma unroll 1
    for (int v = 0; v < kRowBytes / kChunkBytes * kPerChunk; ++v) {
      const int chunk = v / kPerChunk, within = v % kPerChunk * kVector * int(sizeof(T));
      float av[kRows][kVector];
#pragma unroll
      for (int i = 0; i < kRows; ++i) load(av[i], a + chunk_by_row<kRowBytes>(row + 8 * i, chunk) + within);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        float bv[kVector];
        load(bv, b + chunk_by_row<kRowBytes>(column + j / 2 * 8 + j % 2, chunk) + within);
#pragma unroll
        for (int s = 0; s < kVector; ++s)
#pragma unroll
          for (int i = 0; i < kRows; ++i) sum_[i][j] = fmaf(av[i][s], bv[s], sum_[i][j]);
      }
    }
  }

  template <int kDepth, int kWidthA, int kWidthB>
  __device__ void multiply_columns(uint32_t a, int a_column, uint32_t b, int b_column) {
#pragma unroll 2
    for (int p = 0; p < kDepth; ++p) {
      float av[kRows], bv[kColumns];
#pragma unroll
      for (int i = 0; i < kRows; ++i) av[i] = load_one<kWidthA>(a, p, a_column + lane_row() + 8 * i);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) bv[j] = load_one<kWidthB>(b, p, b_column + lane_column() + j / 2 * 8 + j % 2);
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum_[i][j] = fmaf(av[i], bv[j], sum_[i][j]);
    }
  }

  template <class F>
  __device__ void for_each_pair(F f) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; j += 2)
        f(lane_row() + 8 * i, lane_column() + j / 2 * 8, make_float2(sum_[i][j], sum_[i][j + 1]));
  }

 private:
  __device__ static int lane_row() { return threadIdx.x % 8; }
  __device__ static int lane_column() { return threadIdx.x % 32 / 8 * 2; }

  __device__ static void load(float (&v)[kVector], uint32_t address) {
    uint32_t word[kVector * sizeof(T) / 4];
    ptx::load_words(word, address);
    unpack<T>(word, v);
  }
  template <int kWidth>
  __device__ static float load_one(uint32_t tile, int row, int column) {
    constexpr int kPerWord = 4 / int(sizeof(T));
    const uint32_t word[1] = {
        ptx::load_word(tile + chunk_by_column<T, kWidth>(row, column / kChunk<T>) + column % kChunk<T> / kPerWord * 4)};
    float v[kPerWord];
    unpack<T>(word, v);
    return v[column % kPerWord];
  }

  float sum_[kRows][kColumns] = {};
};

}  // namespace cks::cuda
