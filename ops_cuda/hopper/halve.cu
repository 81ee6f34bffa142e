#include <algorithm>
#include <bit>

#include "ops_cuda/hopper/halve.h"
#include "ops_cuda/hopper/halves.cuh"
#include "ops_cuda/hopper/ptx.cuh"
#include "ops_cuda/hopper/schedule.h"
#include "ops_cuda/launch.cuh"

namespace cks::cuda::hopper {
namespace {

constexpr int kThreads = HalvedInput::kThreads, kBatch = HalvedInput::kBatch;
constexpr int kTarget = 14;  // exponent of the largest value where a scale is chosen
// What is tried before anything is known of an image: it suits those whose largest value is from 2^-5 to 2^10.
constexpr float kTried = 0x1p6f, kTooSmall = 0x1p1f;

struct Args {
  const float *x, *x2;
  uint32_t* halves;          // pairs of them
  float *inverse, *largest;  // of each scale; of each block
  int64_t pixels;            // of an image
  int x_channels, x2_channels, quads;
  int pixels_of_block;
};

// Four channels that follow each other, as two pairs of halves; in a block of 32 channels they lie where
// pack_halves.cu has the filter's.
__device__ void store_halves(uint32_t* block, int quad, float4 v, float scale) {
  const __half2 pairs[2] = {__floats2half2_rn(v.x * scale, v.y * scale), __floats2half2_rn(v.z * scale, v.w * scale)};
#pragma unroll
  for (int i = 0; i < 2; ++i) block[(quad % 2 * 2 + i) * 4 + quad / 2] = *reinterpret_cast<const uint32_t*>(&pairs[i]);
}

// Four channels of every pixel, where they lie in X or X2 and among the halves.
class QuadOfPixels {
 public:
  __device__ QuadOfPixels(const Args& p, int quad) : quad_(quad % 8) {
    const int channel = quad * 4;
    const bool in_x = channel < p.x_channels;
    channels_ = in_x ? p.x_channels : p.x2_channels;
    const int first = in_x ? channel : channel - p.x_channels;
    exists_ = first < channels_;
    from_ = (in_x ? p.x : p.x2) + first;
    to_ = p.halves + quad / 8 * (kHalvedBlock / 2), pitch_ = p.quads * 2;
  }
  __device__ float4 load(int64_t pixel) const {
    return exists_ ? *reinterpret_cast<const float4*>(from_ + pixel * channels_) : float4{};
  }
  __device__ void store(int64_t pixel, float4 v, float scale) const {
    store_halves(to_ + pixel * pitch_, quad_, v, scale);
  }

 private:
  const float* from_;
  uint32_t* to_;
  int channels_, pitch_, quad_;  // pitch: of a pixel, in pairs
  bool exists_;
};

__device__ float largest_finite(float4 v) {
  float largest = 0;
  for (const float x : {v.x, v.y, v.z, v.w})
    if (fabsf(x) < INFINITY) largest = fmaxf(largest, fabsf(x));
  return largest;
}

// Of all threads of a block, none negative.
__device__ float largest_of_block(float mine) {
  __shared__ unsigned of_warps[kThreads / 32];
  const int thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  const unsigned of_warp = __reduce_max_sync(0xffffffff, __float_as_uint(mine));
  if (thread % 32 == 0) of_warps[thread / 32] = of_warp;
  __syncthreads();
  unsigned all = 0;
  for (const unsigned each : of_warps) all = max(all, each);
  return __uint_as_float(all);
}

// A block's pixels of an image; a row of threads takes a pixel. Halves them, and returns this thread's largest value.
__device__ float halve_share(const Args& p, float scale) {
  const int64_t begin = int64_t(blockIdx.y) * p.pixels_of_block, image = int64_t(blockIdx.x) * p.pixels;
  const int count = int(min(int64_t(p.pixels_of_block), p.pixels - begin)), rows = int(blockDim.y);
  float largest = 0;
#pragma unroll 1
  for (int quad = int(threadIdx.x); quad < p.quads; quad += int(blockDim.x)) {
    const QuadOfPixels pixels(p, quad);
#pragma unroll 1
    for (int first = int(threadIdx.y); first < count; first += rows * kBatch) {
      const int64_t at = image + begin + first;
      float4 v[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
        if (first + i * rows < count) v[i] = pixels.load(at + i * rows);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (first + i * rows >= count) continue;
        largest = fmaxf(largest, largest_finite(v[i]));
        pixels.store(at + i * rows, v[i], scale);
      }
    }
  }
  return largest;
}

// What is tried, if that suits.
__device__ float scale_of(float largest) {
  const bool fits = largest == 0 || (largest * kTried < kTooLarge && largest * kTried >= kTooSmall);
  return fits ? kTried : scale_to(kTarget, largest);
}

// A cluster holds an image, kHeld times four floats a thread, while its blocks find the largest value. Channels fill
// their blocks of 32, so that an image is a row.
template <int kHeld>
__global__ void __launch_bounds__(kThreads) halve_held(const __grid_constant__ Args p) {
  __shared__ float largest;
  const int64_t image = int64_t(blockIdx.x) * p.pixels * p.quads;
  const int count = int(p.pixels) * p.quads, share = (count + int(gridDim.y) - 1) / int(gridDim.y);
  const int begin = int(blockIdx.y) * share + int(threadIdx.x), end = min(count, int(blockIdx.y + 1) * share);
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  float4 v[kHeld];
  float mine = 0;
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    v[i] = begin + i * kThreads < end ? reinterpret_cast<const float4*>(p.x)[image + begin + i * kThreads] : float4{};
#pragma unroll
  for (int i = 0; i < kHeld; ++i) mine = fmaxf(mine, largest_finite(v[i]));
  mine = largest_of_block(mine);
  if (threadIdx.x == 0) largest = mine;
  cluster_sync();
  for (unsigned block = 0; block < gridDim.y; ++block)
    mine = fmaxf(mine, load_peer_float(peer_address(shared_address(&largest), block)));
  cluster_arrive();
  const float scale = scale_of(mine);
  if (blockIdx.y + threadIdx.x == 0) p.inverse[blockIdx.x] = inverse_of(scale);
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int64_t at = image + begin + i * kThreads;
    if (begin + i * kThreads < end) store_halves(p.halves + at / 8 * (kHalvedBlock / 2), int(at % 8), v[i], scale);
  }
  cluster_wait();  // no block ends while others read what it found
}

// With a scale that suits most images, which saves waiting for the largest value.
__global__ void __launch_bounds__(kThreads) halve_images(const __grid_constant__ Args p) {
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const float largest = largest_of_block(halve_share(p, kTried));
  if (threadIdx.x + threadIdx.y == 0) p.largest[blockIdx.x * gridDim.y + blockIdx.y] = largest;
}

// Again, with scales of their own, those images that it does not suit.
__global__ void __launch_bounds__(kThreads) halve_misfits(const __grid_constant__ Args p) {
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  float mine = 0;
  for (unsigned i = threadIdx.y * blockDim.x + threadIdx.x; i < gridDim.y; i += kThreads)
    mine = fmaxf(mine, p.largest[blockIdx.x * gridDim.y + i]);
  const float largest = largest_of_block(mine);
  const float scale = scale_of(largest);
  if (blockIdx.y + threadIdx.x + threadIdx.y == 0) p.inverse[blockIdx.x] = inverse_of(scale);
  if (scale != kTried) halve_share(p, scale);
}

// A scale for each pixel, which `lanes` lanes of a warp take together: a power of two.
__global__ void __launch_bounds__(kThreads) halve_pixels(const __grid_constant__ Args p, int lanes) {
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const int64_t pixel = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / lanes;
  const int lane = int(threadIdx.x) % lanes;
  const bool exists = pixel < p.pixels;
  float largest = 0;
  for (int quad = lane; exists && quad < p.quads; quad += lanes)
    largest = fmaxf(largest, largest_finite(QuadOfPixels(p, quad).load(pixel)));
  for (int other = lanes / 2; other > 0; other /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, other));
  if (!exists) return;
  const float scale = scale_to(kTarget, largest);
  if (lane == 0) p.inverse[pixel] = inverse_of(scale);
  for (int quad = lane; quad < p.quads; quad += lanes) {
    const QuadOfPixels pixels(p, quad);
    pixels.store(pixel, pixels.load(pixel), scale);
  }
}

}  // namespace

void halve(const HalvedInput& in, InputTensors input, void* halves, Stream stream) {
  const int quads = int(in.pitch() / 4);
  float* const inverse = reinterpret_cast<float*>(static_cast<char*>(halves) + in.scales_at());
  const Args args{static_cast<const float*>(input.x),
                  static_cast<const float*>(input.x2),
                  static_cast<uint32_t*>(halves),
                  inverse,
                  inverse + in.scales(),
                  in.pixels,
                  int(in.channels - in.x2_channels),
                  int(in.x2_channels),
                  quads,
                  int(ceil_div(in.pixels, in.blocks_of_image()))};
  const unsigned across = std::min(std::bit_ceil(unsigned(quads)), unsigned(kThreads));
  if (in.pixel_scales) {
    const int lanes = int(std::min(across, 32u));
    launch_dependent("launching the kernel that makes halves of pixels", halve_pixels,
                     dim3(unsigned(ceil_div(args.pixels * lanes, kThreads))), dim3(kThreads), stream, args, lanes);
    return;
  }
  if (const int cluster = in.cluster()) {
    const bool few = in.quads_of_image() <= int64_t(cluster) * kThreads * kBatch;
    void* parameters[] = {const_cast<Args*>(&args)};
    launch_dependent("launching the kernel that makes halves of images at once",
                     reinterpret_cast<const void*>(few ? halve_held<kBatch> : halve_held<HalvedInput::kMostHeld>),
                     dim3(unsigned(in.images), unsigned(cluster)), dim3(kThreads), 0, stream, parameters,
                     dim3(1, unsigned(cluster)));
    return;
  }
  const dim3 grid(unsigned(in.images), unsigned(in.blocks_of_image())), threads(across, kThreads / across);
  launch_dependent("launching the kernel that makes halves of images", halve_images, grid, threads, stream, args);
  launch_dependent("launching the kernel that makes halves of images again", halve_misfits, grid, threads, stream,
                   args);
}

}  // namespace cks::cuda::hopper
