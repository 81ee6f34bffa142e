// The host's half of few_outputs_conv.cuh.
#include "ops_cuda/few_outputs.h"

#include <algorithm>

#include "ops_cuda/device_epilogue.h"
#include "ops_cuda/error.h"
#include "ops_cuda/kernel.h"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/pack.h"
#include "ops_cuda/shared_memory.h"

namespace cks::cuda {
namespace {

const void* find_kernel(const ConvolutionSpec& spec, int columns, bool chunks) {
  switch (spec.type) {
    case DataType::kHalf:
      return few_outputs_half(columns, chunks);
    case DataType::kBFloat16:
      return few_outputs_bfloat16(columns, chunks);
    case DataType::kFloat:
      break;
  }
  return spec.precision == Precision::kTF32 ? few_outputs_tf32(columns, chunks) : few_outputs_float(columns, chunks);
}

class FewOutputsConv : public ConvolutionKernel {
 public:
  FewOutputsConv(const ConvolutionSpec& spec, const Device& device)
      : FewOutputsConv(spec, device,
                       *plan_few_outputs(spec.problem, spec.type, device.multiprocessors, half_of_shared(device))) {}

  size_t workspace_bytes() const override { return 0; }
  const char* name() const override { return "few outputs"; }

  void run(InputTensors input, const void* filter, const void* bias, const void* residual, void* y, void*,
           Stream stream) const override {
    if (chunks_) require_aligned(input.x, "X");
    FewOutputsArgs args = args_;
    args.x = input.x, args.filter = filter;
    args.epilogue = epilogue_.of(bias, residual, y);
    void* parameters[] = {&args};
    launch_dependent("launching the convolution of few outputs", function_, dim3(unsigned(blocks_)), kFewOutputsThreads,
                     shared_bytes_, stream, parameters);
  }

 private:
  FewOutputsConv(const ConvolutionSpec& spec, const Device& device, const FewOutputsPlan& plan)
      : reaches_(plan.reaches.data(), size_t(plan.reach_bytes())),
        epilogue_(spec),
        shared_bytes_(int(plan.shared_bytes(spec.problem.filter.K))) {
    const Problem& p = spec.problem;
    const Filter& f = p.filter;
    const bool x_planes = spec.layouts.x == Layout::kNCHW, y_planes = spec.layouts.y == Layout::kNCHW;
    chunks_ = !x_planes && f.C % (16 / int64_t(size_of(spec.type))) == 0;
    function_ = find_kernel(spec, plan.columns, chunks_);
    allow_all_shared_memory(function_);
    int resident = 0;
    check(
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, function_, kFewOutputsThreads, size_t(shared_bytes_)),
        "preparing the convolution of few outputs");

    args_.reaches = reinterpret_cast<const Reach*>(reaches_.data());
    args_.input = to_int3(p.input), args_.output = to_int3(p.output), args_.filter_extent = to_int3(f.extent);
    args_.box = plan.box, args_.patch = plan.patch;
    args_.patch_first = plan.patch_first, args_.patch_step = plan.patch_step;
    args_.tap_step = plan.tap_step, args_.pixel_step = plan.pixel_step;
    args_.tiles = {int32_t(ceil_div(p.output[0], plan.box.d)), int32_t(ceil_div(p.output[1], plan.box.h)),
                   int32_t(ceil_div(p.output[2], plan.box.w))};
    const int64_t tiles = p.N * args_.tiles.d * args_.tiles.h * args_.tiles.w;
    if (tiles > INT32_MAX) throw Error("the convolution is too large: its output has more than 2^31 tiles");
    args_.num_tiles = uint32_t(tiles);
    args_.patch_w = Divider(plan.patch.w), args_.patch_h = Divider(plan.patch.h), args_.box_h = Divider(plan.box.h);
    args_.C = int(f.C), args_.K = int(f.K), args_.lines = int(f.extent[0] * f.extent[1]);
    args_.filter_is_constant = spec.filter_is_constant;
    args_.turn_lines = plan.turn_lines, args_.turns = plan.turns;
    args_.packed_pitch = int(padded_channels(f.C, spec.type));
    args_.channel_blocks = plan.channel_blocks, args_.filter_pitch = plan.filter_pitch;
    args_.product_pitch = plan.product_pitch, args_.product_rows = int(plan.product_rows());
    args_.patch_pixels = int(plan.patch_pixels()), args_.num_reaches = int(plan.reaches.size());
    // A thread sums four pixels of a row where there is one output channel; all threads are busy where rows are few.
    const int row_threads = int(ceil_div(plan.box.w, f.K == 1 ? 4 : 1)), rows = plan.box.d * plan.box.h;
    while (2 << args_.row_threads_log2 <= kFewOutputsThreads && 1 << args_.row_threads_log2 < row_threads &&
           (args_.row_threads_log2 < 5 || rows << args_.row_threads_log2 < kFewOutputsThreads))
      ++args_.row_threads_log2;
    const int64_t in = volume(p.input), out = volume(p.output);
    args_.x_image = in * f.C, args_.x_pixel = x_planes ? 1 : f.C, args_.x_channel = x_planes ? in : 1;
    args_.y_image = out * f.K, args_.y_pixel = y_planes ? 1 : f.K, args_.y_channel = y_planes ? out : 1;
    blocks_ = std::min(tiles, int64_t(device.multiprocessors) * std::max(resident, 1));
  }

  DeviceCopy reaches_;
  DeviceEpilogue epilogue_;
  const void* function_;
  int shared_bytes_;
  bool chunks_;
  int64_t blocks_;
  FewOutputsArgs args_{};
};

}  // namespace

std::unique_ptr<ConvolutionKernel> make_few_outputs_conv(const ConvolutionSpec& spec, const Device& device) {
  return std::make_unique<FewOutputsConv>(spec, device);
}

}  // namespace cks::cuda
