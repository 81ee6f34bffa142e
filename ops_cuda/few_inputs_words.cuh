// Convolutions with few input channels (of a group), on tensor cores, where channels do not fill whole steps of them. A
// thread block keeps the filter in shared memory for all its tiles; the patch of a tile is copied there as it is, and
// fragments are read straight from it, one word a (tap, channel) pair as the plan lists them: no im2col is written, and
// nothing but the last step is padded.
#pragma once
#include "ops_cuda/few_inputs_block.cuh"

namespace cks::cuda {

template <class Math, int kColumns>
class FewInputsWords : public FewInputsBlock<Math, kColumns, kFewInputsWords.warps, kFewInputsWords.row_tiles> {
  using Base = FewInputsBlock<Math, kColumns, kFewInputsWords.warps, kFewInputsWords.row_tiles>;
  using Base::args_, Base::sum_, Base::kTiles, Base::kPerWord, Base::kThreads;
  using typename Base::T;

 public:
  using typename Base::Tile;

  __device__ FewInputsWords(const FewInputsArgs& args, char* shared)
      : Base(args, shared), filter_(reinterpret_cast<uint32_t*>(shared)) {
    table_ = reinterpret_cast<int4*>(filter_ + args.steps * 8 * kColumns);
    patch_ = reinterpret_cast<uint32_t*>(table_ + args.steps * 4);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int element = this->in_patch(this->own_row(r));
      base_[r] = element / kPerWord + element % kPerWord * args.patch_words;
    }
  }

  __device__ void load_filter() {
    const T* const filter = this->filter();
    // In the order of fragments, [step][pair][lane][word]: a lane reads the words of two tiles of 8 channels at once. A
    // thread fills the same word of the same lane of all of them.
    static_assert(kThreads == 4 * 32);
    const int lane = threadIdx.x / 4, word = threadIdx.x % 4;
    const int4* const places = reinterpret_cast<const int4*>(args_.words) + lane % 4 + word % 2 * 4;
    const auto place_of = [&](int step) {
      return step < args_.steps ? __ldg(places + step * 8) : make_int4(0, 0, -1, -1);
    };
    constexpr int kTogether = 4;  // steps whose weights are waited for at once, and the next ones' places
    int4 coming[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) coming[i] = place_of(i);
    int weights[kTiles / 2];  // of each pair's output channel, from the first of the block; -1: no such channel
#pragma unroll
    for (int pair = 0; pair < kTiles / 2; ++pair) {
      const int j = 2 * (2 * pair + word / 2) + lane / 4 % 2, column = Base::own_column(j, lane / 8);
      weights[pair] = column < args_.slice_k - this->first_column_ ? column * args_.filter_pitch : -1;
    }
#pragma unroll 1
    for (int first = 0; first < args_.steps; first += kTogether) {
      Pair value[kTogether][kTiles / 2];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int from[2] = {coming[i].z, coming[i].w};
        coming[i] = place_of(first + kTogether + i);
#pragma unroll
        for (int pair = 0; pair < kTiles / 2; ++pair) {
          value[i][pair].word = 0;
#pragma unroll
          for (int j = 0; j < kPerWord; ++j)
            if (from[j] >= 0 && weights[pair] >= 0)
              value[i][pair].element[j] = __ldg(filter + (weights[pair] + from[j]));
        }
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
#pragma unroll
        for (int pair = 0; pair < kTiles / 2; ++pair)
          if (first + i < args_.steps)
            filter_[((first + i) * (kTiles / 2) + pair) * 128 + threadIdx.x] = value[i][pair].word;
    }
    for (int i = threadIdx.x; i < args_.steps * 4; i += kThreads) {
      const int4* const words = reinterpret_cast<const int4*>(args_.words) + i / 4 * 8 + i % 4;
      const int4 low = __ldg(words), high = __ldg(words + 4);
      table_[i] = make_int4(low.x, low.y, high.x, high.y);
    }
  }

  template <bool kShifted>
  __device__ void load_patch(const Tile& tile) {
    if (args_.source == PatchSource::kPlaneRuns || args_.source == PatchSource::kPlanes)
      this->template load_planes<kShifted>(patch_, tile);
    else
      load_pixels<kShifted>(patch_, tile);
  }

  __device__ void multiply() {
    const int lane = threadIdx.x % 32;
    this->clear_sums();
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

 private:
  union Pair {
    uint32_t word;
    T element[kPerWord];
    __device__ Pair() {}
  };

  // A row of the patch as pixels, `C` channels apart in x.
  __device__ RowPlace line_at(const Tile& tile, int line) const {
    const Int3 corner = this->corner(tile);
    const int d = args_.patch_h.quotient(line), h = corner.h + line - d * args_.patch.h;
    const bool valid = unsigned(corner.d + d) < unsigned(args_.input.d) && unsigned(h) < unsigned(args_.input.h);
    return {this->image(tile) + int64_t((corner.d + d) * args_.input.h + h) * (args_.input.w * args_.C) +
                this->slice_ * args_.slice_c,
            args_.origin + line * args_.row_pitch, valid};
  }
  // Parts of pixels, of 1 element each or a chunk, `size`. A chunk's pitch is its size, but read from the arguments:
  // where the compiler knows it, it takes chunks and runs for one and stores both word by word.
  __device__ UnitPlace part_at(const Tile& tile, int i, int size) const {
    const int pixel = args_.parts.quotient(i), part = i - pixel * args_.parts.divisor, w = this->corner(tile).w + pixel;
    return {w * args_.C + part * size, pixel * args_.pixel_pitch + part * (size == 1 ? 1 : args_.chunk_pitch),
            unsigned(w) < unsigned(args_.input.w)};
  }

  // The patch from rows of pixels; zeros outside the image.
  template <bool kShifted>
  __device__ void load_pixels(uint32_t* patch, const Tile& tile) const {
    const auto line = [&](int i) { return line_at(tile, i); };
    if (args_.source == PatchSource::kChunks) {
      this->template load_rows<uint4>(
          this->lines(), line, [&](int i) { return part_at(tile, i, kChunk<T>); },
          [&](int at, uint4 v) { *reinterpret_cast<uint4*>(patch + at / kPerWord) = prepared(v); });
    } else if (args_.source == PatchSource::kRuns) {
      this->template load_rows<uint4>(
          this->lines(), line,
          [&](int i) { return this->chunk_at(i, this->corner(tile).w * args_.C, args_.input.w * args_.C, 1); },
          [&](int at, uint4 v) {
            put_run(patch, at, v);
            if constexpr (kShifted) put_run(patch + args_.patch_words, at - 1, v);
          });
    } else {
      this->template load_rows<T>(
          this->lines(), line, [&](int i) { return part_at(tile, i, 1); },
          [&](int at, T v) { this->template put<kShifted>(patch, at, v); });
    }
  }

  __device__ static uint4 prepared(uint4 v) {
    if constexpr (sizeof(T) == 2) return v;
    return {Math::prepare(v.x), Math::prepare(v.y), Math::prepare(v.z), Math::prepare(v.w)};
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

  uint32_t *filter_, *patch_;
  int4* table_;
  int base_[4];  // where the thread's rows begin in the patch, in words
};

template <class Math, int kColumns>
__global__ void __launch_bounds__(32 * kFewInputsWords.warps, 4)
    few_inputs_words(const __grid_constant__ FewInputsArgs args) {
  extern __shared__ __align__(16) char shared[];
  ptx::launch_dependents();
  FewInputsWords<Math, kColumns> block(args, shared);
  if (!args.filter_is_constant) ptx::wait_for_previous_grid();
  block.load_filter();
  ptx::wait_for_previous_grid();
  block.put_column(block.column_of_thread());
  for (unsigned i = blockIdx.x; i < args.num_tiles; i += gridDim.x) {
    const auto tile = block.tile_at(i);
    __syncthreads();  // all have left the patch of the tile before
    if (sizeof(typename Math::Element) == 2 && args.shifted)
      block.template load_patch<true>(tile);
    else
      block.template load_patch<false>(tile);
    __syncthreads();
    block.multiply();
    block.store(tile);
  }
}

}  // namespace cks::cuda
