// The passes around the Hopper weight gradient: floats to scaled halves before it, the sum of the partial squares
// after.
#include "ops_cuda/element.cuh"
#include "ops_cuda/hopper/gradient_passes.h"
#include "ops_cuda/hopper/ptx.cuh"

namespace cks::cuda::hopper {
namespace {

// ---------------------------------------------------------------- floats to halves
constexpr int kColumns = kSquare / 4;            // of float4, of a block
constexpr int kRows = kScaleThreads / kColumns;  // pixels at once
constexpr int kTopExponent = 14;                 // of the scaled magnitudes

// A block's share of a tensor: 64 channels, and a range of pixels.
struct Share {
  const ScaledTensor& tensor;
  int slice, range, column, row;
  int64_t begin, end;
  bool inside;  // the tensor has this thread's channels
  __device__ explicit Share(const ScaleParams& p)
      : tensor(p.tensors[int(blockIdx.x) >= p.tensors[0].ranges * p.tensors[0].slices]),
        column(threadIdx.x % kColumns),
        row(threadIdx.x / kColumns) {
    const int block = int(blockIdx.x) - (&tensor == p.tensors ? 0 : p.tensors[0].ranges * p.tensors[0].slices);
    slice = block % tensor.slices, range = block / tensor.slices;
    begin = tensor.pixels * range / tensor.ranges, end = tensor.pixels * (range + 1) / tensor.ranges;
    inside = channel() < tensor.channels;
  }
  __device__ int channel() const { return slice * kSquare + column * 4; }
  __device__ float4 load(int64_t pixel) const {
    return pixel < end ? __ldg(reinterpret_cast<const float4*>(tensor.from + pixel * tensor.channels + channel()))
                       : float4{};
  }
};

__device__ float finite_magnitude(float v) { return fabsf(v) <= 3.402823466e38f ? fabsf(v) : 0.f; }

__global__ void __launch_bounds__(kScaleThreads, 2) find_largest(const __grid_constant__ ScaleParams p) {
  constexpr int kAtOnce = 4;
  launch_dependents();
  wait_for_previous_grid();
  const Share share(p);
  __shared__ float4 largest[kRows][kColumns];
  float4 most{};
  if (share.inside) {
    for (int64_t pixel = share.begin + share.row; pixel < share.end; pixel += kAtOnce * kRows) {
      float4 v[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) v[i] = share.load(pixel + i * kRows);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        most.x = fmaxf(most.x, finite_magnitude(v[i].x)), most.y = fmaxf(most.y, finite_magnitude(v[i].y));
        most.z = fmaxf(most.z, finite_magnitude(v[i].z)), most.w = fmaxf(most.w, finite_magnitude(v[i].w));
      }
    }
  }
  largest[share.row][share.column] = most;
  __syncthreads();
  if (threadIdx.x < kSquare && share.slice * kSquare + int(threadIdx.x) < share.tensor.pitch) {
    float m = 0;
    for (int row = 0; row < kRows; ++row) m = fmaxf(m, reinterpret_cast<const float*>(largest[row])[threadIdx.x]);
    share.tensor.largest[share.range * share.tensor.pitch + share.slice * kSquare + threadIdx.x] = m;
  }
}

__device__ uint2 pack_halves(const float (&v)[4]) {
  __half* const type = nullptr;
  return {pack_word(v, type), pack_word(v + 2, type)};
}

template <int kPlanes>
__global__ void __launch_bounds__(kScaleThreads, 2) scale_to_halves(const __grid_constant__ ScaleParams p) {
  constexpr int kAtOnce = 2, kPeers = kScaleThreads / kSquare;
  launch_dependents();
  wait_for_previous_grid();
  const Share share(p);
  const ScaledTensor& t = share.tensor;
  __shared__ float largest[kPeers][kSquare];
  __shared__ float scales[kSquare];
  {
    const int channel = threadIdx.x % kSquare, peer = threadIdx.x / kSquare, at = share.slice * kSquare + channel;
    float m = 0;
    if (at < t.pitch)
      for (int range = peer; range < t.ranges; range += kPeers) m = fmaxf(m, __ldcg(t.largest + range * t.pitch + at));
    largest[peer][channel] = m;
    __syncthreads();
    if (peer == 0) {
      for (int i = 1; i < kPeers; ++i) m = fmaxf(m, largest[i][channel]);
      // The greatest power that a float holds is enough for subnormal channels.
      const int exponent = m > 0 ? min(kTopExponent - ilogbf(m), 126) : 0;
      scales[channel] = ldexpf(1.f, exponent);
      if (share.range == 0 && at < t.pitch) t.exponents[at] = exponent;
    }
    __syncthreads();
  }
  if (share.channel() >= t.pitch) return;
  const float4 scale = reinterpret_cast<const float4*>(scales)[share.column];
  // From the last pixel on: what the search has read last is still in L2.
  constexpr int kStride = kAtOnce * kRows;
  const int64_t rounds = (share.end - share.begin + kStride - 1) / kStride;
  for (int64_t round = rounds - 1; round >= 0; --round) {
    const int64_t pixel = share.begin + round * kStride + share.row;
    float4 v[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) v[i] = share.inside ? share.load(pixel + i * kRows) : float4{};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (pixel + i * kRows >= share.end) break;
      uint2* const to = reinterpret_cast<uint2*>(static_cast<__half*>(t.to) +
                                                 (pixel + i * kRows) * (kPlanes * t.pitch) + share.channel());
      float x[4] = {v[i].x * scale.x, v[i].y * scale.y, v[i].z * scale.z, v[i].w * scale.w};
      const uint2 high = pack_halves(x);
      to[0] = high;
      if constexpr (kPlanes == 2) {
        float rounded[4];
        const uint32_t words[2] = {high.x, high.y};
        unpack<__half>(words, rounded);
#pragma unroll
        for (int j = 0; j < 4; ++j) x[j] -= rounded[j];  // an infinity leaves NaN
        to[t.pitch / 4] = pack_halves(x);
      }
    }
  }
}

// ---------------------------------------------------------------- the sum of partial squares
// A block takes a part of one square of all taps: kGroups groups of lanes add a share of the splits each, and the
// result goes through shared memory, because dW has the taps side by side. A warp works on kTaps taps at a time: what
// counts is how many loads wait together.
template <class T, int kGroups>
__global__ void __launch_bounds__(kSumThreads) sum_squares(const __grid_constant__ SumParams p) {
  constexpr int kTaps = kGroups == 1 ? 3 : 1, kAtOnce = kGroups == 1 ? 2 : 8;
  constexpr int kLanes = 32 / kGroups, kHalf = kLanes / 4;  // four lanes hold eight channels of two rows, eight apart
  extern __shared__ float tile[];                           // [2 * kHalf rows][8 channels][taps]
  launch_dependents();
  int block = int(blockIdx.x);
  const int section = block % kGroups, warp_of_square = block / kGroups % 4, eighth = block / kGroups / 4 % 8;
  block /= kGroups * 32;
  const int c_square = block % p.c_squares, k_square = block / p.c_squares;
  const int warp = threadIdx.x / 32, warps = int(blockDim.x) / 32;
  const int lane = threadIdx.x % kLanes, group = threadIdx.x % 32 / kLanes;
  const int first_k = k_square * kSquare + warp_of_square * 16 + section * kHalf,
            first_c = c_square * kSquare + eighth * 8;
  const int64_t pitch = int64_t(p.k_squares) * p.c_squares * (kSquare * kSquare / 4);
  const float4* const from = p.partials + (int64_t(k_square) * p.c_squares + c_square) * (kSquare * kSquare / 4) +
                             eighth * 128 + warp_of_square * 32 + section * kLanes + lane;
  const int row = lane / 4, channel = lane % 4 * 2;
  int exponent[4] = {};  // of the elements of a float4
  for (int first = warp; first < p.taps; first += kTaps * warps) {
    const float4* at[kTaps];
    int count[kTaps], most = 0;
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      const int tap = first + t * warps;
      const int2 s = tap < p.taps ? __ldg(reinterpret_cast<const int2*>(p.sums) + tap) : int2{};  // {first, splits}
      const int begin = s.y * group / kGroups;
      count[t] = s.y * (group + 1) / kGroups - begin, most = max(most, count[t]);
      at[t] = from + s.x * int64_t(kSquare * kSquare / 4) + begin * pitch;
    }
    if (first == warp) {  // the tables above are older than the previous grid
      wait_for_previous_grid();
      if (p.k_exponents) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          exponent[i] = -p.k_exponents[min(first_k + row + i / 2 * 8, p.K - 1)] -
                        p.c_exponents[min(first_c + channel + i % 2, p.C - 1)];
      }
    }
    float sum[kTaps][4] = {};
    for (int i = 0; i < most; i += kAtOnce) {
      float4 v[kTaps][kAtOnce];
#pragma unroll
      for (int t = 0; t < kTaps; ++t)
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) v[t][j] = i + j < count[t] ? __ldcg(at[t] + (i + j) * pitch) : float4{};
#pragma unroll
      for (int t = 0; t < kTaps; ++t)
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j)
          sum[t][0] += v[t][j].x, sum[t][1] += v[t][j].y, sum[t][2] += v[t][j].z, sum[t][3] += v[t][j].w;
    }
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      const int tap = first + t * warps;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int peers = kLanes; peers < 32; peers *= 2) sum[t][i] += __shfl_xor_sync(0xffffffff, sum[t][i], peers);
        if (p.k_exponents) sum[t][i] = times_power(sum[t][i], exponent[i]);
        if (group == 0 && tap < p.taps) tile[((row + i / 2 * kHalf) * 8 + channel + i % 2) * p.taps + tap] = sum[t][i];
      }
    }
  }
  if (warp >= p.taps) wait_for_previous_grid();
  __syncthreads();
  const int run = min(8, p.C - first_c) * p.taps;  // consecutive in dW
  for (int r = warp; r < 2 * kHalf; r += warps) {
    const int k = first_k + r % kHalf + r / kHalf * 8;
    if (k >= p.K) continue;
    T* const to = static_cast<T*>(p.dw) + (int64_t(k) * p.C + first_c) * p.taps;
    for (int i = threadIdx.x % 32; i < run; i += 32) to[i] = from_float<T>(tile[r * 8 * p.taps + i]);
  }
}

template <class T>
const void* sum_of(int groups) {
  return groups == 1   ? reinterpret_cast<const void*>(&sum_squares<T, 1>)
         : groups == 4 ? reinterpret_cast<const void*>(&sum_squares<T, 4>)
                       : reinterpret_cast<const void*>(&sum_squares<T, 8>);
}

}  // namespace

const void* largest_kernel() { return reinterpret_cast<const void*>(&find_largest); }
const void* scale_kernel(int planes) {
  return planes == 1 ? reinterpret_cast<const void*>(&scale_to_halves<1>)
                     : reinterpret_cast<const void*>(&scale_to_halves<2>);
}
const void* sum_kernel(DataType type, int groups) {
  return type == DataType::kFloat  ? sum_of<float>(groups)
         : type == DataType::kHalf ? sum_of<__half>(groups)
                                   : sum_of<__nv_bfloat16>(groups);
}

}  // namespace cks::cuda::hopper
