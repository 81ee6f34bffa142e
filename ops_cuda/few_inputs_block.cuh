// What the kernels for few input channels (of a group) share: teams of kWarps warps, each with 16 rows of kRowTiles
// tiles of output pixels times kColumns output channels in registers; where patches lie in x, how they are copied, and
// how sums are stored. Tiles are multiplied by one warp each, or (wgmma) by four. A thread block is one team, or
// (wgmma) a few that share the filter.
#pragma once
#include "ops_cuda/epilogue.cuh"
#include "ops_cuda/few_inputs.h"
#include "ops_cuda/fragments.cuh"
#include "ops_cuda/patch_copy.cuh"
#include "ops_cuda/work_tile.cuh"

namespace cks::cuda {

template <class Math, int kColumns, int kWarps, int kRowTiles, int kTogether = 1>
class FewInputsBlock {
 public:
  static constexpr int kThreads = 32 * kWarps;  // of a team

  // A tile of output pixels, and the first input pixel of its patch.
  struct Tile {
    int n;
    Int3 origin, corner;
  };
  __device__ Tile tile_at(unsigned rest) const {
    Tile tile;
    Int3& origin = tile.origin;
    origin.w = int(rest % unsigned(args_.tiles.w)) << args_.box_log2.w, rest /= unsigned(args_.tiles.w);
    origin.h = int(rest % unsigned(args_.tiles.h)) << args_.box_log2.h, rest /= unsigned(args_.tiles.h);
    origin.d = int(rest % unsigned(args_.tiles.d)) << args_.box_log2.d;
    tile.n = int(rest / unsigned(args_.tiles.d));
    tile.corner = {origin.d * args_.stride.d - args_.pad.d, origin.h * args_.stride.h - args_.pad.h,
                   origin.w * args_.stride.w - args_.pad.w};
    return tile;
  }

  __device__ void store(const Tile& tile) {
    const Epilogue& e = args_.epilogue;
    const int64_t pixels = int64_t(args_.output.d) * args_.output.h * args_.output.w;
    const int first_k = slice_ * args_.slice_k + first_column_;
    T* y[kRows];  // of each row, at the first channel of the block
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Int3 p = tile.origin + in_box(own_row(r));
      const int64_t pixel = (p.d * args_.output.h + p.h) * int64_t(args_.output.w) + p.w;
      const int64_t at = args_.channels_first ? (int64_t(tile.n) * args_.K + first_k) * pixels + pixel
                                              : (tile.n * pixels + pixel) * args_.K + first_k;
      y[r] = inside(args_.output, p) ? static_cast<T*>(e.y) + at : nullptr;
    }
    if (e.bias) {
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        if (own_column(j) >= args_.slice_k - first_column_) continue;
        const float bias = to_float(static_cast<const T*>(e.bias)[first_k + own_column(j)]);
#pragma unroll
        for (int r = 0; r < kRows; ++r) sum(r, j) += bias;
      }
    }
    if (e.residual) {
      const T* const residual = static_cast<const T*>(e.residual);
      visit(y, pixels,
            [&](auto& v, const T* at) { add_neighbours(v, residual + (at - static_cast<T*>(e.y)), e.residual_slope); });
    }
    if (e.kind == ActivationKind::kRelu) {
      visit_all([](float v) { return v < 0.f ? 0.f : v; });
    } else if (e.kind == ActivationKind::kLeakyRelu) {
      visit_all([&](float v) { return leaky_relu(v, e.alpha); });
    } else if (e.slopes) {
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        if (own_column(j) >= args_.slice_k - first_column_) continue;
        const float slope = e.slopes[first_k + own_column(j)];
#pragma unroll
        for (int r = 0; r < kRows; ++r) sum(r, j) = leaky_relu(sum(r, j), slope);
      }
    } else if (e.kind != ActivationKind::kNone) {
      visit_all([&](float v) { return activated(e.kind, e.alpha, e.beta, v); });
    }
    visit(y, pixels, [&](const auto& v, T* at) { store_neighbours(v, at); });
  }

 protected:
  using T = typename Math::Element;
  static constexpr int kPerWord = 4 / int(sizeof(T));
  static constexpr int kTiles = kColumns / 8;  // of 8 output channels
  static constexpr int kOwn = 2 * kTiles;      // output channels of a thread, contiguous
  static constexpr int kVector = kOwn < kChunk<T> ? kOwn : kChunk<T>;
  static constexpr int kRows = 2 * kRowTiles;  // of the products, of a thread

  __device__ explicit FewInputsBlock(const FewInputsArgs& args)
      : args_(args),
        slice_(blockIdx.y / args.column_blocks),
        first_column_(blockIdx.y % args.column_blocks * kColumns) {}

  // The weights of the block's first channel.
  __device__ const T* filter() const {
    const int part = slice_ % args_.slices_together;
    return static_cast<const T*>(args_.filter) +
           (int64_t(slice_ / args_.slices_together) * args_.filter_taps * args_.packed_k + part * args_.slice_k +
            first_column_) *
               args_.filter_pitch +
           part * args_.slice_c;
  }

  __device__ static int thread() { return threadIdx.x % kThreads; }  // of the team

  // The warp's row i * 16 + j of the products is row j of 16 of its tile i, whose rows are neighbours.
  __device__ static int warp_row(int i) {
    const int warp = thread() / 32, first = warp / kTogether * (kTogether * kRowTiles) + warp % kTogether;
    return (first + i * kTogether) * 16;
  }
  __device__ static int own_row(int r) { return warp_row(r / 2) + r % 2 * 8 + threadIdx.x % 32 / 4; }
  // The pixel of a row. Channels first, four rows of a thread are neighbours in y.
  __device__ Int3 in_box(int row) const {
    if (args_.channels_first) row = row / 32 * 32 + row % 8 * 4 + row / 8 % 4;
    const Int3 log2 = args_.box_log2;
    return {row >> (log2.w + log2.h), row >> log2.w & ((1 << log2.h) - 1), row & ((1 << log2.w) - 1)};
  }
  // Where a row's pixels begin in the patch, in elements.
  __device__ int in_patch(int row) const {
    const Int3 q = in_box(row);
    return args_.origin + (q.d * args_.stride.d * args_.patch.h + q.h * args_.stride.h) * args_.row_pitch +
           q.w * args_.stride.w * args_.pixel_pitch;
  }

  // Sum of own_row(r) and the thread's channel j, which is own_column(j) of the block: chunks of the lanes of a quad
  // are neighbours.
  __device__ float& sum(int r, int j) { return sum_[r / 2][j / 2][r % 2 * 2 + j % 2]; }
  __device__ static int own_column(int j, int lane_of_quad) {
    return j / kVector * 4 * kVector + lane_of_quad * kVector + j % kVector;
  }

  __device__ void clear_sums() {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int j = 0; j < kTiles; ++j)
#pragma unroll
        for (int v = 0; v < 4; ++v) sum_[i][j][v] = 0;
  }

  // Starts to copy a patch of chunks. A thread copies the same chunk of every copy_pixels-th pixel. kPairs: chunks lie
  // in pairs, rows of 32 bytes, in the swizzle of such rows.
  template <bool kPairs>
  __device__ void start_chunks(uint32_t patch, const Tile& tile) const {
    const int first = args_.parts.quotient(thread()), part = thread() - first * args_.parts.divisor;
    if (first >= args_.copy_pixels) return;
    const int line = args_.patch_w.quotient(first), plane = args_.patch_h.quotient(line);
    Int3 at{tile.corner.d + plane, tile.corner.h + line - plane * args_.patch.h,
            tile.corner.w + first - line * args_.patch.w};
    const Int3 end = tile.corner + args_.patch, step = args_.copy_step, input = args_.input;
    const int x_channels = args_.x_chunks * kChunk<T>;  // the others are x2's, in pixels of their own
    const bool second = part >= args_.x_chunks;
    const int C = second ? args_.C - x_channels : x_channels;
    const T* const x = static_cast<const T*>(second ? args_.x2 : args_.x) +
                       int64_t(tile.n) * C * args_.input.d * args_.input.h * args_.input.w + slice_ * args_.slice_c +
                       part * kChunk<T> - (second ? x_channels : 0);
    const int in_pixel = kPairs ? part / 2 * args_.chunk_pitch + part % 2 * kChunk<T> : part * args_.chunk_pitch;
    patch += (args_.origin + first * args_.pixel_pitch + in_pixel) * int(sizeof(T));
#pragma unroll 4
    for (int i = first; i < args_.patch_pixels; i += args_.copy_pixels) {
      const bool valid = unsigned(at.d) < unsigned(input.d) && unsigned(at.h) < unsigned(input.h) &&
                         unsigned(at.w) < unsigned(input.w);
      const int row = valid ? at.d * input.h + at.h : 0, in_row = valid ? at.w * C : 0;
      const uint32_t to = kPairs ? patch ^ (patch >> 3 & kChunkBytes) : patch;
      start_copy(to, x + (int64_t(row) * (input.w * C) + in_row), valid);
      patch += args_.copy_pixels * args_.pixel_pitch * int(sizeof(T));
      at.w += step.w, at.h += step.h, at.d += step.d;
      if (at.w >= end.w) at.w -= args_.patch.w, ++at.h;
      if (at.h >= end.h) at.h -= args_.patch.h, ++at.d;
    }
  }

  // Starts to copy the filter in chunks: to(row, chunk) of kColumns rows, whose channels are in the order of the
  // epilogue, and two chunks; a step is kColumns rows of 32 bytes. A thread copies the same chunk of all its steps.
  template <class To>
  __device__ void start_filter(uint32_t shared, To to) const {
    constexpr int kUnits = 2 * kColumns;
    static_assert(kThreads % kUnits == 0);
    const int chunk = threadIdx.x % 2, row = threadIdx.x / 2 % kColumns;
    const int column = own_column(row / 8 * 2 + row % 2, row % 8 / 2);
    const bool valid = column < args_.slice_k - first_column_;
    const T* const weights = filter() + (valid ? column * args_.filter_pitch + chunk * kChunk<T> : 0);
    shared += to(row, chunk);
    for (int step = threadIdx.x / kUnits; step < args_.steps; step += blockDim.x / kUnits)
      start_copy(shared + step * (kColumns * 32), weights + args_.step[step].weight, valid);
  }

  // A chunk, or zeros; it is there after a wait_for_all_copies, on devices that know no such copies at once.
  __device__ static void start_copy(uint32_t to, const T* from, bool valid) {
#if CKS_HAS_ASYNC_COPY
    ptx::copy_chunk_async(to, from, valid);
#else
    ptx::store_words(to, valid ? __ldg(reinterpret_cast<const uint4*>(from)) : make_uint4(0, 0, 0, 0));
#endif
  }

  __device__ int lines() const { return args_.patch.h * args_.patch.d; }
  __device__ int64_t image(const Tile& tile) const {
    return int64_t(tile.n) * args_.C * args_.input.d * args_.input.h * args_.input.w;
  }

  // Chunk i of a row of `length` elements of x, of which `first` is the patch's first; in the patch they lie `stretch`
  // apart.
  __device__ UnitPlace chunk_at(int i, int first, int length, int stretch) const {
    const int at = first - args_.lead + i * kChunk<T>;
    return {at, (i * kChunk<T> - args_.lead) * stretch, unsigned(at) < unsigned(length)};
  }

  template <class Unit, class RowAt, class UnitAt, class Put>
  __device__ void load_rows(int rows, RowAt row_at, UnitAt unit_at, Put put) const {
    copy_rows<kThreads, Unit>(static_cast<const T*>(args_.x), args_.row_units, rows, row_at, unit_at, put);
  }

  template <bool kShifted>
  __device__ void put(uint32_t* patch, int at, T v) const {
    if constexpr (sizeof(T) == 4) {
      patch[at] = Math::prepare(__float_as_uint(v));
    } else {
      T* const elements = reinterpret_cast<T*>(patch);
      elements[at] = v;
      if constexpr (kShifted) elements[2 * args_.patch_words + at - 1] = v;
    }
  }

  // The patch from rows of planes; zeros outside the image.
  template <bool kShifted>
  __device__ void load_planes(uint32_t* patch, const Tile& tile) const {
    const auto row_at = [&](int row) {
      const int line = args_.parts.quotient(row), c = row - line * args_.slice_c;
      const int d = args_.patch_h.quotient(line), h = tile.corner.h + line - d * args_.patch.h;
      const bool valid = unsigned(tile.corner.d + d) < unsigned(args_.input.d) && unsigned(h) < unsigned(args_.input.h);
      const int plane = (slice_ * args_.slice_c + c) * args_.input.d + tile.corner.d + d;
      return RowPlace{image(tile) + (int64_t(plane) * args_.input.h + h) * args_.input.w,
                      args_.origin + line * args_.row_pitch + c, valid};
    };
    if (args_.source == PatchSource::kPlaneRuns) {
      load_rows<uint4>(
          lines() * args_.slice_c, row_at,
          [&](int i) { return chunk_at(i, tile.corner.w, args_.input.w, args_.pixel_pitch); },
          [&](int at, uint4 v) {
            const Chunk chunk{v};
#pragma unroll
            for (int j = 0; j < kChunk<T>; ++j) put<kShifted>(patch, at + j * args_.pixel_pitch, chunk.element[j]);
          });
    } else {
      load_rows<T>(
          lines() * args_.slice_c, row_at,
          [&](int i) {
            const int w = tile.corner.w + i;
            return UnitPlace{w, i * args_.pixel_pitch, unsigned(w) < unsigned(args_.input.w)};
          },
          [&](int at, T v) { put<kShifted>(patch, at, v); });
    }
  }

  const FewInputsArgs& args_;
  int slice_, first_column_;
  float sum_[kRowTiles][kTiles][4];

 private:
  union Chunk {
    uint4 words;
    T element[kChunk<T>];
    __device__ explicit Chunk(uint4 v) : words(v) {}
  };

  __device__ static int own_column(int j) { return own_column(j, threadIdx.x % 4); }

  template <class F>
  __device__ void visit_all(F f) {
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int j = 0; j < kOwn; ++j) sum(r, j) = f(sum(r, j));
  }

  // f(values, where in y) for what lies side by side there: channels of a pixel, four pixels of a channel, or (where
  // whole words cannot be moved) one value at a time.
  template <class F>
  __device__ void visit(T* const (&y)[kRows], int64_t pixels, F f) {
    const int columns = args_.slice_k - first_column_;
    if (args_.neighbours && !args_.channels_first) {
#pragma unroll
      for (int r = 0; r < kRows; ++r)
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
      for (int first = 0; first < kRows; first += 4)
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          if (!y[first] || own_column(j) >= columns) continue;
          float v[4] = {sum(first, j), sum(first + 1, j), sum(first + 2, j), sum(first + 3, j)};
          f(v, y[first] + own_column(j) * pixels);
#pragma unroll
          for (int r = 0; r < 4; ++r) sum(first + r, j) = v[r];
        }
    } else {
      const int64_t stride = args_.channels_first ? pixels : 1;
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          if (!y[r] || own_column(j) >= columns) continue;
          float v[1] = {sum(r, j)};
          f(v, y[r] + own_column(j) * stride);
          sum(r, j) = v[0];
        }
    }
  }
};

}  // namespace cks::cuda
