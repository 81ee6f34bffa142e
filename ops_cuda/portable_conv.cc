// The host's half of the portable implicit GEMM: which kernel, which tiles, and the launch.
#include "ops_cuda/portable_conv.h"

#include <utility>

#include "ops_cuda/device_epilogue.h"
#include "ops_cuda/error.h"
#include "ops_cuda/kernel.h"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/pack.h"

namespace cks::cuda {
namespace {

// Tensor cores know fp16 since sm_75, bf16 and tf32 since sm_80.
PortableKernel find_kernel(const ConvolutionSpec& spec, const Device& device, int shape) {
  const bool ampere = device.capability >= 80;
  switch (spec.type) {
    case DataType::kHalf:
      return half_mma_kernel(shape);
    case DataType::kBFloat16:
      return ampere ? bfloat16_mma_kernel(shape) : bfloat16_fma_kernel(shape);
    case DataType::kFloat:
      break;
  }
  return ampere && spec.precision == Precision::kTF32 ? tf32_mma_kernel(shape) : float_fma_kernel(shape);
}

// Boxes that skip the most; but where pixels of the output are contiguous, wide ones, unless they multiply much more.
Plan plan_tiles(const Problem& p, int rows, double overhead, bool channels_first) {
  Plan plan = make_plan(p, choose_box(p, rows, overhead));
  if (!channels_first) return plan;
  Plan wide = make_plan(p, wide_box(p, rows));
  return double(wide.executed_pixel_taps) < 1.25 * double(plan.executed_pixel_taps) ? std::move(wide) : std::move(plan);
}

class PortableConv : public ConvolutionKernel {
 public:
  PortableConv(const ConvolutionSpec& spec, const Device& device)
      : groups_(gemm_groups(spec.problem.filter)),
        input_{spec.problem.N, volume(spec.problem.input), groups_.count, groups_.c, spec.type, spec.layouts.x},
        epilogue_(spec) {
    const Problem& p = spec.problem;
    const Filter& f = p.filter;
    const int shape =
        choose_tile({p.N * volume(p.output), groups_.k, groups_.count, device.multiprocessors, device.shared_bytes});
    const TileShape& tile = kTileShapes[shape];
    kernel_ = find_kernel(spec, device, shape);
    check(cudaFuncSetAttribute(kernel_.function, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel_.shared_bytes),
          "preparing the implicit GEMM kernel");

    // The start and the epilogue of a tile cost about four k-blocks of 64 bytes, in taps:
    const double overhead = 4.0 * 64 / double(input_.group_pitch() * int64_t(size_of(spec.type)));
    const int64_t pixels = volume(p.output);
    const bool channels_first = spec.layouts.y == Layout::kNCHW && pixels > 1;
    plan_ = std::make_unique<DevicePlan>(plan_tiles(p, tile.m, overhead, channels_first));

    args_.tiles = plan_->tiles(), args_.taps = plan_->taps();
    args_.input = to_int3(p.input), args_.output = to_int3(p.output);
    args_.groups = int(groups_.count), args_.group_k = int(groups_.k), args_.filter_taps = int(f.taps());
    args_.group_c = int(input_.group_pitch());
    args_.pixel_chunks = int(groups_.count * input_.group_pitch() * int64_t(size_of(spec.type)) / 16);
    if (input_.bytes() / 16 > UINT32_MAX) throw Error("the convolution is too large: its input has more than 64 GiB");
    args_.column_tiles = int(ceil_div(groups_.k, tile.n));
    args_.y_image = pixels * f.K;
    args_.y_pixel = channels_first ? 1 : f.K;
    args_.y_channel = channels_first ? pixels : 1;
    args_.chunks = !channels_first && groups_.k % (16 / int64_t(size_of(spec.type))) == 0;

    blocks_ = plan_->num_tiles() * groups_.count * args_.column_tiles;
    if (blocks_ > INT32_MAX) throw Error("the convolution is too large: its output has more than 2^31 tiles");
  }

  size_t workspace_bytes() const override { return input_.is_already() ? 0 : input_.bytes(); }
  const char* name() const override { return kernel_.name; }

  void run(InputTensors input, const void* filter, const void* bias, const void* residual, void* y, void* workspace,
           Stream stream) const override {
    PortableConvArgs args = args_;
    args.x = input.x;
    if (!input_.is_already()) {
      pack_pixel_major(input_, input.x, workspace, stream);
      args.x = workspace;
    }
    require_aligned(args.x, "X");
    if (args.chunks) require_aligned(y, "Y"), require_aligned(residual, "Z"), require_aligned(bias, "B");
    args.filter = filter;
    args.epilogue = epilogue_.of(bias, residual, y);
    void* parameters[] = {&args};
    launch_dependent("launching the implicit GEMM kernel", kernel_.function, dim3(unsigned(blocks_)), kTileThreads,
                     kernel_.shared_bytes, stream, parameters);
  }

 private:
  GemmGroups groups_;
  PixelMajor input_;
  PortableKernel kernel_;
  DeviceEpilogue epilogue_;
  std::unique_ptr<DevicePlan> plan_;
  PortableConvArgs args_{};
  int64_t blocks_;
};

}  // namespace

std::unique_ptr<ConvolutionKernel> make_portable_conv(const ConvolutionSpec& spec, const Device& device) {
  return std::make_unique<PortableConv>(spec, device);
}

}  // namespace cks::cuda
