// Depthwise convolutions, on CUDA cores. Channels last: every thread sums four outputs along w of a chunk of channels,
// and the inputs that they share are loaded and converted once. Channels first: parts of planes go through shared
// memory, converted on the way, and a thread sums a few outputs along h, so that neighbouring threads are neighbours
// along w.
#include "ops_cuda/depthwise_plan.h"
#include "ops_cuda/device_epilogue.h"
#include "ops_cuda/divider.h"
#include "ops_cuda/epilogue.cuh"
#include "ops_cuda/kernel.h"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/patch_copy.cuh"
#include "ops_cuda/work_tile.cuh"

namespace cks::cuda {
namespace {

struct DepthwiseArgs {
  const void *x, *filter;  // filter: [taps][C]
  Int3 input, output, filter_extent, stride, dilation, pad;
  int32_t C;
  Epilogue epilogue;
};

// What slides over a window: position j of it meets tap j - p * kStep of output p.
template <int kOutputs, int kStep, int kTaps>
inline constexpr int kWindow = (kOutputs - 1) * kStep + kTaps;

__device__ int first_of_strip(int strip, int outputs, int out_step) {
  return strip / out_step * outputs * out_step + strip % out_step;
}

// ---- channels last ----

constexpr int kChunkThreads = 256;

// A thread block covers blockDim = (chunks of channels, strips along w, rows).
struct ChunkArgs : DepthwiseArgs {
  int32_t column_blocks, strip_blocks, row_blocks, out_step;
};

// Adds kTaps taps of a filter row: `x` is the window's first pixel, at w, `weights` the first tap's.
template <class T, int kStep, int kTaps>
__device__ void add_taps(const ChunkArgs& args, float (&sum)[kChunkOutputs][kChunk<T>], const T* x, int w,
                         const T* weights) {
  using Load = Elements<T, kChunk<T>>;
  constexpr int kPositions = kWindow<kChunkOutputs, kStep, kTaps>;
  uint4 loaded[kPositions], tap[kTaps];  // all loads before the first product: they wait together
#pragma unroll
  for (int j = 0; j < kPositions; ++j) {
    const int at = j * args.dilation.w;
    loaded[j] = Load::load(x + int64_t(at) * args.C, unsigned(w + at) < unsigned(args.input.w));
  }
#pragma unroll
  for (int s = 0; s < kTaps; ++s) tap[s] = Load::load(weights + int64_t(s) * args.C, true);
  float weight[kTaps][kChunk<T>];
#pragma unroll
  for (int s = 0; s < kTaps; ++s) Load::unpack(tap[s], weight[s]);
#pragma unroll
  for (int j = 0; j < kPositions; ++j) {
    float value[kChunk<T>];
    Load::unpack(loaded[j], value);
#pragma unroll
    for (int p = 0; p < kChunkOutputs; ++p) {
      const int s = j - p * kStep;
      if (s < 0 || s >= kTaps) continue;
#pragma unroll
      for (int v = 0; v < kChunk<T>; ++v) sum[p][v] = fmaf(value[v], weight[s][v], sum[p][v]);
    }
  }
}

template <class T, int kStep>
__global__ void __launch_bounds__(kChunkThreads, 2) depthwise_chunks(const __grid_constant__ ChunkArgs args) {
  unsigned block = blockIdx.x;
  const int k = (block % unsigned(args.column_blocks) * blockDim.x + threadIdx.x) * kChunk<T>;
  block /= unsigned(args.column_blocks);
  const int strip = block % unsigned(args.strip_blocks) * blockDim.y + threadIdx.y;
  block /= unsigned(args.strip_blocks);
  Int3 o;
  o.h = block % unsigned(args.row_blocks) * blockDim.z + threadIdx.z;
  block /= unsigned(args.row_blocks);
  o.d = block % unsigned(args.output.d);
  o.w = args.out_step == 1 ? strip * kChunkOutputs : first_of_strip(strip, kChunkOutputs, args.out_step);
  const int n = block / unsigned(args.output.d);
  if (k >= args.C || o.h >= args.output.h || o.w >= args.output.w) return;

  const T* const x = static_cast<const T*>(args.x) + k;
  const T* const filter = static_cast<const T*>(args.filter) + k;
  float sum[kChunkOutputs][kChunk<T>] = {};
  for (int t = 0; t < args.filter_extent.d; ++t)
    for (int r = 0; r < args.filter_extent.h; ++r) {
      Int3 p{o.d * args.stride.d - args.pad.d + t * args.dilation.d,
             o.h * args.stride.h - args.pad.h + r * args.dilation.h, 0};
      if (!inside(args.input, p)) continue;
      p.w = o.w * args.stride.w - args.pad.w;
      const int S = args.filter_extent.w;
      const int64_t pixel = int64_t(n) * args.input.d * args.input.h * args.input.w + pixel_index(args.input, p);
      const T* row = x + pixel * args.C;
      const T* weights = filter + int64_t(t * args.filter_extent.h + r) * S * args.C;
      for (int s = 0; s < S;) {
        const int left = S - s, taps = left <= 4 ? left : left == 5 ? 3 : 4;
        switch (taps) {
          case 1:
            add_taps<T, kStep, 1>(args, sum, row, p.w, weights);
            break;
          case 2:
            add_taps<T, kStep, 2>(args, sum, row, p.w, weights);
            break;
          case 3:
            add_taps<T, kStep, 3>(args, sum, row, p.w, weights);
            break;
          default:
            add_taps<T, kStep, 4>(args, sum, row, p.w, weights);
        }
        s += taps, p.w += taps * args.dilation.w;
        row += int64_t(taps) * args.dilation.w * args.C, weights += int64_t(taps) * args.C;
      }
    }
  if (args.epilogue.bias)
#pragma unroll
    for (int p = 0; p < kChunkOutputs; ++p) add_neighbours(sum[p], static_cast<const T*>(args.epilogue.bias) + k);
#pragma unroll
  for (int p = 0; p < kChunkOutputs; ++p) {
    const Int3 q{o.d, o.h, o.w + p * args.out_step};
    if (q.w >= args.output.w) break;
    const int64_t pixel = int64_t(n) * args.output.d * args.output.h * args.output.w + pixel_index(args.output, q);
    if (args.epilogue.residual)
      add_neighbours(sum[p], static_cast<const T*>(args.epilogue.residual) + pixel * args.C + k,
                     args.epilogue.residual_slope);
    if (args.epilogue.slopes) apply_slopes(sum[p], args.epilogue.slopes + k);
    activate_by_calls(args.epilogue, sum[p]);
    store_neighbours(sum[p], static_cast<T*>(args.epilogue.y) + pixel * args.C + k);
  }
}

// ---- channels first ----

struct PlaneArgs : DepthwiseArgs {
  int32_t planes_together, box_h, box_w, strips, patch_h, patch_pitch, lead, filter_pitch;
  bool chunks;
  Divider row_units;  // of a row of the patch, elements or chunks
  int32_t blocks_down, blocks_across, out_step;
  Divider patch_rows, across, strips_of_plane;  // by patch_h, by threads along w, by strips
  int64_t planes;
};

// Adds kTaps taps of a filter column: `x` is the window's first element, the next lies `step` further.
template <int kOutputs, int kStep, int kTaps>
__device__ void add_taps(float (&sum)[kOutputs], const float* x, int step, const float* weights) {
  const float4 four = *reinterpret_cast<const float4*>(weights);
  const float weight[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
  for (int j = 0; j < kWindow<kOutputs, kStep, kTaps>; ++j) {
    const float value = x[j * step];
#pragma unroll
    for (int p = 0; p < kOutputs; ++p) {
      const int r = j - p * kStep;
      if (r >= 0 && r < kTaps) sum[p] = fmaf(value, weight[r], sum[p]);
    }
  }
}

// Outputs of a thread that exist, `step` apart, the first so far from the end.
__device__ int outputs_left(int extent, int step) {
  return step == 1 || extent <= 0 ? extent : (extent + step - 1) / step;
}

template <class T, int kStep>
__global__ void __launch_bounds__(kPlaneThreads) depthwise_planes(const __grid_constant__ PlaneArgs args) {
  constexpr int kOutputs = kPlaneOutputs<kStep>;
  extern __shared__ __align__(16) float shared[];
  const int R = args.filter_extent.h, S = args.filter_extent.w;
  float* const filter = shared;  // [plane][s][r]
  float* const patch = shared + args.planes_together * S * args.filter_pitch;
  unsigned block = blockIdx.x;
  const int first_w = int(block % unsigned(args.blocks_across)) * args.box_w;
  block /= unsigned(args.blocks_across);
  const int first_h = int(block % unsigned(args.blocks_down)) * args.box_h;
  const int64_t first_plane = int64_t(block / unsigned(args.blocks_down)) * args.planes_together;
  const int planes = int(min(int64_t(args.planes_together), args.planes - first_plane));
  const auto channel = [&](int plane) {  // of planes (n, c, d)
    return int(unsigned(first_plane + plane) / unsigned(args.input.d) % unsigned(args.C));
  };
  for (int i = threadIdx.x; i < planes * S * args.filter_pitch; i += kPlaneThreads) {
    const int r = i % args.filter_pitch, s = i / args.filter_pitch % S, plane = i / args.filter_pitch / S;
    const T* const weights = static_cast<const T*>(args.filter) + channel(plane);
    filter[i] = r < R ? to_float(weights[int64_t(r * S + s) * args.C]) : 0.f;
  }
  const int corner_h = first_h * args.stride.h - args.pad.h, corner_w = first_w * args.stride.w - args.pad.w;
  const auto row_at = [&](int row) {
    const int plane = args.patch_rows.quotient(row), h = corner_h + row - plane * args.patch_h;
    return RowPlace{((first_plane + plane) * args.input.h + h) * args.input.w, row * args.patch_pitch,
                    unsigned(h) < unsigned(args.input.h)};
  };
  const auto place_at = [&](int i) {  // of an element, counted from the row's begin
    const int w = corner_w - args.lead + i;
    return UnitPlace{w, i, unsigned(w) < unsigned(args.input.w)};
  };
  const T* const x = static_cast<const T*>(args.x);
  if (args.chunks)
    copy_rows<kPlaneThreads, uint4>(
        x, args.row_units, planes * args.patch_h, row_at, [&](int i) { return place_at(i * kChunk<T>); },
        [&](int at, uint4 chunk) {
          float v[kChunk<T>];
          unpack_chunk<T>(chunk, v);
#pragma unroll
          for (int j = 0; j < kChunk<T>; j += 4)
            *reinterpret_cast<float4*>(patch + at + j) = make_float4(v[j], v[j + 1], v[j + 2], v[j + 3]);
        });
  else
    copy_rows<kPlaneThreads, T>(x, args.row_units, planes * args.patch_h, row_at, place_at,
                                [&](int at, T v) { patch[at] = to_float(v); });
  __syncthreads();

  const int across = args.across.divisor;
  for (int i = threadIdx.x; i < planes * args.strips * across; i += kPlaneThreads) {
    const int row = args.across.quotient(i), plane = args.strips_of_plane.quotient(row);
    const int w = i - row * across, strip = row - plane * args.strips;
    const int h = kStep > 0 ? first_of_strip(strip, kOutputs, args.out_step) : strip;
    const float* const corner =
        patch + (plane * args.patch_h + h * args.stride.h) * args.patch_pitch + args.lead + w * args.stride.w;
    const float* const weights = filter + plane * S * args.filter_pitch;
    float sum[kOutputs] = {};
    for (int s = 0; s < S; ++s) {
      const float* x = corner + s * args.dilation.w;
      const float* weight = weights + s * args.filter_pitch;
      const int step = args.dilation.h * args.patch_pitch;
      if constexpr (kStep == 0) {
        for (int r = 0; r < R; ++r, x += step)
#pragma unroll
          for (int p = 0; p < kOutputs; ++p) sum[p] = fmaf(x[p * across * args.stride.w], weight[r], sum[p]);
      } else {
        for (int left = R; left > 0; left -= 4, x += 4 * step, weight += 4) {
          if (left == 1)
            add_taps<kOutputs, kStep, 1>(sum, x, step, weight);
          else if (left == 2)
            add_taps<kOutputs, kStep, 2>(sum, x, step, weight);
          else if (left == 3)
            add_taps<kOutputs, kStep, 3>(sum, x, step, weight);
          else
            add_taps<kOutputs, kStep, 4>(sum, x, step, weight);
        }
      }
    }
    if (first_w + w >= args.output.w) continue;
    const Epilogue& e = args.epilogue;
    const int64_t first = ((first_plane + plane) * args.output.h + first_h + h) * args.output.w + first_w + w;
    const int64_t to_next = kStep > 0 ? args.out_step * args.output.w : across;
    const int count = kStep > 0 ? outputs_left(args.output.h - first_h - h, args.out_step)
                                : outputs_left(args.output.w - first_w - w, across);
    if (e.bias) {
      const float bias = to_float(static_cast<const T*>(e.bias)[channel(plane)]);
#pragma unroll
      for (float& v : sum) v += bias;
    }
    if (e.residual) {
      const T* residual = static_cast<const T*>(e.residual) + first;
#pragma unroll
      for (int p = 0; p < kOutputs; ++p, residual += to_next)
        if (p < count) sum[p] = add_leaky(sum[p], to_float(*residual), e.residual_slope);
    }
    if (e.slopes) {
      const float slope = e.slopes[channel(plane)];
#pragma unroll
      for (float& v : sum) v = leaky_relu(v, slope);
    }
    activate_by_calls(e, sum);
    T* y = static_cast<T*>(e.y) + first;
#pragma unroll
    for (int p = 0; p < kOutputs; ++p, y += to_next)
      if (p < count) *y = from_float<T>(sum[p]);
  }
}

// ---- the host's half ----

void set_common(const ConvolutionSpec& spec, DepthwiseArgs& args) {
  const Problem& p = spec.problem;
  args.input = to_int3(p.input), args.output = to_int3(p.output), args.filter_extent = to_int3(p.filter.extent);
  args.stride = to_int3(p.stride), args.dilation = to_int3(p.dilation), args.pad = to_int3(p.pad);
  args.C = int(p.filter.C);
}

template <class Args>
Args with_tensors(Args args, const void* x, const void* filter, const Epilogue& epilogue) {
  args.x = x, args.filter = filter, args.epilogue = epilogue;
  return args;
}

unsigned grid_of(int64_t blocks) {
  if (blocks > INT32_MAX) throw Error("the convolution is too large: its output has more than 2^31 tiles");
  return unsigned(blocks);
}

constexpr const char* kLaunching = "launching the depthwise convolution";

class DepthwiseChunks : public ConvolutionKernel {
 public:
  explicit DepthwiseChunks(const ConvolutionSpec& spec) : type_(spec.type), epilogue_(spec) {
    const Problem& p = spec.problem;
    set_common(spec, args_);
    const Slide slide = slide_of(p.stride[2], p.dilation[2]);
    step_ = int(slide.window_step);
    args_.out_step = int(slide.out_step);
    // A block covers a few rows, so that they share inputs in L1.
    const int64_t columns = p.filter.C / (16 / int64_t(size_of(type_)));
    const int64_t strips = strips_of(p.output[2], kChunkOutputs, slide.out_step);
    args_.column_blocks = int(ceil_div(columns, 32));
    threads_.x = unsigned(ceil_div(columns, args_.column_blocks));
    threads_.z = unsigned(std::min<int64_t>(4, p.output[1]));
    threads_.y = unsigned(std::min<int64_t>(strips, kChunkThreads / (threads_.x * threads_.z)));
    args_.strip_blocks = int(ceil_div(strips, threads_.y)), args_.row_blocks = int(ceil_div(p.output[1], threads_.z));
    grid_ = grid_of(p.N * p.output[0] * args_.row_blocks * args_.strip_blocks * args_.column_blocks);
  }

  size_t workspace_bytes() const override { return 0; }
  const char* name() const override { return "depthwise, by chunks"; }

  void run(InputTensors input, const void* filter, const void* bias, const void* residual, void* y, void*,
           Stream stream) const override {
    require_aligned(input.x, "X"), require_aligned(y, "Y"), require_aligned(residual, "Z"), require_aligned(bias, "B");
    const ChunkArgs args = with_tensors(args_, input.x, filter, epilogue_.of(bias, residual, y));
    with_type(type_, [&]<class T>(T*) {
      launch(kLaunching, step_ == 1 ? depthwise_chunks<T, 1> : depthwise_chunks<T, 2>, dim3(grid_), threads_, stream,
             args);
    });
  }

 private:
  DataType type_;
  DeviceEpilogue epilogue_;
  int step_;
  unsigned grid_;
  dim3 threads_;
  ChunkArgs args_{};
};

class DepthwisePlanes : public ConvolutionKernel {
 public:
  DepthwisePlanes(const ConvolutionSpec& spec, const Device& device) : type_(spec.type), epilogue_(spec) {
    const Problem& p = spec.problem;
    set_common(spec, args_);
    const PlanePlan plan = *plan_planes(p, type_, device.multiprocessors);
    step_ = plan.window_step;
    args_.out_step = int(slide_of(p.stride[1], p.dilation[1]).out_step);
    args_.planes = p.N * p.filter.C * p.input[0], args_.planes_together = plan.planes;
    args_.box_h = plan.box_h, args_.box_w = plan.box_w, args_.strips = plan.strips;
    args_.patch_h = plan.patch_h, args_.patch_pitch = plan.patch_pitch, args_.lead = plan.lead,
    args_.chunks = plan.chunks, args_.filter_pitch = plan.filter_pitch;
    args_.blocks_down = int(ceil_div(p.output[1], plan.box_h));
    args_.blocks_across = int(ceil_div(p.output[2], plan.box_w));
    args_.row_units = Divider(plan.chunks ? plan.patch_pitch / (16 / int(size_of(type_))) : plan.patch_pitch);
    args_.patch_rows = Divider(plan.patch_h), args_.strips_of_plane = Divider(plan.strips);
    args_.across = Divider(step_ > 0 ? plan.box_w : plan.box_w / plan.outputs);
    if (args_.planes > INT32_MAX) throw Error("the convolution is too large: its input has more than 2^31 planes");
    shared_bytes_ = int(plan.shared_bytes(p.filter.extent[2]));
    grid_ = grid_of(ceil_div(args_.planes, plan.planes) * args_.blocks_down * args_.blocks_across);
  }

  size_t workspace_bytes() const override { return 0; }
  const char* name() const override { return "depthwise, by planes"; }

  void run(InputTensors input, const void* filter, const void* bias, const void* residual, void* y, void*,
           Stream stream) const override {
    if (args_.chunks) require_aligned(input.x, "X");
    const PlaneArgs args = with_tensors(args_, input.x, filter, epilogue_.of(bias, residual, y));
    with_type(type_, [&]<class T>(T*) {
      const auto kernel = step_ == 0   ? depthwise_planes<T, 0>
                          : step_ == 1 ? depthwise_planes<T, 1>
                                       : depthwise_planes<T, 2>;
      launch_with_shared(kLaunching, kernel, dim3(grid_), kPlaneThreads, shared_bytes_, stream, args);
    });
  }

 private:
  DataType type_;
  DeviceEpilogue epilogue_;
  int step_, shared_bytes_;
  unsigned grid_;
  PlaneArgs args_{};
};

}  // namespace

std::unique_ptr<ConvolutionKernel> make_depthwise_conv(const ConvolutionSpec& spec, const Device& device) {
  if (by_planes(spec.problem.filter, spec.layouts)) return std::make_unique<DepthwisePlanes>(spec, device);
  return std::make_unique<DepthwiseChunks>(spec);
}

}  // namespace cks::cuda
