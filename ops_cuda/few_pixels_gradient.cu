// The weight gradient of floats where few pixels are summed (few_pixels_plan.h).
#include "ops_cuda/few_pixels_plan.h"
#include "ops_cuda/fragments.cuh"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/shared_memory.h"

namespace cks::cuda {
namespace {

struct FewPixelsArgs {
  const int32_t* lists;
  int list_words, dy_rows, x_rows, steps_at, taps, shares, sum_pitch, column_tiles;
  const float *dy, *x;
  float* dw;
  int K, C;
};

constexpr int kTile = kFewPixelsTile;
// Of a row: strict floats are the sum of two.
template <class Math>
constexpr int kPlanes = std::is_same_v<Math, SplitTf32Mma> ? 2 : 1;
template <class Math>
constexpr int kRowBytes = few_pixels_row_bytes(kPlanes<Math>);

// Brings the block's channels of all pixels to their rows, in the form that products take; zeros where there is no
// pixel or no channel. Loads wait together.
template <class Math>
__device__ void gather(const FewPixelsArgs& p, const int32_t* pixels, int first_k, int first_c, uint32_t rows) {
  constexpr int kChunks = kTile / 4, kAtOnce = 8;
  const int count = (p.dy_rows + p.x_rows) * kChunks, threads = int(blockDim.x);
  for (int first = int(threadIdx.x); first < count; first += kAtOnce * threads) {
    float4 v[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = first + j * threads, row = i / kChunks, chunk = i % kChunks * 4;
      const bool of_dy = row < p.dy_rows;
      const int pixel = i < count ? pixels[row] : -1, channel = (of_dy ? first_k : first_c) + chunk;
      const int channels = of_dy ? p.K : p.C;
      v[j] = float4{};
      if (pixel >= 0 && channel < channels)
        v[j] = __ldg(reinterpret_cast<const float4*>((of_dy ? p.dy : p.x) + int64_t(pixel) * channels + channel));
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = first + j * threads;
      if (i >= count) break;
      const uint32_t word[4] = {Math::prepare(__float_as_uint(v[j].x)), Math::prepare(__float_as_uint(v[j].y)),
                                Math::prepare(__float_as_uint(v[j].z)), Math::prepare(__float_as_uint(v[j].w))};
      const Fragment<Math, 4> made(word);
      const uint32_t at = rows + i / kChunks * kRowBytes<Math> + i % kChunks * 16;
      if constexpr (kPlanes<Math> == 2) {
        ptx::store_words(at, uint4{made.high[0], made.high[1], made.high[2], made.high[3]});
        ptx::store_words(at + kTile * 4, uint4{made.low[0], made.low[1], made.low[2], made.low[3]});
      } else {
        ptx::store_words(at, uint4{made.word[0], made.word[1], made.word[2], made.word[3]});
      }
    }
  }
}

// The products of a tap, all its steps: 32 x 32 sums of a warp. A lane has rows lane / 4 + 8 i of dY's channels and
// columns lane % 4 * 8 + j of X's: those that it reads of X lie side by side.
template <class Math>
class TapSums {
 public:
  __device__ void multiply(const int32_t* steps, int count, uint32_t dy, uint32_t x) {
    const int lane = threadIdx.x % 32;
    const uint32_t dy_lane = dy + lane / 4 * 4, x_lane = x + lane / 4 * 16;
    const int2* at = reinterpret_cast<const int2*>(steps) + lane % 4;
#pragma unroll(3 - kPlanes<Math>)  // as far as registers last
    for (int step = 0; step < count; ++step, at += 4) {
      const int2 pair = *at;
      const uint32_t dy_row[2] = {dy_lane + (pair.x & 0xffff) * kFewPixelsUnit,
                                  dy_lane + (pair.y & 0xffff) * kFewPixelsUnit},
                     x_row[2] = {x_lane + (uint32_t(pair.x) >> 16) * kFewPixelsUnit,
                                 x_lane + (uint32_t(pair.y) >> 16) * kFewPixelsUnit};
      uint32_t a[kPlanes<Math>][2][4], b[kPlanes<Math>][2][4];
#pragma unroll
      for (int plane = 0; plane < kPlanes<Math>; ++plane) {
#pragma unroll
        for (int k = 0; k < 2; ++k) ptx::load_words(b[plane][k], x_row[k] + plane * kTile * 4);
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int k = 0; k < 4; ++k)
            a[plane][i][k] = ptx::load_word(dy_row[k / 2] + plane * kTile * 4 + (i * 16 + k % 2 * 8) * 4);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t high[2] = {b[0][0][j], b[0][1][j]};
          if constexpr (kPlanes<Math> == 2) {
            const uint32_t low[2] = {b[1][0][j], b[1][1][j]};
            cuda::multiply(sum_[i][j], {a[0][i], a[1][i]}, {high, low});
          } else {
            Math::multiply(sum_[i][j], a[0][i], high);
          }
        }
    }
  }

  // To [row][column][tap].
  __device__ void store(float* to, int pitch, int taps) const {
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 8;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k)
          to[(row + i * 16 + k / 2 * 8) * pitch + (column + k % 2 * 4 + j) * taps] = sum_[i][j][k];
  }

 private:
  float sum_[2][4][4] = {};
};

// A tile of dW, as it lies in memory, from the sums of all shares.
__device__ void write_tile(const FewPixelsArgs& p, const float* sums, int first_k, int first_c) {
  const int rows = min(kTile, p.K - first_k), count = min(kTile, p.C - first_c) * p.taps;
  for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) {
    float* to = p.dw + (int64_t(first_k) * p.C + first_c) * p.taps + i;
#pragma unroll 8
    for (int row = 0; row < rows; ++row, to += p.C * p.taps) {
      float sum = sums[row * p.sum_pitch + i];
      for (int share = 1; share < p.shares; ++share) sum += sums[(share * kTile + row) * p.sum_pitch + i];
      *to = sum;
    }
  }
}

template <class Math>
__global__ void __launch_bounds__(kFewPixelsMostWarps * 32, 2)
    few_pixels_gradient(const __grid_constant__ FewPixelsArgs p) {
  extern __shared__ __align__(16) int32_t lists[];
  int32_t* const rows = lists + p.list_words;
  float* const sums = reinterpret_cast<float*>(rows + (p.dy_rows + p.x_rows) * (kRowBytes<Math> / 4));
  const uint32_t dy = ptx::shared_address(rows), x = dy + p.dy_rows * kRowBytes<Math>;
  const int first_c = int(blockIdx.x) % p.column_tiles * kTile, first_k = int(blockIdx.x) / p.column_tiles * kTile;
  // The lists are older than the previous grid.
  ptx::launch_dependents();
#pragma unroll 4
  for (int i = int(threadIdx.x); i < p.list_words; i += int(blockDim.x)) lists[i] = p.lists[i];
  __syncthreads();
  ptx::wait_for_previous_grid();
  gather<Math>(p, lists, first_k, first_c, dy);
  __syncthreads();
  const int32_t* const first_step = lists + p.dy_rows + p.x_rows;
  for (int unit = int(threadIdx.x) / 32; unit < p.taps * p.shares; unit += int(blockDim.x) / 32) {
    const int first = first_step[unit], share = unit / p.taps, tap = unit % p.taps;
    TapSums<Math> of_unit;
    of_unit.multiply(lists + p.steps_at + first * kFewPixelsStep, first_step[unit + 1] - first, dy, x);
    of_unit.store(sums + share * kTile * p.sum_pitch + tap, p.sum_pitch, p.taps);
  }
  __syncthreads();
  write_tile(p, sums, first_k, first_c);
}

const void* kernel_of(Precision precision) {
  return precision == Precision::kFP32 ? reinterpret_cast<const void*>(&few_pixels_gradient<SplitTf32Mma>)
                                       : reinterpret_cast<const void*>(&few_pixels_gradient<Tf32Mma>);
}

class FewPixelsGradient : public WeightGradientKernel {
 public:
  FewPixelsGradient(const Problem& p, Precision precision, const FewPixelsPlan& plan)
      : lists_(plan.lists.data(), plan.lists.size() * sizeof(int32_t)),
        function_(kernel_of(precision)),
        threads_(unsigned(plan.warps * 32)),
        shared_bytes_(plan.shared_bytes) {
    args_.lists = reinterpret_cast<const int32_t*>(lists_.data());
    args_.list_words = int(plan.lists.size()), args_.steps_at = plan.steps_at;
    args_.dy_rows = plan.dy_rows, args_.x_rows = plan.x_rows;
    args_.taps = int(p.filter.taps()), args_.shares = plan.shares, args_.sum_pitch = plan.sum_pitch;
    args_.column_tiles = int(ceil_div(p.filter.C, kTile));
    args_.K = int(p.filter.K), args_.C = int(p.filter.C);
    blocks_ = unsigned(ceil_div(p.filter.K, kTile) * args_.column_tiles);
    allow_all_shared_memory(function_);
  }
  size_t workspace_bytes() const override { return 0; }
  const char* name() const override { return "few pixels"; }
  void run(const void* x, const void* dy, void* dw, void*, Stream stream) const override {
    require_aligned(x, "X"), require_aligned(dy, "dY");
    FewPixelsArgs args = args_;
    args.x = static_cast<const float*>(x), args.dy = static_cast<const float*>(dy), args.dw = static_cast<float*>(dw);
    void* parameters[] = {&args};
    launch_dependent("launching the weight gradient of few pixels", function_, dim3(blocks_), dim3(threads_),
                     shared_bytes_, stream, parameters);
  }

 private:
  DeviceCopy lists_;
  const void* function_;
  unsigned threads_, blocks_;
  int shared_bytes_;
  FewPixelsArgs args_{};
};

}  // namespace

bool few_pixels_takes_gradient(const Problem& p, DataType type, Layout layout, const Device& device) {
  if (device.capability < 80 || type != DataType::kFloat || layout != Layout::kNHWC || p.filter.groups != 1 ||
      p.filter.C % 4 != 0 || p.filter.K % 4 != 0)
    return false;
  // Code for an older device, which this one may run, has no such products.
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel_of(Precision::kTF32)), "asking what a kernel was compiled for");
  return attributes.ptxVersion >= 80;
}

std::optional<FewPixelsPlan> plan_few_pixels(const Problem& p, Precision precision, const Device& device) {
  const int planes = precision == Precision::kFP32 ? 2 : 1;
  return plan_few_pixels(p, planes, {device.multiprocessors, device.shared_bytes, most_shared_bytes()});
}

std::unique_ptr<WeightGradientKernel> make_few_pixels_gradient(const Problem& p, Precision precision,
                                                               const FewPixelsPlan& plan) {
  return std::make_unique<FewPixelsGradient>(p, precision, plan);
}

}  // namespace cks::cuda
