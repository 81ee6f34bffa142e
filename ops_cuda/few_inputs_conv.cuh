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
      const int element = (q.d * args.stride.d * args.patch.h + q.h * args.stride.h) * args.row_pitch +
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
#pragma unroll 4
    for (int i = threadIdx.x; i < args_.steps * 8 * kColumns; i += kFewInputsThreads) {
      const int lane = i / 4 % 32, pair = i / 128 % (kTiles / 2), step = i / 128 / (kTiles / 2);
      const int column = lane / 8 * kOwn + 2 * (2 * pair + i / 2 % 2) + lane / 4 % 2;
      const int4 word = __ldg(reinterpret_cast<const int4*>(args_.words) + step * 8 + lane % 4 + i % 2 * 4);
      const int weight[2] = {word.z, word.w};
      union {
        uint32_t word;
        T element[kPerWord];
      } value{0};
#pragma unroll
      for (int j = 0; j < kPerWord; ++j)
        if (weight[j] >= 0 && column < columns)
          value.element[j] = filter[weight[j] + int64_t(column) * args_.filter_pitch];
      filter_[i] = value.word;
    }
    for (int i = threadIdx.x; i < args_.steps * 4; i += kFewInputsThreads) {
      const int4* const words = reinterpret_cast<const int4*>(args_.words) + i / 4 * 8 + i % 4;
      const int4 low = __ldg(words), high = __ldg(words + 4);
      table_[i] = make_int4(low.x, low.y, high.x, high.y);
    }
  }

  // The patch whose first pixel is `corner` of image n; zeros outside the image.
  __device__ void load_patch(int n, const Int3& corner) {
    switch (args_.source) {
      case PatchSource::kPixels:
        return load_rows(args_.patch.w * args_.C, args_.patch.h * args_.patch.d, [&](int row, int i) {
          const int64_t from = image_row(n, corner, row);
          const int at = corner.w * args_.C + i;
          return Copy<T>{from >= 0 && unsigned(at) < unsigned(args_.input.w * args_.C) ? from * args_.C + at : -1,
                         row * args_.row_pitch + i};
        });
      case PatchSource::kSlices:
        return load_rows(args_.patch.w * args_.slice_c, args_.patch.h * args_.patch.d, [&](int row, int i) {
          return pixel_part<T>(image_row(n, corner, row), corner.w, row, i / args_.slice_c, i % args_.slice_c);
        });
      case PatchSource::kChunks: {
        const int chunks = args_.slice_c / kChunk<T>;
        return load_rows(args_.patch.w * chunks, args_.patch.h * args_.patch.d, [&](int row, int i) {
          return pixel_part<uint4>(image_row(n, corner, row), corner.w, row, i / chunks, i % chunks * kChunk<T>);
        });
      }
      case PatchSource::kPlanes:
        return load_rows(args_.patch.w, args_.patch.h * args_.patch.d * args_.slice_c, [&](int row, int i) {
          const int c = row % args_.slice_c, line = row / args_.slice_c;
          const Int3 p{corner.d + line / args_.patch.h, corner.h + line % args_.patch.h, corner.w + i};
          const int64_t plane = int64_t(n) * args_.C + slice_ * args_.slice_c + c;
          const int64_t pixels = int64_t(args_.input.d) * args_.input.h * args_.input.w;
          return Copy<T>{inside(args_.input, p) ? plane * pixels + pixel_index(args_.input, p) : -1,
                         line * args_.row_pitch + i * args_.pixel_pitch + c};
        });
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
  __device__ Int3 in_box(int row) const {
    const Int3 log2 = args_.box_log2;
    return {row >> (log2.w + log2.h), row >> log2.w & ((1 << log2.h) - 1), row & ((1 << log2.w) - 1)};
  }

  // Sum of row_[r] and own channel j.
  __device__ float sum(int r, int j) const { return sum_[r / 2][j / 2][r % 2 * 2 + j % 2]; }

  // Index of the first pixel of the image row that row `line` of the patch is, or -1 outside.
  __device__ int64_t image_row(int n, const Int3& corner, int line) const {
    const Int3 p{corner.d + line / args_.patch.h, corner.h + line % args_.patch.h, 0};
    if (!inside(args_.input, p)) return -1;
    return int64_t(n) * args_.input.d * args_.input.h * args_.input.w + pixel_index(args_.input, p);
  }

  template <class Unit>
  __device__ Copy<Unit> pixel_part(int64_t image_row, int first_w, int row, int pixel, int c) const {
    const int w = first_w + pixel;
    const bool valid = image_row >= 0 && unsigned(w) < unsigned(args_.input.w);
    return {valid ? (image_row + w) * args_.C + slice_ * args_.slice_c + c : -1,
            row * args_.row_pitch + pixel * args_.pixel_pitch + c};
  }

  template <class F>
  __device__ void load_rows(int length, int rows, F copy_of) {
    copy_rows<kFewInputsThreads>(static_cast<const T*>(args_.x), length, rows, args_.row_threads, copy_of,
                                 [&](int at, auto unit) { put(at, unit); });
  }

  __device__ void put(int at, T v) {
    if constexpr (sizeof(T) == 4) {
      patch_[at] = Math::prepare(__float_as_uint(v));
    } else {
      T* const patch = reinterpret_cast<T*>(patch_);
      patch[at] = v;
      if (args_.shifted && at > 0) patch[2 * args_.patch_words + at - 1] = v;
    }
  }
  __device__ void put(int at, uint4 v) {
    if constexpr (sizeof(T) == 4) v = {Math::prepare(v.x), Math::prepare(v.y), Math::prepare(v.z), Math::prepare(v.w)};
    *reinterpret_cast<uint4*>(patch_ + at / kPerWord) = v;
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
  for (int64_t tile = blockIdx.x; tile < args.num_tiles; tile += gridDim.x) {
    int64_t rest = tile;
    Int3 origin;
    origin.w = int(rest % args.tiles.w) << args.box_log2.w, rest /= args.tiles.w;
    origin.h = int(rest % args.tiles.h) << args.box_log2.h, rest /= args.tiles.h;
    origin.d = int(rest % args.tiles.d) << args.box_log2.d;
    const int n = int(rest / args.tiles.d);
    __syncthreads();  // all have left the patch of the tile before
    block.load_patch(n, {origin.d * args.stride.d - args.pad.d, origin.h * args.stride.h - args.pad.h,
                         origin.w * args.stride.w - args.pad.w});
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
