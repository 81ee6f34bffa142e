// Convolutions with few input channels (of a group), on tensor cores. A thread block keeps the filter in shared memory
// for all its tiles; the patch of a tile is copied there as it is, and fragments are read straight from it, one word a
// (tap, channel) pair as the plan lists them: no im2col is written, and nothing but the last step is padded.
#pragma once
#include "ops_cuda/epilogue.cuh"
#include "ops_cuda/few_inputs.h"
#include "ops_cuda/fragments.cuh"
#include "ops_cuda/patch_copy.cuh"
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
    // In the order of fragments, [step][pair][lane][word]: a lane reads the words of two tiles of 8 channels at once. A
    // thread fills the same word of the same lane of all of them.
    static_assert(kFewInputsThreads == 4 * 32);
    const int lane = threadIdx.x / 4, word = threadIdx.x % 4;
    const int4* const places = reinterpret_cast<const int4*>(args_.words) + lane % 4 + word % 2 * 4;
    int weights[kTiles / 2];  // of each pair's output channel, from the first of the block; -1: no such channel
#pragma unroll
    for (int pair = 0; pair < kTiles / 2; ++pair) {
      const int j = 2 * (2 * pair + word / 2) + lane / 4 % 2, column = own_column(j, lane / 8);
      weights[pair] = column < args_.slice_k - first_column_ ? column * args_.filter_pitch : -1;
    }
#pragma unroll 4
    for (int step = 0; step < args_.steps; ++step) {
      const int4 place = __ldg(places + step * 8);
      const int from[2] = {place.z, place.w};
#pragma unroll
      for (int pair = 0; pair < kTiles / 2; ++pair) {
        Pair value;
        value.word = 0;
#pragma unroll
        for (int j = 0; j < kPerWord; ++j)
          if (from[j] >= 0 && weights[pair] >= 0) value.element[j] = __ldg(filter + (weights[pair] + from[j]));
        filter_[(step * (kTiles / 2) + pair) * 128 + threadIdx.x] = value.word;
      }
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
    const int64_t image = int64_t(n) * args_.C * args_.input.d * args_.input.h * args_.input.w;
    // A row of the patch as pixels, `C` channels apart in x.
    const auto line_at = [&](int line) {
      const int d = args_.patch_h.quotient(line), h = corner.h + line - d * args_.patch.h;
      const bool valid = unsigned(corner.d + d) < unsigned(args_.input.d) && unsigned(h) < unsigned(args_.input.h);
      return RowPlace{
          image + int64_t((corner.d + d) * args_.input.h + h) * (args_.input.w * args_.C) + slice_ * args_.slice_c,
          args_.origin + line * args_.row_pitch, valid};
    };
    // A row of a plane.
    const auto plane_row_at = [&](int row) {
      const int line = args_.parts.quotient(row), c = row - line * args_.slice_c;
      const int d = args_.patch_h.quotient(line), h = corner.h + line - d * args_.patch.h;
      const bool valid = unsigned(corner.d + d) < unsigned(args_.input.d) && unsigned(h) < unsigned(args_.input.h);
      const int plane = (slice_ * args_.slice_c + c) * args_.input.d + corner.d + d;
      return RowPlace{image + (int64_t(plane) * args_.input.h + h) * args_.input.w,
                      args_.origin + line * args_.row_pitch + c, valid};
    };
    // Parts of pixels, args.parts of them, of `size` elements.
    const auto part_at = [&](int i, int size) {
      const int pixel = args_.parts.quotient(i), c = (i - pixel * args_.parts.divisor) * size, w = corner.w + pixel;
      return UnitPlace{w * args_.C + c, pixel * args_.pixel_pitch + c, unsigned(w) < unsigned(args_.input.w)};
    };
    // Chunk i of a row of `length` elements of x, of which `first` is the patch's first; in the patch they lie
    // `stretch` apart.
    const auto chunk_at = [&](int i, int first, int length, int stretch) {
      const int at = first - args_.lead + i * kChunk<T>;
      return UnitPlace{at, (i * kChunk<T> - args_.lead) * stretch, unsigned(at) < unsigned(length)};
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
              return UnitPlace{w, i * args_.pixel_pitch, unsigned(w) < unsigned(args_.input.w)};
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
      uint32_t words[2][4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        words[r / 2][r % 2] = patch_[base_[r] + place.x] & uint32_t(place.y);
        words[r / 2][r % 2 + 2] = patch_[base_[r] + place.z] & uint32_t(place.w);
      }
      const Fragment<Math, 4> a[2] = {Fragment<Math, 4>(words[0]), Fragment<Math, 4>(words[1])};
#pragma unroll
      for (int pair = 0; pair < kTiles / 2; ++pair) {
        const uint4 b = reinterpret_cast<const uint4*>(filter_)[(step * (kTiles / 2) + pair) * 32 + lane];
        const Fragment<Math, 2> even({b.x, b.y}), odd({b.z, b.w});
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          cks::cuda::multiply(sum_[i][2 * pair], a[i], even);
          cks::cuda::multiply(sum_[i][2 * pair + 1], a[i], odd);
        }
      }
    }
  }

  __device__ void store(int n, const Int3& origin) {
    const Epilogue& e = args_.epilogue;
    const int64_t pixels = int64_t(args_.output.d) * args_.output.h * args_.output.w;
    const int first_k = slice_ * args_.slice_k + first_column_;
    T* y[4];  // of each row, at the first channel of the block
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const Int3 p = origin + in_box(row_[r]);
      const int64_t pixel = (p.d * args_.output.h + p.h) * int64_t(args_.output.w) + p.w;
      const int64_t at = args_.channels_first ? (int64_t(n) * args_.K + first_k) * pixels + pixel
                                              : (n * pixels + pixel) * args_.K + first_k;
      y[r] = inside(args_.output, p) ? static_cast<T*>(e.y) + at : nullptr;
    }
    if (e.bias) {
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        if (own_column(j) >= args_.slice_k - first_column_) continue;
        const float bias = to_float(static_cast<const T*>(e.bias)[first_k + own_column(j)]);
#pragma unroll
        for (int r = 0; r < 4; ++r) sum(r, j) += bias;
      }
    }
    if (e.residual) {
      const T* const residual = static_cast<const T*>(e.residual);
      visit(y, pixels, [&](auto& v, const T* at) { add_neighbours(v, residual + (at - static_cast<T*>(e.y))); });
    }
    if (e.kind == ActivationKind::kRelu) {
      visit_all([](float v) { return v < 0.f ? 0.f : v; });
    } else if (e.kind != ActivationKind::kNone) {
      visit_all([&](float v) { return activated(e.kind, e.alpha, e.beta, v); });
    }
    visit(y, pixels, [&](const auto& v, T* at) { store_neighbours(v, at); });
  }

 private:
  union Pair {
    uint32_t word;
    T element[kPerWord];
    __device__ Pair() {}
  };

  __device__ Int3 in_box(int row) const {
    const Int3 log2 = args_.box_log2;
    return {row >> (log2.w + log2.h), row >> log2.w & ((1 << log2.h) - 1), row & ((1 << log2.w) - 1)};
  }

  // Sum of row_[r] and the thread's channel j, which is own_column(j) of the block: chunks of the lanes of a quad are
  // neighbours.
  __device__ float& sum(int r, int j) { return sum_[r / 2][j / 2][r % 2 * 2 + j % 2]; }
  __device__ static int own_column(int j, int lane_of_quad) {
    return j / kVector * 4 * kVector + lane_of_quad * kVector + j % kVector;
  }
  __device__ static int own_column(int j) { return own_column(j, threadIdx.x % 4); }

  template <class F>
  __device__ void visit_all(F f) {
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int j = 0; j < kOwn; ++j) sum(r, j) = f(sum(r, j));
  }

  // f(values, where in y) for what lies side by side there: channels of a pixel, four pixels of a channel, or (where
  // whole words cannot be moved) one value at a time.
  template <class F>
  __device__ void visit(T* const (&y)[4], int64_t pixels, F f) {
    const int columns = args_.slice_k - first_column_;
    if (args_.neighbours && !args_.channels_first) {
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int first = 0; first < kOwn; first += kVector) {
          if (!y[r] || own_column(first) >= columns) continue;
          float v[kVector];
#pragma unroll
          for (int j = 0; j < kVector; ++j) v[j] = sum(r, first + j);
          f(v, y[r] + own_column(first));
#pragma unroll
          for (int j = 0; j < kVector; ++j) sum(r, first + j) = v[j];
        }
    } else if (args_.neighbours) {  // the four pixels are inside or outside together
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        if (!y[0] || own_column(j) >= columns) continue;
        float v[4] = {sum(0, j), sum(1, j), sum(2, j), sum(3, j)};
        f(v, y[0] + own_column(j) * pixels);
#pragma unroll
        for (int r = 0; r < 4; ++r) sum(r, j) = v[r];
      }
    } else {
      const int64_t stride = args_.channels_first ? pixels : 1;
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          if (!y[r] || own_column(j) >= columns) continue;
          float v[1] = {sum(r, j)};
          f(v, y[r] + own_column(j) * stride);
          sum(r, j) = v[0];
        }
    }
  }

  template <class Unit, class RowAt, class UnitAt, class Put>
  __device__ void load_rows(int rows, RowAt row_at, UnitAt unit_at, Put put) {
    copy_rows<kFewInputsThreads, Unit>(static_cast<const T*>(args_.x), args_.row_units, rows, row_at, unit_at, put);
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
