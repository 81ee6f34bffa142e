// Convolutions with few input channels (of a group), on tensor cores. A thread block keeps the filter in shared memory
// for all its tiles; the patch of a tile is copied there as it is, and fragments are read straight from it, one word a
// (tap, channel) pair as the plan lists them: no im2col is written, and nothing but the last step is padded.
#pragma once
#include "ops_cuda/epilogue.cuh"
#include "ops_cuda/few_inputs.h"
#include "ops_cuda/patch_copy.cuh"
#include "ops_cuda/split_tf32.cuh"
#include "ops_cuda/work_tile.cuh"

namespace cks::cuda {

template <class Math, int kColumns>
class FewInputsBlock {
  using T = typename Math::Element;
  static constexpr int kPerWord = 4 / int(sizeof(T));
  static constexpr int kTiles = kColumns / 8;  // of 8 output channels
  static constexpr int kOwn = 2 * kTiles;      // output channels of a thread, contiguous
  static constexpr int kVector = kOwn < kChunk<T> ? kOwn : kChunk<T>;

 public:
  __device__ FewInputsBlock(const FewInputsArgs& args, char* shared)
      : args_(args), filter_(reinterpret_cast<uint32_t*>(shared)) {
    table_ = reinterpret_cast<int4*>(filter_ + args.steps * 8 * kColumns);
    patch_ = reinterpret_cast<uint32_t*>(table_ + args.steps * 4);
    slice_ = blockIdx.y / args.column_blocks;
    first_column_ = blockIdx.y % args.column_blocks * kColumns;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      row_[r] = warp * 32 + (args.channels_first ? lane / 4 * 4 + r : lane / 4 + 8 * r);
      const Int3 q = in_box(row_[r]);
      const int element = args.origin + (q.d * args.stride.d * args.patch.h + q.h * args.stride.h) * args.row_pitch +
                          q.w * args.stride.w * args.pixel_pitch;
      base_[r] = element / kPerWord + element % kPerWord * args.patch_words;
    }
  }

  __device__ void load_filter() {
    const int part = slice_ % args_.slices_together;
    const T* const filter = static_cast<const T*>(args_.filter) +
                            (int64_t(slice_ / args_.slices_together) * args_.filter_taps * args_.packed_k +
                             part * args_.slice_k + first_column_) *
                                args_.filter_pitch +
                            part * args_.slice_c;
    const int columns = args_.slice_k - first_column_;
    // In the order of fragments: a lane reads the words of two tiles of 8 channels at once.
    constexpr int kBatch = 8;  // loads that wait together
    const int count = args_.steps * 8 * kColumns;
    for (int start = threadIdx.x; start < count; start += kBatch * kFewInputsThreads) {
      int weight[kBatch][2];
      Pair value[kBatch];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int i = start + b * kFewInputsThreads;
        const int step = i / 128 / (kTiles / 2), lane = i / 4 % 32;
        weight[b][0] = weight[b][1] = -1;
        if (i >= count || column_of(i) >= columns) continue;
        const int4 word = __ldg(reinterpret_cast<const int4*>(args_.words) + step * 8 + lane % 4 + i % 2 * 4);
        weight[b][0] = word.z, weight[b][1] = word.w;
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        value[b].word = 0;
#pragma unroll
        for (int j = 0; j < kPerWord; ++j)
          if (weight[b][j] >= 0)
            value[b].element[j] =
                __ldg(filter + weight[b][j] + column_of(start + b * kFewInputsThreads) * args_.filter_pitch);
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b)
        if (start + b * kFewInputsThreads < count) filter_[start + b * kFewInputsThreads] = value[b].word;
    }
    for (int i = threadIdx.x; i < args_.steps * 4; i += kFewInputsThreads) {
      const int4* const words = reinterpret_cast<const int4*>(args_.words) + i / 4 * 8 + i % 4;
      const int4 low = __ldg(words), high = __ldg(words + 4);
      table_[i] = make_int4(low.x, low.y, high.x, high.y);
    }
  }

  // The patch whose first pixel is `corner` of image n; zeros outside the image.
  template <bool kShifted>
  __device__ void load_patch(int n, const Int3& corner) {
    const int lines = args_.patch.h * args_.patch.d;
    // A row of the patch as pixels, `C` channels apart in x.
    const auto line_at = [&](int line) {
      const int d = args_.patch_h.quotient(line);
      const Int3 p{corner.d + d, corner.h + line - d * args_.patch.h, 0};
      const int64_t pixels = int64_t(args_.input.d) * args_.input.h * args_.input.w;
      const int64_t first = n * pixels + pixel_index(args_.input, p);
      return RowPlace{inside(args_.input, p) ? first * args_.C + slice_ * args_.slice_c : -1, line * args_.row_pitch};
    };
    // A row of a plane.
    const auto plane_row_at = [&](int row) {
      const int line = args_.parts.quotient(row), c = row - line * args_.slice_c, d = args_.patch_h.quotient(line);
      const Int3 p{corner.d + d, corner.h + line - d * args_.patch.h, 0};
      const int64_t pixels = int64_t(args_.input.d) * args_.input.h * args_.input.w;
      const int64_t plane = int64_t(n) * args_.C + slice_ * args_.slice_c + c;
      return RowPlace{inside(args_.input, p) ? plane * pixels + pixel_index(args_.input, p) : -1,
                      line * args_.row_pitch + c};
    };
    // Parts of pixels, args.parts of them, of `size` elements.
    const auto part_at = [&](int i, int size) {
      const int pixel = args_.parts.quotient(i), c = (i - pixel * args_.parts.divisor) * size, w = corner.w + pixel;
      return UnitPlace{w * args_.C + c, args_.origin + pixel * args_.pixel_pitch + c,
                       unsigned(w) < unsigned(args_.input.w)};
    };
    // Chunk i of a row of `length` elements of x, of which `first` is the patch's first; in the patch they lie
    // `stretch` apart.
    const auto chunk_at = [&](int i, int first, int length, int stretch) {
      const int at = first - args_.lead + i * kChunk<T>;
      return UnitPlace{at, args_.origin + (i * kChunk<T> - args_.lead) * stretch, unsigned(at) < unsigned(length)};
    };
    switch (args_.source) {
      case PatchSource::kChunks:
        return load_rows<uint4>(
            lines, line_at, [&](int i) { return part_at(i, kChunk<T>); },
            [&](int at, uint4 v) { *reinterpret_cast<uint4*>(patch_ + at / kPerWord) = prepared(v); });
      case PatchSource::kRuns:
        return load_rows<uint4>(
            lines, line_at, [&](int i) { return chunk_at(i, corner.w * args_.C, args_.input.w * args_.C, 1); },
            [&](int at, uint4 v) {
              put_run(patch_, at, v);
              if constexpr (kShifted) put_run(patch_ + args_.patch_words, at - 1, v);
            });
      case PatchSource::kPlaneRuns:
        return load_rows<uint4>(
            lines * args_.slice_c, plane_row_at,
            [&](int i) { return chunk_at(i, corner.w, args_.input.w, args_.pixel_pitch); },
            [&](int at, uint4 v) {
              const Chunk chunk{v};
#pragma unroll
              for (int j = 0; j < kChunk<T>; ++j) put<kShifted>(at + j * args_.pixel_pitch, chunk.element[j]);
            });
      case PatchSource::kElements:
        return load_rows<T>(
            lines, line_at, [&](int i) { return part_at(i, 1); }, [&](int at, T v) { put<kShifted>(at, v); });
      case PatchSource::kPlanes:
        return load_rows<T>(
            lines * args_.slice_c, plane_row_at,
            [&](int i) {
              const int w = corner.w + i;
              return UnitPlace{w, args_.origin + i * args_.pixel_pitch, unsigned(w) < unsigned(args_.input.w)};
            },
            [&](int at, T v) { put<kShifted>(at, v); });
    }
  }

  __device__ void multiply() {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < kTiles; ++j)
#pragma unroll
        for (int v = 0; v < 4; ++v) sum_[i][j][v] = 0;
    for (int step = 0; step < args_.steps; ++step) {
      const int4 place = table_[step * 4 + lane % 4];
      uint32_t a[2][4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        a[r / 2][r % 2] = patch_[base_[r] + place.x] & uint32_t(place.y);
        a[r / 2][r % 2 + 2] = patch_[base_[r] + place.z] & uint32_t(place.w);
      }
#pragma unroll
      for (int pair = 0; pair < kTiles / 2; ++pair) {
        const uint4 b = reinterpret_cast<const uint4*>(filter_)[(step * (kTiles / 2) + pair) * 32 + lane];
        const uint32_t even[2] = {b.x, b.y}, odd[2] = {b.z, b.w};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Math::multiply(sum_[i][2 * pair], a[i], even);
          Math::multiply(sum_[i][2 * pair + 1], a[i], odd);
        }
      }
    }
  }

  __device__ void store(int n, const Int3& origin) const {
    const int column = threadIdx.x % 4 * kOwn;
    const int columns = min(args_.slice_k - first_column_ - column, kOwn);
    const int64_t k = int64_t(slice_) * args_.slice_k + first_column_ + column;
    const int64_t pixels = int64_t(args_.output.d) * args_.output.h * args_.output.w;
    const bool neighbours = args_.neighbours;
    int64_t pixel[4];
    bool valid[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const Int3 p = origin + in_box(row_[r]);
      valid[r] = inside(args_.output, p);
      pixel[r] = pixel_index(args_.output, p);
    }
    if (neighbours && !args_.channels_first) {
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int first = 0; first < kOwn; first += kVector) {
          float v[kVector];
#pragma unroll
          for (int j = 0; j < kVector; ++j) v[j] = sum(r, first + j);
          if (valid[r] && first < columns)
            store_neighbours<T, Along::kChannels, Activations::kCalls>(args_.epilogue, v, k + first,
                                                                       (n * pixels + pixel[r]) * args_.K + k + first);
        }
    } else if (neighbours) {  // four pixels along w, which are inside or outside together
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        float v[4] = {sum(0, j), sum(1, j), sum(2, j), sum(3, j)};
        if (valid[0] && j < columns)
          store_neighbours<T, Along::kPixels, Activations::kCalls>(args_.epilogue, v, k + j,
                                                                   (int64_t(n) * args_.K + k + j) * pixels + pixel[0]);
      }
    } else {
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int j = 0; j < kOwn; ++j)
          if (valid[r] && j < columns)
            store_output_by_call<T>(args_.epilogue, sum(r, j), k + j,
                                    args_.channels_first ? (int64_t(n) * args_.K + k + j) * pixels + pixel[r]
                                                         : (n * pixels + pixel[r]) * args_.K + k + j);
    }
  }

 private:
  union Pair {
    uint32_t word;
    T element[kPerWord];
    __device__ Pair() {}
  };

  // The output channel of word i of the filter in shared memory, in the block.
  __device__ static int column_of(int i) {
    const int lane = i / 4 % 32, pair = i / 128 % (kTiles / 2);
    return lane / 8 * kOwn + 2 * (2 * pair + i / 2 % 2) + lane / 4 % 2;
  }

  __device__ Int3 in_box(int row) const {
    const Int3 log2 = args_.box_log2;
    return {row >> (log2.w + log2.h), row >> log2.w & ((1 << log2.h) - 1), row & ((1 << log2.w) - 1)};
  }

  // Sum of row_[r] and own channel j.
  __device__ float sum(int r, int j) const { return sum_[r / 2][j / 2][r % 2 * 2 + j % 2]; }

  template <class Unit, class RowAt, class UnitAt, class Put>
  __device__ void load_rows(int rows, RowAt row_at, UnitAt unit_at, Put put) {
    copy_rows<kFewInputsThreads, Unit>(static_cast<const T*>(args_.x), args_.row_units, rows, args_.row_threads_log2,
                                       unit_at, row_at, put);
  }

  union Chunk {
    uint4 words;
    T element[kChunk<T>];
    __device__ explicit Chunk(uint4 v) : words(v) {}
  };

  __device__ static uint4 prepared(uint4 v) {
    if constexpr (sizeof(T) == 2) return v;
    return {Math::prepare(v.x), Math::prepare(v.y), Math::prepare(v.z), Math::prepare(v.w)};
  }

  template <bool kShifted>
  __device__ void put(int at, T v) {
    if constexpr (sizeof(T) == 4) {
      patch_[at] = Math::prepare(__float_as_uint(v));
    } else {
      T* const patch = reinterpret_cast<T*>(patch_);
      patch[at] = v;
      if constexpr (kShifted) patch[2 * args_.patch_words + at - 1] = v;
    }
  }

  // A chunk to neighbouring elements, which may begin within a word.
  __device__ static void put_run(uint32_t* patch, int at, uint4 v) {
    v = prepared(v);
    uint32_t* const words = patch + at / kPerWord;
    if (at % kPerWord == 0) {
      words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    } else {
      uint16_t* const halves = reinterpret_cast<uint16_t*>(patch) + at;
      halves[0] = uint16_t(v.x), halves[7] = uint16_t(v.w >> 16);
      words[1] = __funnelshift_r(v.x, v.y, 16), words[2] = __funnelshift_r(v.y, v.z, 16);
      words[3] = __funnelshift_r(v.z, v.w, 16);
    }
  }

  const FewInputsArgs& args_;
  uint32_t *filter_, *patch_;
  int4* table_;
  int slice_, first_column_;
  int row_[4], base_[4];  // the thread's rows of the tile, and their words of the patch
  float sum_[2][kTiles][4];
};

template <class Math, int kColumns>
__global__ void __launch_bounds__(kFewInputsThreads, 4) few_inputs_conv(const __grid_constant__ FewInputsArgs args) {
  extern __shared__ __align__(16) char shared[];
  FewInputsBlock<Math, kColumns> block(args, shared);
  block.load_filter();
  for (unsigned tile = blockIdx.x; tile < args.num_tiles; tile += gridDim.x) {
    unsigned rest = tile;
    Int3 origin;
    origin.w = int(rest % unsigned(args.tiles.w)) << args.box_log2.w, rest /= unsigned(args.tiles.w);
    origin.h = int(rest % unsigned(args.tiles.h)) << args.box_log2.h, rest /= unsigned(args.tiles.h);
    origin.d = int(rest % unsigned(args.tiles.d)) << args.box_log2.d;
    const int n = int(rest / unsigned(args.tiles.d));
    __syncthreads();  // all have left the patch of the tile before
    const Int3 corner{origin.d * args.stride.d - args.pad.d, origin.h * args.stride.h - args.pad.h,
                      origin.w * args.stride.w - args.pad.w};
    if (sizeof(typename Math::Element) == 2 && args.shifted)
      block.template load_patch<true>(n, corner);
    else
      block.template load_patch<false>(n, corner);
    __syncthreads();
    block.multiply();
    block.store(n, origin);
  }
}

template <class Math>
const void* few_inputs_kernel(int columns) {
  return columns == 16   ? reinterpret_cast<const void*>(&few_inputs_conv<Math, 16>)
         : columns == 32 ? reinterpret_cast<const void*>(&few_inputs_conv<Math, 32>)
                         : reinterpret_cast<const void*>(&few_inputs_conv<Math, 64>);
}

}  // namespace cks::cuda
