// MaxPool, channels last. A thread takes 16 bytes of channels of one output, or of two along w where windows are two
// wide; neighbouring threads are neighbours along channels, then along w.
//
// The memory bounds it. At 4.8 TB/s and a latency of some 800 ns, 3.8 MB have to be on their way, 29 KB for each of an
// H200's 132 multiprocessors. A thread waits for 3 or 4 loads at once, and a multiprocessor holds 1024 threads or more:
// 48 KB.
#include <algorithm>

#include "ops_cuda/device_plan.h"
#include "ops_cuda/element.cuh"
#include "ops_cuda/error.h"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/max_pool.h"

namespace cks::cuda {
namespace {

constexpr int kThreads = 256;
// Of a thread, by how many taps of a row of the window it takes at a time. More share no loads, and leave fewer
// threads.
template <int kTaps>
constexpr int kOutputs = kTaps == 2 ? 2 : 1;
constexpr int kMostColumns = 32, kMostThreadsDeep = 64;

// A thread block covers blockDim = (chunks of channels, outputs along w, rows of outputs); a row is one of any image
// and plane.
struct MaxPoolArgs {
  const void* x;
  void* y;
  Int3 input, output, window, stride, dilation, pad;
  int32_t C;
  uint32_t column_blocks, strip_blocks, rows;
};

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
  constexpr int kOutputs = cuda::kOutputs<kTaps>;
  using Load = Elements<T, kVector>;
  using Raw = typename Load::Raw;
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

template <class T, int kVector, int kTaps>
void launch_pool(MaxPoolArgs args, Stream stream) {
  const int64_t columns = args.C / kVector, strips = ceil_div(args.output.w, kOutputs<kTaps>);
  args.column_blocks = unsigned(ceil_div(columns, kMostColumns));
  dim3 threads;
  threads.x = unsigned(ceil_div(columns, args.column_blocks));
  // Up to four rows first: windows that overlap share lines in L1.
  threads.z = std::min(4u, args.rows);
  threads.y = unsigned(std::min<int64_t>(strips, kThreads / (threads.x * threads.z)));
  threads.z = std::min({args.rows, unsigned(kThreads) / (threads.x * threads.y), unsigned(kMostThreadsDeep)});
  args.strip_blocks = unsigned(ceil_div(strips, threads.y));
  const int64_t blocks = ceil_div(args.rows, threads.z) * args.strip_blocks * args.column_blocks;
  if (blocks > INT32_MAX) throw Error("the pool is too large: its output has more than 2^31 tiles");
  launch("launching the pool", max_pool<T, kVector, kTaps>, dim3(unsigned(blocks)), threads, stream, args);
}

template <class T, int kVector>
void launch_by_window(const MaxPoolArgs& args, Stream stream) {
  if (args.window.w <= 2 || args.window.w == 4)
    launch_pool<T, kVector, 2>(args, stream);
  else
    launch_pool<T, kVector, 3>(args, stream);
}

template <class T>
void launch_as(const MaxPoolArgs& args, Stream stream) {
  const auto aligned = [](const void* tensor) { return reinterpret_cast<uintptr_t>(tensor) % kChunkBytes == 0; };
  if (args.C % kChunk<T> == 0 && aligned(args.x) && aligned(args.y))
    launch_by_window<T, kChunk<T>>(args, stream);
  else
    launch_by_window<T, 1>(args, stream);
}

}  // namespace

void MaxPool::run(const void* x, void* y, Stream stream) const {
  const Problem& p = problem_;
  const int64_t rows = p.N * p.output[0] * p.output[1];
  if (rows > INT32_MAX) throw Error("the pool is too large: its output has more than 2^31 rows");
  MaxPoolArgs args{};
  args.x = x, args.y = y;
  args.input = to_int3(p.input), args.output = to_int3(p.output), args.window = to_int3(p.filter.extent);
  args.stride = to_int3(p.stride), args.dilation = to_int3(p.dilation), args.pad = to_int3(p.pad);
  args.C = int(p.filter.C), args.rows = unsigned(rows);
  switch (type_) {
    case DataType::kFloat:
      return launch_as<float>(args, stream);
    case DataType::kHalf:
      return launch_as<__half>(args, stream);
    case DataType::kBFloat16:
      return launch_as<__nv_bfloat16>(args, stream);
  }
}

}  // namespace cks::cuda
