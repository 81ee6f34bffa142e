// The weight gradient: the direct kernel for few channels a group, the sum of slices, and the launches.
#include <algorithm>
#include <limits>
#include <optional>

#include "ops_cuda/element.cuh"
#include "ops_cuda/few_pixels_plan.h"
#include "ops_cuda/kernel.h"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/pack.h"
#include "ops_cuda/tile_choice.h"
#include "ops_cuda/weight_gradient.cuh"

namespace cks::cuda {
namespace {

// A block sums `args.columns` columns over 128 / columns lanes of pixels, which meet in shared memory. A column is an
// element of dW, or a chunk of them where every channel is its own group.
template <class T, int kVector>
__global__ void __launch_bounds__(kGradientThreads) direct_gradient(const __grid_constant__ WeightGradientArgs args) {
  using Load = Elements<T, kVector>;
  __shared__ float sums[kGradientThreads][kVector];
  const GradientWork work = gradient_work<1>(args);
  const LiveTap tap = args.taps[work.tap];
  const int lanes = kGradientThreads / args.columns;
  const int lane = threadIdx.x / args.columns, column = threadIdx.x % args.columns;
  const int64_t element = (int64_t(work.row_tile) * args.columns + column) * kVector;
  const int64_t k = element / args.group_c, c = element % args.group_c;
  const bool inside = k < args.K && lane < lanes;
  const T* const dy = static_cast<const T*>(args.dy.data) + k;
  const T* const x = static_cast<const T*>(args.x.data) + k / args.group_k * args.group_c + c;
  LivePixels at(tap, work.first_pixel + lane, lanes);
  const int64_t pixels = inside && work.pixels > lane ? (work.pixels - lane + lanes - 1) / lanes : 0;
  float sum[kVector] = {};
#pragma unroll 4  // loads of four pixels wait together
  for (int64_t i = 0; i < pixels; ++i, at.advance()) {
    const Int3 o = at.output();
    float dyv[kVector], xv[kVector];
    Load::unpack(Load::load(dy + operand_offset(args.dy, at.image(), o), true), dyv);
    const Int3 p = along(tap.offset, args.stride, o);
    Load::unpack(Load::load(x + operand_offset(args.x, at.image(), p), true), xv);
#pragma unroll
    for (int v = 0; v < kVector; ++v) sum[v] = fmaf(dyv[v], xv[v], sum[v]);
  }
#pragma unroll
  for (int v = 0; v < kVector; ++v) sums[threadIdx.x][v] = sum[v];
  __syncthreads();
  if (lane != 0 || !inside) return;
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    for (int i = 1; i < lanes; ++i) sum[v] += sums[i * args.columns + column][v];
    partial_at(args, work, k, c)[v] = sum[v];
  }
}

// dW[k][c][filter tap] from the partial sums of all slices, in their order.
template <class T>
__global__ void __launch_bounds__(256)
    sum_slices(const float* partial, const LiveTap* taps, int slices, int num_taps, int64_t matrix, T* dw) {
  const int64_t count = matrix * num_taps;
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < count; i += int64_t(gridDim.x) * 256) {
    float sum = 0;
    for (int s = 0; s < slices; ++s) sum += partial[s * count + i];
    dw[i % matrix * num_taps + taps[i / matrix].filter] = from_float<T>(sum);
  }
}

std::vector<LiveTap> live_taps(const Problem& p) {
  std::vector<LiveTap> taps;
  for (const GradientTap& g : weight_gradient_taps(p)) {
    LiveTap& tap = taps.emplace_back();
    const Index3 &begin = g.live.begin, &end = g.live.end;
    tap.offset = to_int3(g.tap.offset), tap.begin = to_int3(begin);
    tap.extent = {end[0] - begin[0], end[1] - begin[1], end[2] - begin[2]};
    tap.filter = g.tap.filter;
  }
  return taps;
}

// Groups that would fill less than a sixty-fourth of the product's 64 x 64 tiles.
bool is_narrow(const Filter& f) { return (f.C / f.groups) * (f.K / f.groups) < 64; }

size_t aligned(size_t bytes) { return size_t(round_up(int64_t(bytes), kWorkspaceAlignment)); }

class PortableGradient : public WeightGradientKernel {
 public:
  PortableGradient(const Problem&, DataType, Layout, Precision);
  size_t workspace_bytes() const override { return partial_bytes() + x_bytes() + dy_bytes(); }
  void run(const void* x, const void* dy, void* dw, void* workspace, Stream) const override;
  const char* name() const override { return direct_ ? "direct" : "portable"; }

 private:
  DataType type_;
  bool direct_;
  PixelMajor x_form_, dy_form_;  // how the operands are packed, where they are
  bool pack_x_, pack_dy_;
  bool chunks_ = true;  // operands are read by chunks of 16 bytes
  const void* kernel_ = nullptr;
  WeightGradientArgs args_{};
  std::optional<DeviceCopy> taps_;
  int64_t blocks_ = 0, matrix_ = 0;

  void choose_kernel(Precision, const Device&);
  template <class T>
  void choose_direct_kernel();
  size_t partial_bytes() const {
    return aligned(size_t(args_.slices) * size_t(args_.num_taps * matrix_) * sizeof(float));
  }
  size_t x_bytes() const { return pack_x_ ? aligned(x_form_.bytes()) : 0; }
  size_t dy_bytes() const { return pack_dy_ ? aligned(dy_form_.bytes()) : 0; }
  template <class T>
  void launch_sum(const WeightGradientArgs&, void* dw, Stream) const;
};

template <class T>
void PortableGradient::choose_direct_kernel() {
  chunks_ = args_.group_k == 1 && args_.group_c == 1 && args_.dy.pitch % kChunk<T> == 0 &&
            args_.x.pitch % kChunk<T> == 0 && args_.K % kChunk<T> == 0;
  kernel_ = chunks_ ? reinterpret_cast<const void*>(&direct_gradient<T, kChunk<T>>)
                    : reinterpret_cast<const void*>(&direct_gradient<T, 1>);
  const int64_t columns = chunks_ ? matrix_ / kChunk<T> : matrix_;
  args_.row_tiles = int(ceil_div(columns, 64));
  args_.columns = int(ceil_div(columns, args_.row_tiles));
}

void PortableGradient::choose_kernel(Precision precision, const Device& device) {
  const bool ampere = device.capability >= 80;
  switch (type_) {
    case DataType::kHalf:
      if (direct_) return choose_direct_kernel<__half>();
      kernel_ = gradient_gemm_kernel(GradientMath::kHalfMma);
      break;
    case DataType::kBFloat16:
      if (direct_) return choose_direct_kernel<__nv_bfloat16>();
      kernel_ = gradient_gemm_kernel(ampere ? GradientMath::kBFloat16Mma : GradientMath::kBFloat16Fma);
      break;
    case DataType::kFloat:
      if (direct_) return choose_direct_kernel<float>();
      kernel_ = gradient_gemm_kernel(ampere && precision == Precision::kTF32 ? GradientMath::kTf32Mma
                                                                             : GradientMath::kFloatFma);
      break;
  }
  args_.row_tiles = int(ceil_div(args_.group_k, kGradientTile));
  args_.column_tiles = int(ceil_div(args_.group_c, kGradientTile));
}

// The direct kernel reads single channels, in any number, all groups side by side; the product whole chunks of a group.
PortableGradient::PortableGradient(const Problem& p, DataType type, Layout layout, Precision precision)
    : type_(type), direct_(is_narrow(p.filter)) {
  const Filter& f = p.filter;
  const int64_t pack_groups = direct_ ? 1 : f.groups;
  x_form_ = {p.N, volume(p.input), pack_groups, f.C / pack_groups, type, layout};
  dy_form_ = {p.N, volume(p.output), pack_groups, f.K / pack_groups, type, layout};
  const auto must_pack = [&](const PixelMajor& v) {
    return !v.is_already() && !(direct_ && (layout == Layout::kNHWC || v.pixels == 1));
  };
  pack_x_ = must_pack(x_form_), pack_dy_ = must_pack(dy_form_);
  const auto operand = [](const PixelMajor& v, const Dims& size, bool packed) {
    const int64_t group = packed ? v.group_pitch() : v.group_channels;
    return GradientOperand{nullptr, to_int3(size), v.groups * group, int(group), int(v.group_channels)};
  };
  args_.x = operand(x_form_, p.input, pack_x_), args_.dy = operand(dy_form_, p.output, pack_dy_);
  args_.images = p.N, args_.stride = to_int3(p.stride);
  args_.K = int(f.K), args_.group_k = int(f.K / f.groups), args_.group_c = int(f.C / f.groups);
  args_.groups = int(pack_groups), args_.row_tiles = args_.column_tiles = 1;
  matrix_ = f.K * (f.C / f.groups);

  const std::vector<LiveTap> live = live_taps(p);
  args_.num_taps = int(live.size());
  taps_.emplace(live.data(), live.size() * sizeof(LiveTap));
  args_.taps = reinterpret_cast<const LiveTap*>(taps_->data());

  const Device device = current_device();
  choose_kernel(precision, device);
  const int64_t products = int64_t(args_.num_taps) * args_.groups * args_.row_tiles * args_.column_tiles;
  // Slices to fill the device about twice, but none shorter than 256 pixels.
  int64_t longest = 0;
  for (const LiveTap& tap : live) longest = std::max(longest, p.N * tap.extent.d * tap.extent.h * tap.extent.w);
  args_.slices = int(std::clamp<int64_t>((8 * device.multiprocessors + products - 1) / products, 1,
                                         std::max<int64_t>(1, longest / 256)));
  blocks_ = products * args_.slices;
  if (blocks_ > INT32_MAX) throw Error("the weight gradient is too large: it has more than 2^31 tiles");
}

template <class T>
void PortableGradient::launch_sum(const WeightGradientArgs& args, void* dw, Stream stream) const {
  const int64_t count = matrix_ * args.num_taps;
  const dim3 grid(unsigned(std::min<int64_t>((count + 255) / 256, 1 << 16)));
  launch("launching the sum of a weight gradient's slices", sum_slices<T>, grid, 256, stream, args.partial, args.taps,
         args.slices, args.num_taps, matrix_, static_cast<T*>(dw));
}

void PortableGradient::run(const void* x, const void* dy, void* dw, void* workspace, Stream stream) const {
  WeightGradientArgs args = args_;
  char* free = static_cast<char*>(workspace);
  args.partial = reinterpret_cast<float*>(free);
  free += partial_bytes();
  args.x.data = x, args.dy.data = dy;
  if (pack_x_) {
    pack_pixel_major(x_form_, x, free, stream);
    args.x.data = free;
    free += x_bytes();
  }
  if (pack_dy_) {
    pack_pixel_major(dy_form_, dy, free, stream);
    args.dy.data = free;
  }
  if (chunks_) require_aligned(args.x.data, "X"), require_aligned(args.dy.data, "dY");
  void* parameters[] = {&args};
  check(cudaLaunchKernel(kernel_, dim3(unsigned(blocks_)), dim3(kGradientThreads), parameters, 0, stream),
        "launching the weight gradient");
  with_type(type_, [&]<class T>(T*) { launch_sum<T>(args, dw, stream); });
}

// The kernel for few pixels serves up to so many where nothing tells how long another takes: a guess, which has not
// been timed beside the portable one.
constexpr int64_t kFewPixelsUntimed = 256;

std::unique_ptr<WeightGradientKernel> make_gradient(const Problem& p, DataType type, Layout layout,
                                                    Precision precision) {
  const Device device = current_device();
  if (!is_narrow(p.filter)) {
    std::optional<FewPixelsPlan> few;
    if (few_pixels_takes_gradient(p, type, layout, device)) few = plan_few_pixels(p, precision, device);
    bool few_is_faster = p.N * volume(p.output) <= kFewPixelsUntimed;
#ifdef ORT_CKS_HOPPER
    if (hopper_takes_gradient(p, type, layout, device)) {
      const double cycles = few ? few->cycles : std::numeric_limits<double>::infinity();
      if (auto hopper = make_hopper_gradient(p, type, precision, cycles)) return hopper;
      few_is_faster = true;
    }
#endif
    if (few && few_is_faster) return make_few_pixels_gradient(p, precision, *few);
  }
  return std::make_unique<PortableGradient>(p, type, layout, precision);
}

}  // namespace

struct WeightGradient::Impl {
  std::unique_ptr<WeightGradientKernel> kernel;
};

WeightGradient::WeightGradient(const Problem& problem, DataType type, Layout layout, Precision precision)
    : impl_(new Impl{make_gradient(problem, type, layout, precision)}) {}

WeightGradient::~WeightGradient() = default;

size_t WeightGradient::workspace_bytes() const { return impl_->kernel->workspace_bytes(); }

void WeightGradient::run(const void* x, const void* dy, void* dw, void* workspace, Stream stream) const {
  impl_->kernel->run(x, dy, dw, workspace, stream);
}

const char* WeightGradient::kernel_name() const { return impl_->kernel->name(); }

}  // namespace cks::cuda
