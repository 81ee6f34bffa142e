// The passes around the Hopper weight gradient: floats to scaled halves before it, the sum of the partial squares
// after.
#include "ops_cuda/element.cuh"
#include "ops_cuda/hopper/gradient_halves.cuh"
#include "ops_cuda/hopper/gradient_passes.h"
#include "ops_cuda/hopper/gradient_ptx.cuh"

namespace cks::cuda::hopper {
namespace {

// ---------------------------------------------------------------- floats to halves
constexpr int kColumns = kSquare / 4;            // of float4, of a block
constexpr int kRows = kScaleThreads / kColumns;  // pixels at once

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
      for (int i = 0; i < kAtOnce; ++i) raise(most, v[i]);
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

// Four channels of a pixel, from `channel` on.
template <int kPlanes>
__device__ void write_halves(const ScaledTensor& t, int64_t pixel, int channel, float4 v, float4 scale) {
  uint2* const to = reinterpret_cast<uint2*>(static_cast<__half*>(t.to) + pixel * (kPlanes * t.pitch) + channel);
  uint2 halves[kPlanes];
  to_halves(v, scale, halves);
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) to[plane * (t.pitch / 4)] = halves[plane];
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
      const int exponent = exponent_to(kTopExponent, m);
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
      write_halves<kPlanes>(t, pixel + i * kRows, share.channel(), v[i], scale);
    }
  }
}

// Both passes in one, for tensors that the clusters hold in registers: a cluster has 64 channels of one tensor.
template <int kPlanes>
__global__ void __launch_bounds__(kFewThreads, 2) scale_few_pixels(const __grid_constant__ ScaleParams p) {
  constexpr int kRows = kFewThreads / kColumns, kWarps = kFewThreads / 32, kHeld = kFewPixels / kFewBlocks / kRows;
  __shared__ float4 of_warps[kWarps][kColumns];
  __shared__ float largest[kSquare], scales[kSquare];
  launch_dependents();
  wait_for_previous_grid();
  int slice = int(blockIdx.x) / kFewBlocks;
  const bool second = slice >= p.tensors[0].slices;
  const ScaledTensor& t = p.tensors[second];
  if (second) slice -= p.tensors[0].slices;
  const int rank = int(cluster_rank()), column = threadIdx.x % kColumns, row = threadIdx.x / kColumns;
  const int channel = slice * kSquare + column * 4, first = rank * kRows + row;
  float4 v[kHeld], most{};
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int pixel = first + i * kRows * kFewBlocks;
    v[i] = pixel < t.pixels && channel < t.channels
               ? __ldg(reinterpret_cast<const float4*>(t.from + int64_t(pixel) * t.channels + channel))
               : float4{};
  }
#pragma unroll
  for (int i = 0; i < kHeld; ++i) raise(most, v[i]);
  most.x = fmaxf(most.x, __shfl_xor_sync(0xffffffff, most.x, kColumns));
  most.y = fmaxf(most.y, __shfl_xor_sync(0xffffffff, most.y, kColumns));
  most.z = fmaxf(most.z, __shfl_xor_sync(0xffffffff, most.z, kColumns));
  most.w = fmaxf(most.w, __shfl_xor_sync(0xffffffff, most.w, kColumns));
  if (threadIdx.x % 32 < kColumns) of_warps[threadIdx.x / 32][column] = most;
  __syncthreads();
  if (threadIdx.x < kSquare) {
    float m = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) m = fmaxf(m, reinterpret_cast<const float*>(of_warps[i])[threadIdx.x]);
    largest[threadIdx.x] = m;
  }
  cluster_sync();
  if (threadIdx.x < kSquare) {
    float m = 0;
#pragma unroll
    for (int i = 0; i < kFewBlocks; ++i)
      m = fmaxf(m, load_peer_float(peer_address(shared_address(&largest[threadIdx.x]), i)));
    const int exponent = exponent_to(kTopExponent, m), at = slice * kSquare + int(threadIdx.x);
    scales[threadIdx.x] = ldexpf(1.f, exponent);
    if (rank == 0 && at < t.pitch) t.exponents[at] = exponent;
  }
  cluster_sync();  // nor does a block end while others read what it found
  if (channel >= t.pitch) return;
  const float4 scale = reinterpret_cast<const float4*>(scales)[column];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int pixel = first + i * kRows * kFewBlocks;
    if (pixel < t.pixels) write_halves<kPlanes>(t, pixel, channel, v[i], scale);
  }
}

// ---------------------------------------------------------------- the sum of partial squares
// A block takes a part of one square of all taps, and each warp kTaps taps of it at a time. kGroups groups of its lanes
// add a share of the splits each, kAtOnce of them at once: what counts is that all loads of a thread wait together, and
// that there are few threads without enough of them. The result goes through shared memory, because dW has the taps
// side by side.
template <class T, int kGroups, int kTaps, int kAtOnce>
__global__ void __launch_bounds__(kSumThreads, 1) sum_squares(const __grid_constant__ SumParams p) {
  constexpr int kLanes = 32 / kGroups, kHalf = kLanes / 4;  // four lanes hold eight channels of two rows, eight apart
  extern __shared__ float4 dynamic[];
  float* const tile = reinterpret_cast<float*>(dynamic);  // [2 * kHalf rows][8 channels][taps]
  launch_dependents();
  int block = int(blockIdx.x);
  const int section = block % kGroups, warp_of_square = block / kGroups % 4, eighth = block / kGroups / 4 % 8;
  block /= kGroups * 32;
  const int c_square = block % p.c_squares, k_square = block / p.c_squares;
  const int warp = threadIdx.x / 32, warps = int(blockDim.x) / 32;
  const int lane = threadIdx.x % kLanes, group = threadIdx.x % 32 / kLanes;
  const int first_k = k_square * kSquare + warp_of_square * 16 + section * kHalf,
            first_c = c_square * kSquare + eighth * 8;
  if (first_k >= p.K || first_c >= p.C) return;
  const int pitch = p.k_squares * p.c_squares * (kSquare * kSquare / 4);
  const float4* const from = p.partials + (k_square * p.c_squares + c_square) * (kSquare * kSquare / 4) + eighth * 128 +
                             warp_of_square * 32 + section * kLanes + lane;
  const int row = lane / 4, channel = lane % 4 * 2;
  int exponent[4] = {};  // of the elements of a float4
  for (int first = warp * kTaps; first < p.taps; first += kTaps * warps) {
    int at[kTaps], count[kTaps], most = 0;
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      const int2 s =  // {first, splits}
          first + t < p.taps ? __ldg(reinterpret_cast<const int2*>(p.sums) + first + t) : int2{};
      const int begin = s.y * group / kGroups;
      count[t] = s.y * (group + 1) / kGroups - begin, most = max(most, count[t]);
      at[t] = s.x * (kSquare * kSquare / 4) + begin * pitch;
    }
    if (first == warp * kTaps) {  // the tables above are older than the previous grid
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
        for (int j = 0; j < kAtOnce; ++j) v[t][j] = load_if(i + j < count[t], from + (at[t] + (i + j) * pitch));
#pragma unroll
      for (int t = 0; t < kTaps; ++t)
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j)
          sum[t][0] += v[t][j].x, sum[t][1] += v[t][j].y, sum[t][2] += v[t][j].z, sum[t][3] += v[t][j].w;
    }
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      const int tap = first + t;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int peers = kLanes; peers < 32; peers *= 2) sum[t][i] += __shfl_xor_sync(0xffffffff, sum[t][i], peers);
        if (p.k_exponents) sum[t][i] = times_power(sum[t][i], exponent[i]);
        if (group == 0 && tap < p.taps) tile[((row + i / 2 * kHalf) * 8 + channel + i % 2) * p.taps + tap] = sum[t][i];
      }
    }
  }
  if (warp * kTaps >= p.taps) wait_for_previous_grid();
  __syncthreads();
  constexpr int kVector = 16 / int(sizeof(T));
  const int vectors = min(8, p.C - first_c) * p.taps / kVector;  // of a row, consecutive in dW
  for (int i = threadIdx.x; i < 2 * kHalf * vectors; i += int(blockDim.x)) {
    const int r = i / vectors, v = i - r * vectors, k = first_k + r % kHalf + r / kHalf * 8;
    if (k >= p.K) break;  // so are the rows after it
    const float4* const sums = dynamic + r * 2 * p.taps + v * (kVector / 4);
    float4* const to = reinterpret_cast<float4*>(static_cast<T*>(p.dw) + (int64_t(k) * p.C + first_c) * p.taps) + v;
    if constexpr (sizeof(T) == 4) {
      *to = sums[0];
    } else {
      const float eight[8] = {sums[0].x, sums[0].y, sums[0].z, sums[0].w, sums[1].x, sums[1].y, sums[1].z, sums[1].w};
      *reinterpret_cast<uint4*>(to) = pack_chunk<T>(eight);
    }
  }
}

// A thread for each part would have too little to do, and few threads too much; and a block has the shared memory that
// it gets without asking (a fourth is enough for four groups of lanes).
constexpr int kSharedBytes = 48 << 10;
static_assert(SumKernel{nullptr, 4, 1}.shared_bytes(kMaxGradientTaps) <= kSharedBytes);
template <class T>
SumKernel sum_of(int splits, int squares, int taps) {
  const auto kernel = [](auto function, int groups, int at_once) {
    return SumKernel{reinterpret_cast<const void*>(function), groups, at_once};
  };
  const bool fits = SumKernel{nullptr, 1, 1}.shared_bytes(taps) <= kSharedBytes;
  if (fits && splits <= 2) return kernel(&sum_squares<T, 1, 4, 2>, 1, 4);
  if (fits && splits <= 5) return kernel(&sum_squares<T, 1, 2, 5>, 1, 2);
  if (fits && (squares >= 4 ? splits <= 12 : splits <= 6)) return kernel(&sum_squares<T, 1, 1, 12>, 1, 1);
  if (squares >= 4 || splits <= 24) return kernel(&sum_squares<T, 4, 1, 9>, 4, 1);
  return kernel(&sum_squares<T, 8, 1, 9>, 8, 1);
}

}  // namespace

const void* largest_kernel() { return reinterpret_cast<const void*>(&find_largest); }
const void* scale_kernel(int planes) {
  return planes == 1 ? reinterpret_cast<const void*>(&scale_to_halves<1>)
                     : reinterpret_cast<const void*>(&scale_to_halves<2>);
}
const void* scale_few_kernel(int planes) {
  return planes == 1 ? reinterpret_cast<const void*>(&scale_few_pixels<1>)
                     : reinterpret_cast<const void*>(&scale_few_pixels<2>);
}
SumKernel sum_kernel(DataType type, int splits, int squares, int taps) {
  return type == DataType::kFloat  ? sum_of<float>(splits, squares, taps)
         : type == DataType::kHalf ? sum_of<__half>(splits, squares, taps)
                                   : sum_of<__nv_bfloat16>(splits, squares, taps);
}

}  // namespace cks::cuda::hopper
