// The warps that make halves of a patch's floats, where they lie in shared memory: once for all that read it, where the
// math warps would convert a pixel again for every tap that reads it.
//
// All values of a tile have one scale, a power of two, that its sums have too (halves.cuh says why). It brings the
// largest value to a place between 2^9 and 2^16, so that what is 2^-23 of that still has all digits of a half, and
// stays from tile to tile as long as it suits. Converting destroys the floats: a patch that turns out not to suit is
// copied again.
#pragma once
#include "ops_cuda/hopper/halves.cuh"
#include "ops_cuda/hopper/patches.cuh"

namespace cks::cuda::hopper {

template <class Tile>
class PatchConverter {
  using Barriers = typename Tile::Barriers;
  static constexpr int kWarps = Tile::kConverterWarps, kNamedBarrier = 2;
  static constexpr int kRows = 8, kLanes = 4;  // rows that a warp converts at once, lanes of a row: eight channels each
  static constexpr int kBatches = 4;           // of rows whose loads are under way together
  static constexpr int kTarget = 13;           // exponent of the largest value where a scale is chosen
  static constexpr float kTooSmall = 0x1p9f;   // of what has been brought to scale: see above

 public:
  // warp: of the converters.
  static __device__ void run(const Params& p, WorkReader work, uint32_t patches, Barriers& bars, int warp) {
    wait_for_previous_grid();  // a copy may be asked for
    PatchConverter converter(p, bars, warp);
    PipelineState at;
    bool any_scale = false;
    while (work.next()) {
      work.fetch_next();
      const WorkItem::Input from = work.input();
      const WorkTap* const taps = p.taps + work.output().first_tap;
      const int of_channels = work.patches().count, all = of_channels * p.channel_blocks;
      for (int i = 0; i < all; ++i) {
        const uint32_t patch = patches + at.stage * p.patch_pitch;
        barrier_wait(shared_address(&bars.patch_full[at.stage]), at.parity);
        if (!any_scale) converter.choose_scale(patch, true), any_scale = true;
        // Within a tile scales only shrink: its sums could outgrow a larger one.
        if (!converter.convert(patch, i == 0)) {
          converter.copy_again(patch, i / of_channels, from, corner_of(taps, i % of_channels));
          converter.choose_scale(patch, i == 0);
          converter.convert(patch, false);
        }
        if (threadIdx.x % 32 == 0) {
          if (warp == 0) bars.patch_scale[at.stage] = converter.scale_;
          barrier_arrive(shared_address(&bars.patch_ready[at.stage]));
        }
        at.advance(p.patch_stages);
      }
    }
  }

 private:
  __device__ PatchConverter(const Params& p, Barriers& bars, int warp)
      : p_(p), bars_(bars), warp_(warp), rows_(p.patch_bytes / 128) {}

  // Whether the patch's values suit the scale. What is infinite never does, and stays what it is.
  __device__ bool convert(uint32_t patch, bool may_be_too_small) {
    float largest = 0;
    for_batches(patch,
                [&](const bool (&exists)[kBatches], const uint32_t (&row)[kBatches], const float4(&v)[kBatches][2]) {
                  __syncwarp();  // the lanes of a row write where others have read
#pragma unroll
                  for (int b = 0; b < kBatches; ++b) {
                    if (!exists[b]) continue;
#pragma unroll
                    for (int step = 0; step < 2; ++step) {
                      const float4 x = v[b][step];
                      for (const float value : {x.x, x.y, x.z, x.w}) largest = fmaxf(largest, fabsf(value));
                      // A lane's channels lie in the order in which pack_halves.cu has the filter's: a pair in each
                      // chunk.
                      store_half(row[b], step * 2, x.x, x.y);
                      store_half(row[b], step * 2 + 1, x.z, x.w);
                    }
                  }
                });
    fence_async_proxy();  // the tensor cores read this, or a copy overwrites it
    const float all = largest_of_all(largest);
    return all * scale_ < kTooLarge &&
           !(may_be_too_small && all > 0 && all * scale_ < kTooSmall && scale_ < power_of_two(kLargestExponent));
  }

  __device__ void choose_scale(uint32_t patch, bool may_grow) {
    float largest = 0;  // that is finite
    for_batches(patch,
                [&](const bool (&exists)[kBatches], const uint32_t (&)[kBatches], const float4(&v)[kBatches][2]) {
#pragma unroll
                  for (int b = 0; b < kBatches; ++b)
#pragma unroll
                    for (int step = 0; step < 2; ++step)
                      for (const float value : {v[b][step].x, v[b][step].y, v[b][step].z, v[b][step].w})
                        if (exists[b] && fabsf(value) < INFINITY) largest = fmaxf(largest, fabsf(value));
                });
    const float scale = scale_to(kTarget, largest_of_all(largest));
    scale_ = may_grow ? scale : fminf(scale, scale_);  // a patch of small values and an infinity does not fit either
  }

  // Where a patch begins, as the first of its taps says.
  static __device__ int corner_of(const WorkTap* taps, int patch) {
    for (; patch > 0; --patch) taps += read_plan(taps).x;
    return read_plan(taps).y;
  }

  __device__ void copy_again(uint32_t patch, int c, const WorkItem::Input& at, int corner) {
    const uint32_t bar = shared_address(&bars_.patch_again);  // all have met since they wrote what is overwritten
    if (warp_ == 0 && elect_lane()) copy_patch<Tile>(p_, patch, bar, c, at, corner);
    barrier_wait(bar, again_);
    again_ ^= 1;
  }

  // Calls f with batches of rows: whether each exists, its address, and this lane's eight channels of it.
  template <class F>
  __device__ void for_batches(uint32_t patch, F f) const {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int r = warp_ * kRows + lane / kLanes; r - lane / kLanes < rows_; r += kWarps * kRows * kBatches) {
      bool exists[kBatches];
      uint32_t row[kBatches];
      float4 v[kBatches][2];
#pragma unroll
      for (int b = 0; b < kBatches; ++b) {
        const int at = r + b * kWarps * kRows;
        exists[b] = at < rows_, row[b] = patch + at * 128;
#pragma unroll
        for (int step = 0; step < 2; ++step)
          v[b][step] = exists[b] ? load_shared(row[b] + chunk(lane % kLanes * 2 + step)) : float4{};
      }
      f(exists, row, v);
    }
  }
  // Where a chunk of 16 bytes lies in this lane's rows, which are all the same modulo 8: the 128-byte swizzle.
  static __device__ uint32_t chunk(int i) { return (i ^ threadIdx.x % 32 / kLanes) * 16; }

  __device__ void store_half(uint32_t row, int i, float x, float y) const {
    const __half2 v = __floats2half2_rn(x * scale_, y * scale_);
    store_shared(row + chunk(i) + threadIdx.x % kLanes * 4, *reinterpret_cast<const uint32_t*>(&v));
  }

  // Of all converters, none negative. Synchronizes them.
  __device__ float largest_of_all(float mine) {
    const unsigned of_warp = __reduce_max_sync(0xffffffff, __float_as_uint(mine));
    turn_ ^= 1;  // who is late still reads the others
    if (threadIdx.x % 32 == 0) bars_.largest[turn_][warp_] = of_warp;
    named_barrier(kNamedBarrier, kWarps * 32);
    unsigned all = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) all = max(all, bars_.largest[turn_][w]);
    return __uint_as_float(all);
  }

  const Params& p_;
  Barriers& bars_;
  int warp_, rows_, turn_ = 0;
  uint32_t again_ = 0;
  float scale_ = 1;
};

}  // namespace cks::cuda::hopper
