#include <algorithm>

#include "ops_cuda/element.cuh"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/pack.h"
#include "ops_cuda/ptx.cuh"

namespace cks::cuda {
namespace {

constexpr int kThreads = 256;
constexpr const char* kPackingInput = "launching the kernel that packs an input";
constexpr const char* kPackingWeights = "launching the kernel that packs weights";

// Bits are moved, not numbers: 16-bit types share a kernel.
struct PackArgs {
  int64_t pixels, channels;  // of the source: an image's, and a pixel's
  int group_channels, group_pitch;
  int64_t pitch;  // packed channels of a pixel
};

// The source channel of a packed one, or -1 in the padding.
__device__ int64_t source_channel(const PackArgs& args, int64_t packed) {
  const int64_t c = packed % args.group_pitch;
  return packed < args.pitch && c < args.group_channels ? packed / args.group_pitch * args.group_channels + c : -1;
}

// [C][pixels] to [pixels][pitch], by squares through shared memory: read along pixels, written by chunks along
// channels, eight pixels by four chunks a warp (the padding of a row keeps those reads on different banks).
template <class T>
__global__ void __launch_bounds__(kThreads) transpose_kernel(PackArgs args, const T* source, T* packed) {
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  constexpr int kSide = 64, kChunkT = 16 / sizeof(T), kPad = 4 / sizeof(T);
  __shared__ T square[kSide][kSide + kPad];
  const int64_t squares_across = (args.pixels + kSide - 1) / kSide;
  const int64_t first_pixel = blockIdx.x % squares_across * kSide, first_channel = int64_t(blockIdx.y) * kSide;
  const int64_t image = blockIdx.x / squares_across;
  source += image * args.channels * args.pixels;
  packed += image * args.pixels * args.pitch;

  for (int i = threadIdx.x; i < kSide * kSide; i += kThreads) {
    const int pixel = i % kSide, channel = i / kSide;
    const int64_t from = source_channel(args, first_channel + channel);
    square[channel][pixel] =
        from >= 0 && first_pixel + pixel < args.pixels ? source[from * args.pixels + first_pixel + pixel] : T(0);
  }
  __syncthreads();
  constexpr int kChunks = kSide / kChunkT;
  for (int i = threadIdx.x; i < kSide * kChunks; i += kThreads) {
    const int pixel = i % 8 + i / (8 * kChunks) * 8, channel = i / 8 % kChunks * kChunkT;
    if (first_pixel + pixel >= args.pixels || first_channel + channel >= args.pitch) continue;
    alignas(16) T chunk[kChunkT];
#pragma unroll
    for (int j = 0; j < kChunkT; ++j) chunk[j] = square[channel + j][pixel];
    *reinterpret_cast<uint4*>(packed + (first_pixel + pixel) * args.pitch + first_channel + channel) =
        *reinterpret_cast<const uint4*>(chunk);
  }
}

// [pixels][C] to [pixels][pitch]: a thread a chunk.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pad_channels_kernel(PackArgs args, int64_t chunks, const T* source, T* packed) {
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  constexpr int kChunkT = 16 / sizeof(T);
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < chunks; i += int64_t(gridDim.x) * kThreads) {
    const int64_t pixel = i / (args.pitch / kChunkT), first = i % (args.pitch / kChunkT) * kChunkT;
    alignas(16) T chunk[kChunkT];
#pragma unroll
    for (int j = 0; j < kChunkT; ++j) {
      const int64_t from = source_channel(args, first + j);
      chunk[j] = from >= 0 ? source[pixel * args.channels + from] : T(0);
    }
    reinterpret_cast<uint4*>(packed)[i] = *reinterpret_cast<const uint4*>(chunk);
  }
}

dim3 grid_of(int64_t work) { return dim3(unsigned(std::min<int64_t>((work + kThreads - 1) / kThreads, 1 << 20))); }

template <class T>
void pack_as(const PixelMajor& p, const void* source, void* packed, Stream stream) {
  const int64_t pitch = p.groups * p.group_pitch();
  const PackArgs args{p.pixels, p.groups * p.group_channels, int(p.group_channels), int(p.group_pitch()), pitch};
  const T* from = static_cast<const T*>(source);
  T* to = static_cast<T*>(packed);
  if (p.layout == Layout::kNCHW && p.pixels > 1) {
    const dim3 grid(unsigned(p.images * ((p.pixels + 63) / 64)), unsigned((pitch + 63) / 64));
    launch_dependent(kPackingInput, transpose_kernel<T>, grid, kThreads, stream, args, from, to);
  } else {
    const int64_t chunks = p.images * p.pixels * pitch / (16 / int64_t(sizeof(T)));
    launch_dependent(kPackingInput, pad_channels_kernel<T>, grid_of(chunks), kThreads, stream, args, chunks, from, to);
  }
}

// Where the weights of a filter lie, for kernels: element (k, c, tap) of a group, k and c counted in it, is at
// group * of_group + k * of_k + c * of_c + tap.
struct FilterStrides {
  int64_t of_group, of_k, of_c;
  int taps, group_k, group_c, groups;
};

FilterStrides strides_of(const Filter& f) {
  const int group_k = int(f.K / f.groups), group_c = int(f.C / f.groups), taps = int(f.taps());
  const bool k_first = f.op == Operator::kConv;
  return {int64_t(group_k) * group_c * taps,
          int64_t(k_first ? group_c : 1) * taps,
          int64_t(k_first ? 1 : group_k) * taps,
          taps,
          group_k,
          group_c,
          int(f.groups)};
}

template <class T>
__device__ T rounded(T v, bool) {
  return v;
}
__device__ inline float rounded(float v, bool to_tf32) {
  return to_tf32 ? __uint_as_float(ptx::round_to_tf32(__float_as_uint(v))) : v;
}

// To [taps][group_c][groups][group_k].
template <class T>
__global__ void __launch_bounds__(kThreads) pack_direct_kernel(FilterStrides f, int64_t count, const T* w, T* packed) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    const int64_t k = i % f.group_k, group = i / f.group_k % f.groups;
    const int64_t c = i / f.group_k / f.groups % f.group_c, tap = i / f.group_k / f.groups / f.group_c;
    packed[i] = w[group * f.of_group + k * f.of_k + c * f.of_c + tap];
  }
}

// To [groups / members][taps][members * group_k][pitch], pitch >= members * group_c.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_gemm_kernel(FilterStrides f, int members, int pitch, bool tf32, int64_t count, const T* w, T* packed) {
  const int rows = members * f.group_k;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    const int c = int(i % pitch), k = int(i / pitch % rows);
    const int64_t tap = i / pitch / rows % f.taps, gemm_group = i / pitch / rows / f.taps;
    const int member = k / f.group_k;
    const bool weight = c / f.group_c == member;
    const int64_t group = gemm_group * members + member;
    packed[i] =
        weight ? rounded(w[group * f.of_group + k % f.group_k * f.of_k + c % f.group_c * f.of_c + tap], tf32) : T(0);
  }
}

int64_t packed_elements(const Filter& f, DataType type) {
  const GemmGroups gemm = gemm_groups(f);
  return is_direct(f) ? f.elements() : f.taps() * f.K * padded_channels(gemm.c, type);
}

template <class T>
void pack_filter_as(const Filter& f, DataType type, bool tf32, const void* source, void* target, Stream stream) {
  const int64_t count = packed_elements(f, type);
  if (count == 0) return;
  const T* w = static_cast<const T*>(source);
  T* packed = static_cast<T*>(target);
  if (is_direct(f)) {
    launch(kPackingWeights, pack_direct_kernel<T>, grid_of(count), kThreads, stream, strides_of(f), count, w, packed);
  } else {
    const GemmGroups gemm = gemm_groups(f);
    launch(kPackingWeights, pack_gemm_kernel<T>, grid_of(count), kThreads, stream, strides_of(f),
           int(f.groups / gemm.count), int(padded_channels(gemm.c, type)), tf32, count, w, packed);
  }
}

}  // namespace

void pack_pixel_major(const PixelMajor& p, const void* source, void* packed, Stream stream) {
  if (p.images * p.pixels == 0) return;
  if (size_of(p.type) == 4)
    pack_as<uint32_t>(p, source, packed, stream);
  else
    pack_as<uint16_t>(p, source, packed, stream);
}

size_t portable_filter_bytes(const FilterUse& use) {
  return size_t(packed_elements(use.filter, use.type)) * size_of(use.type);
}

void pack_portable_filter(const FilterUse& use, const void* w, void* packed, Stream stream) {
  if (use.type == DataType::kFloat)
    pack_filter_as<float>(use.filter, use.type, use.precision == Precision::kTF32, w, packed, stream);
  else
    pack_filter_as<uint16_t>(use.filter, use.type, false, w, packed, stream);
}

}  // namespace cks::cuda
