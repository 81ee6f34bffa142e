// The host's half of the kernels for few input channels.
#include "ops_cuda/few_inputs.h"

#include <algorithm>
#include <bit>

#include "ops_cuda/device_epilogue.h"
#include "ops_cuda/error.h"
#include "ops_cuda/pack.h"
#include "ops_cuda/shared_memory.h"

namespace cks::cuda {
namespace {

const void* find_kernel(const ConvolutionSpec& spec, FewInputsShape shape, int columns) {
#ifdef ORT_CKS_HOPPER
  if (shape.loop == FewInputsLoop::kWgmma)
    return spec.type == DataType::kHalf ? few_inputs_wgmma_half(columns) : few_inputs_wgmma_bfloat16(columns);
#endif
  switch (spec.type) {
    case DataType::kHalf:
      return few_inputs_half(shape, columns);
    case DataType::kBFloat16:
      return few_inputs_bfloat16(shape, columns);
    case DataType::kFloat:
      break;
  }
  return spec.precision == Precision::kTF32 ? few_inputs_tf32(shape, columns) : few_inputs_float(shape, columns);
}

bool in_steps(const FewInputsPlan& plan) { return plan.shape.loop != FewInputsLoop::kWords; }

int32_t log2_of(int32_t power) { return int32_t(std::countr_zero(unsigned(power))); }

bool by_chunks(PatchSource source) { return source != PatchSource::kElements && source != PatchSource::kPlanes; }

class FewInputsConv : public ConvolutionKernel {
 public:
  FewInputsConv(const ConvolutionSpec& spec, const FewInputsPlan& plan, const Device& device)
      : words_(plan.words.data(), in_steps(plan) ? 0 : plan.words.size() * sizeof(FewInputsWord)),
        epilogue_(spec),
        function_(find_kernel(spec, plan.shape, plan.columns)),
        threads_(32 * plan.shape.warps * plan.teams),
        shared_bytes_(plan.shared_bytes()),
        dependent_(device.capability >= 90) {
    const Problem& p = spec.problem;
    const Filter& f = p.filter;
    const int chunk = 16 / int(size_of(spec.type));
    const GemmGroups gemm = gemm_groups(f);
    args_.words = reinterpret_cast<const FewInputsWord*>(words_.data());
    args_.steps = plan.steps(), args_.patches = plan.patches;
    args_.filter_is_constant = spec.filter_is_constant;
    args_.channels_first = spec.layouts.y == Layout::kNCHW;
    args_.source = plan.source;
    const bool planes = plan.source == PatchSource::kPlanes || plan.source == PatchSource::kPlaneRuns;
    const int parts = plan.source == PatchSource::kChunks ? plan.slice_c / chunk : plan.slice_c;
    const int row = plan.lead + plan.patch.w * (planes ? 1 : plan.slice_c);  // elements of x
    args_.row_units = Divider(by_chunks(plan.source) ? ceil_div(row, chunk) : row);
    args_.parts = Divider(parts), args_.patch_w = Divider(plan.patch.w), args_.patch_h = Divider(plan.patch.h);
    args_.patch_pixels = plan.patch.d * plan.patch.h * plan.patch.w;
    if (plan.source == PatchSource::kChunks) {
      args_.copy_pixels = 32 * plan.shape.warps / parts;
      const int lines = args_.copy_pixels / plan.patch.w;
      args_.copy_step = {lines / plan.patch.h, lines % plan.patch.h, args_.copy_pixels % plan.patch.w};
    }
    if (in_steps(plan)) {
      for (int i = 0; i < args_.steps; ++i)
        args_.step[i] = {plan.words[size_t(i) * 8].patch * 4, plan.words[size_t(i) * 8].weight[0]};
    }
    args_.input = to_int3(p.input), args_.output = to_int3(p.output);
    args_.stride = to_int3(p.stride), args_.pad = to_int3(p.pad);
    args_.box_log2 = {log2_of(plan.box.d), log2_of(plan.box.h), log2_of(plan.box.w)};
    args_.patch = plan.patch, args_.row_pitch = plan.row_pitch;
    args_.pixel_pitch = plan.pixel_pitch, args_.chunk_pitch = plan.chunk_pitch;
    args_.matrix_pitch = plan.matrix_pitch * int(size_of(spec.type));
    args_.lead = plan.lead, args_.origin = plan.origin;
    args_.patch_words = plan.patch_words, args_.shifted = plan.shifted;
    args_.C = int(f.C), args_.x_chunks = int(f.C - p.x2_channels) / chunk, args_.K = int(f.K),
    args_.slice_c = plan.slice_c, args_.slice_k = plan.slice_k;
    args_.column_blocks = int(ceil_div(plan.slice_k, plan.columns));
    args_.slices_together = int(plan.slices / gemm.count);
    args_.packed_k = int(gemm.k), args_.filter_pitch = int(padded_channels(gemm.c, spec.type));
    args_.filter_taps = int(f.taps());
    args_.tiles = {int32_t(ceil_div(p.output[0], plan.box.d)), int32_t(ceil_div(p.output[1], plan.box.h)),
                   int32_t(ceil_div(p.output[2], plan.box.w))};
    const int64_t tiles = p.N * args_.tiles.d * args_.tiles.h * args_.tiles.w;
    if (tiles > INT32_MAX) throw Error("the convolution is too large: its output has more than 2^31 tiles");
    args_.num_tiles = uint32_t(tiles);
    const int vector = std::min(plan.columns / 4, chunk);  // a thread's channels, of which it stores a chunk at most
    args_.neighbours = args_.channels_first ? p.output[2] % 4 == 0 : f.K % vector == 0 && plan.slice_k % vector == 0;

    allow_all_shared_memory(function_);
    int resident = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, function_, threads_, size_t(shared_bytes_)),
          "preparing the convolution of few inputs");
    const int64_t filters = plan.slices * args_.column_blocks;
    // A block keeps its filter for many tiles, as many blocks as run at once.
    const int64_t together = std::max<int64_t>(1, int64_t(device.multiprocessors) * resident / filters);
    grid_ = dim3(unsigned(std::min(tiles, together)), unsigned(filters));
  }

  size_t workspace_bytes() const override { return 0; }
  const char* name() const override { return "few inputs"; }

  void run(InputTensors input, const void* filter, const void* bias, const void* residual, void* y, void*,
           Stream stream) const override {
    if (by_chunks(args_.source)) require_aligned(input.x, "X"), require_aligned(input.x2, "X2");
    if (args_.neighbours) require_aligned(y, "Y"), require_aligned(residual, "Z");
    FewInputsArgs args = args_;
    args.x = input.x, args.x2 = input.x2, args.filter = filter;
    args.epilogue = epilogue_.of(bias, residual, y);
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t launch{};
    launch.gridDim = grid_, launch.blockDim = dim3(unsigned(threads_));
    launch.dynamicSmemBytes = size_t(shared_bytes_), launch.stream = stream;
    launch.attrs = &attribute, launch.numAttrs = dependent_ ? 1 : 0;
    void* parameters[] = {&args};
    check(cudaLaunchKernelExC(&launch, function_, parameters), "launching the convolution of few inputs");
  }

 private:
  DeviceCopy words_;
  DeviceEpilogue epilogue_;
  const void* function_;
  int threads_, shared_bytes_;
  bool dependent_;  // launched before the kernel ahead of it has ended, for which it waits itself
  dim3 grid_;
  FewInputsArgs args_{};
};

}  // namespace

std::unique_ptr<ConvolutionKernel> make_few_inputs_conv(const ConvolutionSpec& spec, const FewInputsPlan& plan,
                                                        const Device& device) {
  return std::make_unique<FewInputsConv>(spec, plan, device);
}

}  // namespace cks::cuda
