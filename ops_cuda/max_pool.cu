// MaxPool, channels last. A thread takes 16 bytes of channels of one output, or of two along w where windows are two
// wide; neighbouring threads are neighbours along channels, then along w.
//
// The memory bounds it. At 4.8 TB/s and a latency of some 800 ns, 3.8 MB have to be on their way, 29 KB for each of an
// H200's 132 multiprocessors. A thread waits for 3 or 4 loads at once, and a multiprocessor holds 1024 threads or more:
// 48 KB.
#include <algorithm>

#include "ops_cuda/element.cuh"
#include "ops_cuda/error.h"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/max_pool.h"
#include "ops_cuda/ptx.cuh"

namespace cks::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostColumns = 32, kMostThreadsDeep = 64;
// How many taps of a row of the window a thread takes at a time.
constexpr int taps_together(int window_w) { return window_w <= 2 || window_w == 4 ? 2 : 3; }
// Outputs of a thread. More share no loads, and leave fewer threads.
constexpr int outputs_of(int taps) { return taps == 2 ? 2 : 1; }
template <int kTaps>
inline constexpr int kOutputsOf = outputs_of(kTaps);

// A window along one axis: where its first tap is, and the first and the last of those inside the input. first > last
// where all taps are in the padding.
struct Taps {
  int begin, first, last;
};
__device__ Taps taps_of(int output, int stride, int pad, int window, int dilation, int extent) {
  const int begin = output * stride - pad, end = begin + (window - 1) * dilation;
  Taps taps{begin, begin, end};
  if (begin < 0) taps.first += (dilation - 1 - begin) / dilation * dilation;
  if (end >= extent) taps.last -= (end - extent + dilation) / dilation * dilation;
  return taps;
}

// The larger of two, a NaN where one is.
__device__ float larger(float a, float b) { return b > a || b != b ? b : a; }
__device__ __half larger(__half a, __half b) { return __hmax_nan(a, b); }
__device__ __nv_bfloat16 larger(__nv_bfloat16 a, __nv_bfloat16 b) { return __hmax_nan(a, b); }

template <class T>
using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;

template <class T>
__device__ uint32_t larger_word(uint32_t a, uint32_t b) {
  if constexpr (std::is_same_v<T, float>) {
    return __float_as_uint(larger(__uint_as_float(a), __uint_as_float(b)));
  } else {
    const Pair<T> pair = __hmax2_nan(*reinterpret_cast<const Pair<T>*>(&a), *reinterpret_cast<const Pair<T>*>(&b));
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}
template <class T>
__device__ uint4 larger_chunk(uint4 a, uint4 b) {
  return {larger_word<T>(a.x, b.x), larger_word<T>(a.y, b.y), larger_word<T>(a.z, b.z), larger_word<T>(a.w, b.w)};
}

template <class T>
inline constexpr uint32_t kMinusInfinity = std::is_same_v<T, float>    ? 0xff800000u
                                           : std::is_same_v<T, __half> ? 0xfc00fc00u
                                                                       : 0xff80ff80u;
template <class T>
inline constexpr uint32_t kLowest = kMinusInfinity<T> - (std::is_same_v<T, float> ? 1 : 0x00010001);

// What a thread holds of one pixel: a chunk, or a single channel where chunks do not fit.
template <class T, int kVector>
struct Part {
  using Raw = typename Elements<T, kVector>::Raw;
  __device__ static Raw filled(uint32_t word) {
    if constexpr (kVector == 1)
      return *reinterpret_cast<const T*>(&word);
    else
      return {word, word, word, word};
  }
  __device__ static Raw of_larger(const Raw& a, const Raw& b) {
    if constexpr (kVector == 1)
      return larger(a, b);
    else
      return larger_chunk<T>(a, b);
  }
};

// kTaps: of a row of the window, at a time.
template <class T, int kVector, int kTaps>
__global__ void __launch_bounds__(kThreads) max_pool(const __grid_constant__ MaxPoolArgs args) {
  constexpr int kOutputs = kOutputsOf<kTaps>;
  using Load = Elements<T, kVector>;
  using Raw = typename Load::Raw;
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  unsigned block = blockIdx.x;
  const int c = int(block % args.column_blocks * blockDim.x + threadIdx.x) * kVector;
  block /= args.column_blocks;
  const int first_w = int(block % args.strip_blocks * blockDim.y) * kOutputs + int(threadIdx.y);
  const unsigned row = block / args.strip_blocks * blockDim.z + threadIdx.z;
  if (c >= args.C || first_w >= args.output.w || row >= args.rows) return;

  const unsigned plane = row / unsigned(args.output.h), n = plane / unsigned(args.output.d);
  const Taps d = taps_of(int(plane % unsigned(args.output.d)), args.stride.d, args.pad.d, args.window.d,
                         args.dilation.d, args.input.d);
  const Taps h = taps_of(int(row % unsigned(args.output.h)), args.stride.h, args.pad.h, args.window.h, args.dilation.h,
                         args.input.h);
  Taps w[kOutputs];
  Raw best[kOutputs];
#pragma unroll
  for (int p = 0; p < kOutputs; ++p) {
    const int output = min(first_w + p * int(blockDim.y), args.output.w - 1);
    w[p] = taps_of(output, args.stride.w, args.pad.w, args.window.w, args.dilation.w, args.input.w);
    best[p] = Part<T, kVector>::filled(kMinusInfinity<T>);
  }
  const T* const image = static_cast<const T*>(args.x) + c;
  const int64_t first_plane = int64_t(n) * args.input.d;
  for (int at_d = d.first; at_d <= d.last; at_d += args.dilation.d)
    for (int at_h = h.first; at_h <= h.last; at_h += args.dilation.h) {
      const T* const line = image + ((first_plane + at_d) * args.input.h + at_h) * args.input.w * args.C;
      for (int s = 0; s < args.window.w; s += kTaps) {
        Raw loaded[kOutputs][kTaps];  // all loads before the first maximum: they wait together
#pragma unroll
        for (int p = 0; p < kOutputs; ++p)
#pragma unroll
          for (int j = 0; j < kTaps; ++j) {
            // Instead of a tap in the padding the nearest one inside is read: a maximum may see a value twice. Where
            // there is none, a pixel that is dropped below.
            const int tap = w[p].begin + (s + j) * args.dilation.w;
            const int at_w = w[p].first > w[p].last ? 0 : min(max(tap, w[p].first), w[p].last);
            loaded[p][j] = Load::load(line + int64_t(at_w) * args.C, true);
          }
#pragma unroll
        for (int p = 0; p < kOutputs; ++p)
#pragma unroll
          for (int j = 0; j < kTaps; ++j) best[p] = Part<T, kVector>::of_larger(best[p], loaded[p][j]);
      }
    }
#pragma unroll
  for (int p = 0; p < kOutputs; ++p) {
    const int output = first_w + p * int(blockDim.y);
    if (output >= args.output.w) break;
    if (d.first > d.last || h.first > h.last || w[p].first > w[p].last) best[p] = Part<T, kVector>::filled(kLowest<T>);
    T* const y = static_cast<T*>(args.y) + (int64_t(row) * args.output.w + output) * args.C + c;
    *reinterpret_cast<Raw*>(y) = best[p];
  }
}

// vector: channels of a thread.
MaxPoolLaunch plan_launch(MaxPoolArgs args, int vector) {
  const int64_t columns = args.C / vector, strips = ceil_div(args.output.w, outputs_of(taps_together(args.window.w)));
  args.column_blocks = unsigned(ceil_div(columns, kMostColumns));
  const unsigned x = unsigned(ceil_div(columns, args.column_blocks));
  // Up to four rows first: windows that overlap share lines in L1.
  const unsigned first_rows = std::min(4u, args.rows);
  const unsigned y = unsigned(std::min<int64_t>(strips, kThreads / (x * first_rows)));
  const unsigned z = std::min({args.rows, unsigned(kThreads) / (x * y), unsigned(kMostThreadsDeep)});
  args.strip_blocks = unsigned(ceil_div(strips, y));
  const int64_t blocks = ceil_div(args.rows, z) * args.strip_blocks * args.column_blocks;
  if (blocks > INT32_MAX) throw Error("the pool is too large: its output has more than 2^31 tiles");
  return {args, unsigned(blocks), {x, y, z}};
}

template <class T, int kVector>
void launch_pool(const MaxPoolLaunch& pool, Stream stream) {
  const auto kernel = taps_together(pool.args.window.w) == 2 ? max_pool<T, kVector, 2> : max_pool<T, kVector, 3>;
  const auto& [x, y, z] = pool.threads;
  launch_dependent("launching the pool", kernel, dim3(pool.blocks), dim3(x, y, z), stream, pool.args);
}

bool is_aligned(const void* tensor) { return reinterpret_cast<uintptr_t>(tensor) % kChunkBytes == 0; }

}  // namespace

MaxPool::MaxPool(const Problem& p, DataType type) : type_(type) {
  const int chunk = kChunkBytes / int(size_of(type));
  channels_are_chunks_ = p.filter.C % chunk == 0;
  const int64_t rows = p.N * p.output[0] * p.output[1];
  if (rows * p.output[2] * p.filter.C == 0) return;  // there is nothing to launch
  if (rows > INT32_MAX) throw Error("the pool is too large: its output has more than 2^31 rows");
  MaxPoolArgs args{};
  args.input = to_int3(p.input), args.output = to_int3(p.output), args.window = to_int3(p.filter.extent);
  args.stride = to_int3(p.stride), args.dilation = to_int3(p.dilation), args.pad = to_int3(p.pad);
  args.C = int(p.filter.C), args.rows = unsigned(rows);
  if (channels_are_chunks_) by_chunks_ = plan_launch(args, chunk);
  by_elements_ = plan_launch(args, 1);
}

void MaxPool::run(const void* x, void* y, Stream stream) const {
  const bool by_chunks = channels_are_chunks_ && is_aligned(x) && is_aligned(y);
  MaxPoolLaunch pool = by_chunks ? by_chunks_ : by_elements_;
  pool.args.x = x, pool.args.y = y;
  with_type(type_, [&]<class T>(T*) {
    by_chunks ? launch_pool<T, kChunk<T>>(pool, stream) : launch_pool<T, 1>(pool, stream);
  });
}

}  // namespace cks::cuda
