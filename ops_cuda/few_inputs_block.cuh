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

  // A tile of output pixels.
  struct Tile {
    int n;
    Int3 origin;
  };
  __device__ Tile tile_at(unsigned rest) const {
    Tile tile;
    Int3& origin = tile.origin;
    origin.w = int(rest % unsigned(args_.tiles.w)) << args_.box_log2.w, rest /= unsigned(args_.tiles.w);
    origin.h = int(rest % unsigned(args_.tiles.h)) << args_.box_log2.h, rest /= unsigned(args_.tiles.h);
    origin.d = int(rest % unsigned(args_.tiles.d)) << args_.box_log2.d;
    tile.n = int(rest / unsigned(args_.tiles.d));
    return tile;
  }

  __device__ void store(const Tile& tile) {
    const Epilogue& e = args_.epilogue;
    const int first_k = slice_ * args_.slice_k + first_column_;
    const int64_t image = tile.n * args_.y_image + first_k * args_.y_column;
    T* y[kRows];  // of each row, at the first column of the block
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Int3 p = tile.origin + in_box(own_row(r));
      const int64_t at = image + int64_t(p.d) * args_.y_d + int64_t(p.h) * args_.y_h + int64_t(p.w) * args_.y_w;
      y[r] = inside(args_.output, p) ? static_cast<T*>(e.y) + at : nullptr;
    }
    if (e.bias) visit_columns(columns_, [](float& sum, float bias) { sum += bias; });
    if (e.residual) {
      const T* const residual = static_cast<const T*>(e.residual);
      visit(tile, y,
            [&](auto& v, const T* at) { add_neighbours(v, residual + (at - static_cast<T*>(e.y)), e.residual_slope); });
    }
    if (e.kind == ActivationKind::kRelu) {
      visit_all([](float v) { return v < 0.f ? 0.f : v; });
    } else if (e.kind == ActivationKind::kLeakyRelu) {
      visit_all([&](float v) { return leaky_relu(v, e.alpha); });
    } else if (e.slopes) {
      visit_columns(columns_ + kColumns, [](float& sum, float slope) { sum = leaky_relu(sum, slope); });
    } else if (e.kind != ActivationKind::kNone) {
      visit_all([&](float v) { return activated(e.kind, e.alpha, e.beta, v); });
    }
    visit(tile, y, [&](const auto& v, T* at) { store_neighbours(v, at); });
  }

  // What the epilogue must know of the thread's column, if it has one; all columns are there after put_column and a
  // barrier.
  struct Column {
    float bias, slope;
    int32_t in_y, in_cell;
  };
  __device__ Column column_of_thread() const {
    static_assert(kColumns <= kThreads);
    Column own{};
    const int column = threadIdx.x;
    if (column >= min(kColumns, args_.slice_k - first_column_)) return own;
    const Epilogue& e = args_.epilogue;
    int k = slice_ * args_.slice_k + first_column_ + column;
    if (args_.cell_columns) {
      const FewInputsColumn of_cell = args_.cell_columns[column];
      k = of_cell.k, own.in_y = of_cell.in_y;
      own.in_cell = of_cell.in_cell.d << 20 | of_cell.in_cell.h << 10 | of_cell.in_cell.w;
    }
    if (e.bias) own.bias = to_float(static_cast<const T*>(e.bias)[k]);
    if (e.slopes) own.slope = e.slopes[k];
    return own;
  }
  __device__ void put_column(const Column& own) {
    const int column = threadIdx.x;
    if (column >= kColumns) return;
    columns_[column] = own.bias, columns_[kColumns + column] = own.slope;
    in_y(column) = own.in_y, in_cell(column) = own.in_cell;
  }

 protected:
  using T = typename Math::Element;
  static constexpr int kPerWord = 4 / int(sizeof(T));
  static constexpr int kTiles = kColumns / 8;  // of 8 output channels
  static constexpr int kOwn = 2 * kTiles;      // output channels of a thread, contiguous
  static constexpr int kVector = kOwn < kChunk<T> ? kOwn : kChunk<T>;
  static constexpr int kRows = 2 * kRowTiles;  // of the products, of a thread

  __device__ FewInputsBlock(const FewInputsArgs& args, char* shared)
      : args_(args),
        slice_(blockIdx.y / args.column_blocks),
        first_column_(blockIdx.y % args.column_blocks * kColumns),
        columns_(reinterpret_cast<float*>(shared + args.columns_at)) {}

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

  // Keeps the compiler from computing what is known anew for each product.
  __device__ static uint32_t known(uint32_t v) {
    asm volatile("" : "+r"(v));
    return v;
  }

  __device__ void clear_sums() {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int j = 0; j < kTiles; ++j)
#pragma unroll
        for (int v = 0; v < 4; ++v) sum_[i][j][v] = 0;
  }

  // Starts to copy a patch by parts of so many bytes. A thread copies the same part of every copy_pixels-th pixel.
  // kPairs: chunks lie in pairs, rows of 32 bytes, in the swizzle of such rows.
  template <int kBytes, bool kPairs>
  __device__ void start_parts(uint32_t patch, const Tile& tile) const {
    constexpr int kPart = kBytes / int(sizeof(T));
    const int first = args_.parts.quotient(thread()), part = thread() - first * args_.parts.divisor;
    if (first >= args_.copy_pixels) return;
    const int line = args_.patch_w.quotient(first), plane = args_.patch_h.quotient(line);
    const Int3 corner = this->corner(tile);
    Int3 at{corner.d + plane, corner.h + line - plane * args_.patch.h, corner.w + first - line * args_.patch.w};
    const Int3 end = corner + args_.patch, step = args_.copy_step, input = args_.input;
    const int x_channels = args_.x_parts * kPart;  // the others are x2's, in pixels of their own
    const bool second = part >= args_.x_parts;
    const int C = second ? args_.C - x_channels : x_channels;
    const T* const x = static_cast<const T*>(second ? args_.x2 : args_.x) +
                       int64_t(tile.n) * C * args_.input.d * args_.input.h * args_.input.w + slice_ * args_.slice_c +
                       part * kPart - (second ? x_channels : 0);
    const int in_pixel = kPairs ? part / 2 * args_.chunk_pitch + part % 2 * kPart : part * kPart;
    patch += (args_.origin + first * args_.pixel_pitch + in_pixel) * int(sizeof(T));
#pragma unroll 4
    for (int i = first; i < args_.patch_pixels; i += args_.copy_pixels) {
      const bool valid = unsigned(at.d) < unsigned(input.d) && unsigned(at.h) < unsigned(input.h) &&
                         unsigned(at.w) < unsigned(input.w);
      const int row = valid ? at.d * input.h + at.h : 0, in_row = valid ? at.w * C : 0;
      const uint32_t to = kPairs ? patch ^ (patch >> 3 & kChunkBytes) : patch;
      start_copy<kBytes>(to, x + (int64_t(row) * (input.w * C) + in_row), valid);
      patch += args_.copy_pixels * args_.pixel_pitch * int(sizeof(T));
      at.w += step.w, at.h += step.h, at.d += step.d;
      if (at.w >= end.w) at.w -= args_.patch.w, ++at.h;
      if (at.h >= end.h) at.h -= args_.patch.h, ++at.d;
    }
  }

  // Brings what the thread copied by start_parts into the form that products take.
  template <int kBytes>
  __device__ void prepare_parts(uint32_t patch) const {
    const int first = args_.parts.quotient(thread()), part = thread() - first * args_.parts.divisor;
    if (first >= args_.copy_pixels) return;
    patch += (args_.origin + first * args_.pixel_pitch) * int(sizeof(T)) + part * kBytes;
    const int step = args_.copy_pixels * args_.pixel_pitch * int(sizeof(T));
#pragma unroll 4
    for (int i = first; i < args_.patch_pixels; i += args_.copy_pixels, patch += step) {
      uint32_t words[kBytes / 4];
      ptx::load_words(words, patch);
      for (uint32_t& word : words) word = Math::prepare(word);
      if constexpr (kBytes == kChunkBytes)
        ptx::store_words(patch, make_uint4(words[0], words[1], words[2], words[3]));
      else
        ptx::store_words(patch, make_uint2(words[0], words[1]));
    }
  }

  // Starts to copy the filter in chunks: to(row, chunk) of kColumns rows, whose channels are in the order of the
  // epilogue, and two chunks; a step is kColumns rows of 32 bytes. A thread copies the same chunk of its steps.
  template <class To>
  __device__ void start_filter(uint32_t shared, To to) const {
    constexpr int kUnits = 2 * kColumns;
    static_assert(kThreads % kUnits == 0);
    const int chunk = threadIdx.x % 2, row = threadIdx.x / 2 % kColumns;
    const int column = own_column(row / 8 * 2 + row % 2, row % 8 / 2);
    const bool valid = column < args_.slice_k - first_column_;
    int from = column * args_.filter_pitch;
    if (args_.cell_columns && valid) from = __ldg(&args_.cell_columns[column].filter);
    const T* const weights = filter();
    shared += to(row, chunk);
#pragma unroll 4
    for (int step = threadIdx.x / kUnits; step < args_.steps; step += blockDim.x / kUnits) {
      const int weight = args_.step[step].weight[chunk];
      bool met = valid && weight >= 0;
      if (args_.cell_columns) met = met && (__ldg(args_.met_by + 2 * step + chunk) >> column & 1);
      start_copy<kChunkBytes>(shared + step * (kColumns * 32), weights + (met ? from + weight : 0), met);
    }
  }

  // Zeros wherever a patch is padded, which copies leave alone.
  __device__ void clear_padding(char* patches, int words) const {
    if (!args_.padded) return;
    for (int i = threadIdx.x * 4; i < words; i += blockDim.x * 4)
      *reinterpret_cast<uint4*>(patches + i * 4) = make_uint4(0, 0, 0, 0);
    __syncthreads();
  }

  // A chunk or half of one, or zeros; it is there after a wait_for_all_copies, on devices that know no such copies at
  // once.
  template <int kBytes>
  __device__ static void start_copy(uint32_t to, const T* from, bool valid) {
#if CKS_HAS_ASYNC_COPY
    ptx::copy_async<kBytes>(to, from, valid);
#else
    if constexpr (kBytes == kChunkBytes)
      ptx::store_words(to, valid ? __ldg(reinterpret_cast<const uint4*>(from)) : make_uint4(0, 0, 0, 0));
    else
      ptx::store_words(to, valid ? __ldg(reinterpret_cast<const uint2*>(from)) : make_uint2(0, 0));
#endif
  }

  // The first input pixel of a tile's patch.
  __device__ Int3 corner(const Tile& tile) const {
    const Int3 &origin = tile.origin, &stride = args_.stride, &pad = args_.pad;
    return {origin.d * stride.d - pad.d, origin.h * stride.h - pad.h, origin.w * stride.w - pad.w};
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
    const Int3 corner = this->corner(tile);
    const auto row_at = [&](int row) {
      const int line = args_.parts.quotient(row), c = row - line * args_.slice_c;
      const int d = args_.patch_h.quotient(line), h = corner.h + line - d * args_.patch.h;
      const bool valid = unsigned(corner.d + d) < unsigned(args_.input.d) && unsigned(h) < unsigned(args_.input.h);
      const int plane = (slice_ * args_.slice_c + c) * args_.input.d + corner.d + d;
      return RowPlace{image(tile) + (int64_t(plane) * args_.input.h + h) * args_.input.w,
                      args_.origin + line * args_.row_pitch + c, valid};
    };
    if (args_.source == PatchSource::kPlaneRuns) {
      load_rows<uint4>(
          lines() * args_.slice_c, row_at,
          [&](int i) { return chunk_at(i, corner.w, args_.input.w, args_.pixel_pitch); },
          [&](int at, uint4 v) {
            const Chunk chunk{v};
#pragma unroll
            for (int j = 0; j < kChunk<T>; ++j) put<kShifted>(patch, at + j * args_.pixel_pitch, chunk.element[j]);
          });
    } else {
      load_rows<T>(
          lines() * args_.slice_c, row_at,
          [&](int i) {
            const int w = corner.w + i;
            return UnitPlace{w, i * args_.pixel_pitch, unsigned(w) < unsigned(args_.input.w)};
          },
          [&](int at, T v) { put<kShifted>(patch, at, v); });
    }
  }

  const FewInputsArgs& args_;
  int slice_, first_column_;
  float* columns_;  // of each column its bias; of each its slope; of output cells in_y and in_cell, see put_column
  float sum_[kRowTiles][kTiles][4];

 private:
  union Chunk {
    uint4 words;
    T element[kChunk<T>];
    __device__ explicit Chunk(uint4 v) : words(v) {}
  };
  struct alignas(16) Floats {
    float of_column[kVector];
  };

  __device__ static int own_column(int j) { return own_column(j, threadIdx.x % 4); }

  __device__ int32_t& in_y(int column) const { return reinterpret_cast<int32_t*>(columns_)[2 * kColumns + column]; }
  __device__ int32_t& in_cell(int column) const { return reinterpret_cast<int32_t*>(columns_)[3 * kColumns + column]; }

  template <class F>
  __device__ void visit_all(F f) {
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int j = 0; j < kOwn; ++j) sum(r, j) = f(sum(r, j));
  }

  // f(sum, what a table has for its column).
  template <class F>
  __device__ void visit_columns(const float* table, F f) {
#pragma unroll
    for (int first = 0; first < kOwn; first += kVector) {
      const auto own = *reinterpret_cast<const Floats*>(table + own_column(first));
#pragma unroll
      for (int j = 0; j < kVector; ++j)
#pragma unroll
        for (int r = 0; r < kRows; ++r) f(sum(r, first + j), own.of_column[j]);
    }
  }

  // f(values, where in y) for what lies side by side there: columns of a pixel, four pixels of a column, or (where
  // whole words cannot be moved) one value at a time.
  template <class F>
  __device__ void visit(const Tile& tile, T* const (&y)[kRows], F f) {
    const int columns = args_.slice_k - first_column_;
    if (args_.neighbours && !args_.channels_first) {
#pragma unroll
      for (int first = 0; first < kOwn; first += kVector) {
        const int column = own_column(first), at = args_.cell_columns ? in_y(column) : column;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (!y[r] || column >= columns) continue;
          float v[kVector];
#pragma unroll
          for (int j = 0; j < kVector; ++j) v[j] = sum(r, first + j);
          f(v, y[r] + at);
#pragma unroll
          for (int j = 0; j < kVector; ++j) sum(r, first + j) = v[j];
        }
      }
    } else if (args_.neighbours) {  // the four pixels are inside or outside together
#pragma unroll
      for (int first = 0; first < kRows; first += 4)
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          if (!y[first] || own_column(j) >= columns) continue;
          float v[4] = {sum(first, j), sum(first + 1, j), sum(first + 2, j), sum(first + 3, j)};
          f(v, y[first] + own_column(j) * args_.y_column);
#pragma unroll
          for (int r = 0; r < 4; ++r) sum(first + r, j) = v[r];
        }
    } else {
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        const int column = own_column(j);
        const int64_t at = args_.cell_columns ? in_y(column) : column * args_.y_column;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (!y[r] || column >= columns || (args_.ragged && !has(tile, r, column))) continue;
          float v[1] = {sum(r, j)};
          f(v, y[r] + at);
          sum(r, j) = v[0];
        }
      }
    }
  }

  // Whether a row's cell has the output that the column is of.
  __device__ bool has(const Tile& tile, int r, int column) const {
    const Int3 cell = tile.origin + in_box(own_row(r));
    const int in_cell = this->in_cell(column);
    return inside(args_.outputs,
                  {cell.d * args_.cell.d + (in_cell >> 20), cell.h * args_.cell.h + (in_cell >> 10 & 1023),
                   cell.w * args_.cell.w + (in_cell & 1023)});
  }
};

}  // namespace cks::cuda
