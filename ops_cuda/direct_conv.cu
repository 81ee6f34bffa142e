// Depthwise convolutions and groups of very few channels, on CUDA cores: every thread sums a few pixels of one output
// channel, or of a chunk of them where each channel is its own group and channels are contiguous.
#include "ops_cuda/device_epilogue.h"
#include "ops_cuda/epilogue.cuh"
#include "ops_cuda/kernel.h"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/tile_choice.h"
#include "ops_cuda/work_tile.cuh"

namespace cks::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 4;  // pixels of a thread: they share the loads of weights

struct DirectConvArgs {
  const WorkTile* tiles;
  const WorkTap* taps;
  const void *x, *filter;  // filter: [taps][group_c][K]
  Int3 input, output;
  int32_t K, group_k, group_c;
  int32_t column_threads, column_blocks;  // threads across channels; blocks too
  bool channels_first;                    // of y; then neighbouring threads take neighbouring pixels
  Strides x_strides, y_strides;
  Epilogue epilogue;
};

// The rows of a thread: first_row + i * row_threads.
template <class T, int kVector>
__device__ void convolve_rows(const DirectConvArgs& args, const WorkTile& tile, int first_row, int row_threads, int k) {
  using Load = Elements<T, kVector>;
  const int rows = pixels(tile);
  const T* const x = static_cast<const T*>(args.x) + int64_t(k / args.group_k * args.group_c) * args.x_strides.channel;
  Int3 corner[kRows];
  const T* source[kRows];
  int64_t target[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int row = first_row + i * row_threads;
    const TilePixel p = pixel_of_row(tile, row);
    corner[i] = along(tile.in_origin, tile.in_step, p.q);
    source[i] = x + p.n * args.x_strides.image + pixel_index(args.input, corner[i]) * args.x_strides.pixel;
    target[i] = p.n * args.y_strides.image +
                pixel_index(args.output, along(tile.out_origin, tile.out_step, p.q)) * args.y_strides.pixel +
                k * args.y_strides.channel;
    if (row >= rows) corner[i].d = INT32_MIN / 2;  // no tap brings it inside
  }
  float sum[kRows][kVector] = {};
  for (int t = 0; t < tile.num_taps; ++t) {
    const int4 raw = __ldg(reinterpret_cast<const int4*>(args.taps + tile.first_tap + t));
    const Int3 offset{raw.x, raw.y, raw.z};
    const int64_t distance = pixel_index(args.input, offset) * args.x_strides.pixel;
    const T* const w = static_cast<const T*>(args.filter) + int64_t(raw.w) * args.group_c * args.K + k;
    for (int c = 0; c < args.group_c; ++c) {
      // All loads before the first product: they wait together.
      typename Load::Raw loaded[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        loaded[i] =
            Load::load(source[i] + distance + c * args.x_strides.channel, inside(args.input, corner[i] + offset));
      float wv[kVector];
      Load::unpack(Load::load(w + int64_t(c) * args.K, true), wv);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        float xv[kVector];
        Load::unpack(loaded[i], xv);
#pragma unroll
        for (int v = 0; v < kVector; ++v) sum[i][v] = fmaf(xv[v], wv[v], sum[i][v]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (first_row + i * row_threads >= rows) continue;
    if constexpr (kVector == 1)
      store_output<T>(args.epilogue, sum[i][0], k, target[i]);
    else
      store_chunk<T>(args.epilogue, sum[i], k, target[i]);
  }
}

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads) direct_conv(const __grid_constant__ DirectConvArgs args) {
  const WorkTile tile = args.tiles[blockIdx.x / args.column_blocks];
  const int row_threads = kThreads / args.column_threads;
  const int row = args.channels_first ? threadIdx.x % row_threads : threadIdx.x / args.column_threads;
  const int column = args.channels_first ? threadIdx.x / row_threads : threadIdx.x % args.column_threads;
  const int k = (blockIdx.x % args.column_blocks * args.column_threads + column) * kVector;
  if (k >= args.K || row >= row_threads || column >= args.column_threads) return;
  for (int first_row = row; first_row < pixels(tile); first_row += row_threads * kRows)
    convolve_rows<T, kVector>(args, tile, first_row, row_threads, k);
}

Strides strides_of(const Dims& size, int64_t channels, bool channels_first) {
  const int64_t pixels = volume(size);
  return {pixels * channels, channels_first ? 1 : channels, channels_first ? pixels : 1};
}

// Small tiles where there would be too few blocks to fill the device.
int rows_of_tile(const Problem& p, int column_blocks, const Device& device) {
  int rows = 256;
  while (rows > 32 && p.N * volume(p.output) / rows * column_blocks < 4 * device.multiprocessors) rows /= 2;
  return rows;
}

class DirectConv : public ConvolutionKernel {
 public:
  DirectConv(const ConvolutionSpec& spec, const Device& device) : type_(spec.type), epilogue_(spec) {
    const Problem& p = spec.problem;
    const Filter& f = p.filter;
    const bool channels_first = spec.layouts.y == Layout::kNCHW && volume(p.output) > 1;
    const int chunk = 16 / int(size_of(type_));
    by_chunks_ = spec.layouts == Layout::kNHWC && f.groups == f.C && f.groups == f.K && f.K % chunk == 0;
    const int64_t columns = by_chunks_ ? f.K / chunk : f.K;
    args_.column_blocks = int(ceil_div(columns, channels_first ? 4 : 64));
    args_.column_threads = int(ceil_div(columns, args_.column_blocks));
    plan_ = std::make_unique<DevicePlan>(make_plan(p, wide_box(p, rows_of_tile(p, args_.column_blocks, device))));
    if (plan_->num_tiles() * args_.column_blocks > INT32_MAX)
      throw Error("the convolution is too large: its output has more than 2^31 tiles");

    args_.tiles = plan_->tiles(), args_.taps = plan_->taps();
    args_.input = to_int3(p.input), args_.output = to_int3(p.output);
    args_.K = int(f.K), args_.group_k = int(f.K / f.groups), args_.group_c = int(f.C / f.groups);
    args_.channels_first = channels_first;
    args_.x_strides = strides_of(p.input, f.C, spec.layouts.x == Layout::kNCHW);
    args_.y_strides = strides_of(p.output, f.K, spec.layouts.y == Layout::kNCHW);
  }

  size_t workspace_bytes() const override { return 0; }
  const char* name() const override { return by_chunks_ ? "direct, by chunks" : "direct"; }

  void run(InputTensors input, const void* filter, const void* bias, const void* residual, void* y, void*,
           Stream stream) const override {
    if (by_chunks_) {
      require_aligned(input.x, "X"), require_aligned(y, "Y"), require_aligned(residual, "Z"),
          require_aligned(bias, "B");
    }
    DirectConvArgs args = args_;
    args.x = input.x, args.filter = filter;
    args.epilogue = epilogue_.of(bias, residual, y);
    with_type(type_, [&]<class T>(T*) {
      launch("launching the direct convolution", by_chunks_ ? direct_conv<T, kChunk<T>> : direct_conv<T, 1>,
             dim3(unsigned(plan_->num_tiles() * args.column_blocks)), kThreads, stream, args);
    });
  }

 private:
  DataType type_;
  DeviceEpilogue epilogue_;
  bool by_chunks_;
  DirectConvArgs args_{};
  std::unique_ptr<DevicePlan> plan_;
};

}  // namespace

std::unique_ptr<ConvolutionKernel> make_direct_conv(const ConvolutionSpec& spec, const Device& device) {
  return std::make_unique<DirectConv>(spec, device);
}

}  // namespace cks::cuda
