#include <algorithm>
#include <bit>

#include "ops_cuda/hopper/halve.h"
#include "ops_cuda/hopper/halves.cuh"
#include "ops_cuda/hopper/schedule.h"
#include "ops_cuda/launch.cuh"

namespace cks::cuda::hopper {
namespace {

constexpr int kThreads = 256, kChunk = 8;  // halves that a thread writes at once
constexpr int kBatch = 4;                  // of chunks whose loads are under way together
constexpr int kTarget = 14;                // exponent of the largest value where a scale is chosen
// What is tried before anything is known of an image: it suits those whose largest value is from 2^-5 to 2^10.
constexpr float kTried = 0x1p6f, kTooSmall = 0x1p1f;

struct Args {
  const float *x, *x2;
  __half* halves;
  float *inverse, *largest;  // of each scale; of each block
  int64_t pixels;            // of an image
  int x_channels, x2_channels, chunks;
  int pixels_of_block;
};

// The floats of a chunk: of a block of 32 channels, in the order in which pack_halves.cu has the filter's.
struct Chunk {
  float2 pairs[kChunk / 2];
};

// One chunk of every pixel, where it lies in X or X2 and among the halves.
class ChunkOfPixels {
 public:
  __device__ ChunkOfPixels(const Args& p, int chunk) {
    const int block = chunk / 4 * kHalvedBlock, first = chunk % 4 * 2;
    const bool in_x = block < p.x_channels;
    channels_ = in_x ? p.x_channels : p.x2_channels, left_ = channels_ - (in_x ? block : block - p.x_channels) - first;
    from_ = (in_x ? p.x : p.x2) + channels_ - left_;
    to_ = reinterpret_cast<uint4*>(p.halves) + chunk, chunks_ = p.chunks;
  }
  __device__ Chunk load(int64_t pixel) const {
    const float* const from = from_ + pixel * channels_;
    Chunk v;
#pragma unroll
    for (int i = 0; i < kChunk / 2; ++i)
      v.pairs[i] = i * 8 < left_ ? *reinterpret_cast<const float2*>(from + i * 8) : float2{};
    return v;
  }
  __device__ void store(int64_t pixel, const Chunk& v, float scale) const {
    uint32_t words[kChunk / 2];
#pragma unroll
    for (int i = 0; i < kChunk / 2; ++i) {
      const __half2 pair = __floats2half2_rn(v.pairs[i].x * scale, v.pairs[i].y * scale);
      words[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    to_[pixel * chunks_] = make_uint4(words[0], words[1], words[2], words[3]);
  }

 private:
  const float* from_;
  uint4* to_;
  int channels_, chunks_, left_;  // channels from the chunk's first on
};

__device__ float largest_finite(const Chunk& v) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < kChunk / 2; ++i)
    for (const float x : {v.pairs[i].x, v.pairs[i].y})
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
  for (int chunk = int(threadIdx.x); chunk < p.chunks; chunk += int(blockDim.x)) {
    const ChunkOfPixels pixels(p, chunk);
#pragma unroll 1
    for (int first = int(threadIdx.y); first < count; first += rows * kBatch) {
      const int64_t at = image + begin + first;
      Chunk v[kBatch];
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
  const bool fits = largest == 0 || (largest * kTried < kTooLarge && largest * kTried >= kTooSmall);
  const float scale = fits ? kTried : scale_to(kTarget, largest);
  if (blockIdx.y + threadIdx.x + threadIdx.y == 0) p.inverse[blockIdx.x] = inverse_of(scale);
  if (!fits) halve_share(p, scale);
}

// A scale for each pixel, which `lanes` lanes of a warp take together: a power of two.
__global__ void __launch_bounds__(kThreads) halve_pixels(const __grid_constant__ Args p, int lanes) {
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const int64_t pixel = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / lanes;
  const int lane = int(threadIdx.x) % lanes;
  const bool exists = pixel < p.pixels;
  float largest = 0;
  for (int chunk = lane; exists && chunk < p.chunks; chunk += lanes)
    largest = fmaxf(largest, largest_finite(ChunkOfPixels(p, chunk).load(pixel)));
  for (int other = lanes / 2; other > 0; other /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, other));
  if (!exists) return;
  const float scale = scale_to(kTarget, largest);
  if (lane == 0) p.inverse[pixel] = inverse_of(scale);
  for (int chunk = lane; chunk < p.chunks; chunk += lanes) {
    const ChunkOfPixels pixels(p, chunk);
    pixels.store(pixel, pixels.load(pixel), scale);
  }
}

}  // namespace

int64_t HalvedInput::pitch() const { return round_up(channels, kHalvedBlock); }

size_t HalvedInput::scales_at() const {
  return size_t(round_up(images * pixels * pitch() * int64_t(sizeof(__half)), kWorkspaceAlignment));
}

size_t HalvedInput::bytes() const {
  return scales_at() + size_t(scales() + (pixel_scales ? 0 : images * blocks_of_image())) * sizeof(float);
}

int HalvedInput::blocks_of_image() const {
  const int64_t wanted = ceil_div(pixels * pitch(), kChunk * kBatch * kThreads);
  return int(std::clamp<int64_t>(wanted, 1, ceil_div(int64_t(multiprocessors) * 8, images)));
}

void halve(const HalvedInput& in, InputTensors input, void* halves, Stream stream) {
  const int chunks = int(in.pitch() / kChunk);
  float* const inverse = reinterpret_cast<float*>(static_cast<char*>(halves) + in.scales_at());
  const Args args{static_cast<const float*>(input.x),
                  static_cast<const float*>(input.x2),
                  static_cast<__half*>(halves),
                  inverse,
                  inverse + in.scales(),
                  in.pixels,
                  int(in.channels - in.x2_channels),
                  int(in.x2_channels),
                  chunks,
                  int(ceil_div(in.pixels, in.blocks_of_image()))};
  const unsigned across = std::min(std::bit_ceil(unsigned(chunks)), unsigned(kThreads));
  if (in.pixel_scales) {
    const int lanes = int(std::min(across, 32u));
    launch_dependent("launching the kernel that makes halves of pixels", halve_pixels,
                     dim3(unsigned(ceil_div(args.pixels * lanes, kThreads))), dim3(kThreads), stream, args, lanes);
    return;
  }
  const dim3 grid(unsigned(in.images), unsigned(in.blocks_of_image())), threads(across, kThreads / across);
  launch_dependent("launching the kernel that makes halves of images", halve_images, grid, threads, stream, args);
  launch_dependent("launching the kernel that makes halves of images again", halve_misfits, grid, threads, stream,
                   args);
}

}  // namespace cks::cuda::hopper
