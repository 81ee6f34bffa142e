// The host's half of few_inputs_conv.cuh.
#include "ops_cuda/few_inputs.h"

#include <algorithm>
#include <bit>

#include "ops_cuda/error.h"
#include "ops_cuda/kernel_choice.h"
#include "ops_cuda/pack.h"
#include "ops_cuda/shared_memory.h"

namespace cks::cuda {
namespace {

const void* find_kernel(const ConvolutionSpec& spec, int columns) {
  switch (spec.type) {
    case DataType::kHalf:
      return few_inputs_half(columns);
    case DataType::kBFloat16:
      return few_inputs_bfloat16(columns);
    case DataType::kFloat:
      break;
  }
  return spec.precision == Precision::kTF32 ? few_inputs_tf32(columns) : few_inputs_float(columns);
}

int32_t log2_of(int32_t power) { return int32_t(std::countr_zero(unsigned(power))); }

class FewInputsConv : public ConvolutionKernel {
 public:
  FewInputsConv(const ConvolutionSpec& spec, const Device& device)
      : FewInputsConv(spec, device, *plan_few_inputs(spec.problem, spec.type, half_of_shared(device))) {}

  size_t workspace_bytes() const override { return 0; }
  const char* name() const override { return "few inputs"; }

  void run(const void* x, const void* filter, const void* bias, const void* residual, void* y, void*,
           Stream stream) const override {
    if (args_.source == PatchSource::kChunks) require_aligned(x, "X");
    if (args_.neighbours) require_aligned(y, "Y"), require_aligned(residual, "Z"), require_aligned(bias, "B");
    FewInputsArgs args = args_;
    args.x = x, args.filter = filter;
    args.epilogue.bias = bias, args.epilogue.residual = residual, args.epilogue.y = y;
    void* parameters[] = {&args};
    check(cudaLaunchKernel(function_, grid_, dim3(kFewInputsThreads), parameters, size_t(shared_bytes_), stream),
          "launching the convolution of few inputs");
  }

 private:
  FewInputsConv(const ConvolutionSpec& spec, const Device& device, const FewInputsPlan& plan)
      : words_(plan.words.data(), plan.words.size() * sizeof(FewInputsWord)),
        function_(find_kernel(spec, plan.columns)),
        shared_bytes_(plan.shared_bytes()) {
    const Problem& p = spec.problem;
    const Filter& f = p.filter;
    const int chunk = 16 / int(size_of(spec.type));
    const GemmGroups gemm = gemm_groups(f);
    args_.words = reinterpret_cast<const FewInputsWord*>(words_.data());
    args_.steps = plan.steps();
    args_.channels_first = spec.layout == Layout::kNCHW;
    if (args_.channels_first && f.C > 1)
      args_.source = PatchSource::kPlanes;
    else if (f.C % chunk == 0 && plan.slice_c % chunk == 0)
      args_.source = PatchSource::kChunks;
    else
      args_.source = plan.slice_c == f.C && plan.pixel_pitch == f.C ? PatchSource::kPixels : PatchSource::kSlices;

    const int row = args_.source == PatchSource::kPlanes   ? plan.patch.w
                    : args_.source == PatchSource::kChunks ? plan.patch.w * plan.slice_c / chunk
                                                           : plan.patch.w * plan.slice_c;
    args_.row_threads = 8;
    while (args_.row_threads < kFewInputsThreads && args_.row_threads * 4 < row) args_.row_threads *= 2;
    args_.input = to_int3(p.input), args_.output = to_int3(p.output);
    args_.stride = to_int3(p.stride), args_.pad = to_int3(p.pad);
    args_.box_log2 = {log2_of(plan.box.d), log2_of(plan.box.h), log2_of(plan.box.w)};
    args_.patch = plan.patch, args_.pixel_pitch = plan.pixel_pitch, args_.row_pitch = plan.row_pitch;
    args_.patch_words = plan.patch_words, args_.shifted = plan.shifted;
    args_.C = int(f.C), args_.K = int(f.K), args_.slice_c = plan.slice_c, args_.slice_k = plan.slice_k;
    args_.column_blocks = int(ceil_div(plan.slice_k, plan.columns));
    args_.slices_together = int(plan.slices / gemm.count);
    args_.packed_k = int(gemm.k), args_.filter_pitch = int(padded_channels(gemm.c, spec.type));
    args_.filter_taps = int(f.taps());
    args_.tiles = {int32_t(ceil_div(p.output[0], plan.box.d)), int32_t(ceil_div(p.output[1], plan.box.h)),
                   int32_t(ceil_div(p.output[2], plan.box.w))};
    args_.num_tiles = p.N * args_.tiles.d * args_.tiles.h * args_.tiles.w;
    const int vector = std::min(plan.columns / 4, chunk);  // a thread's channels, of which it stores a chunk at most
    args_.neighbours = args_.channels_first ? p.output[2] % 4 == 0 : f.K % vector == 0 && plan.slice_k % vector == 0;
    args_.epilogue.kind = spec.activation.kind;
    args_.epilogue.alpha = spec.activation.alpha, args_.epilogue.beta = spec.activation.beta;

    allow_all_shared_memory(function_);
    int resident = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, function_, kFewInputsThreads, size_t(shared_bytes_)),
          "preparing the convolution of few inputs");
    const int64_t filters = plan.slices * args_.column_blocks;
    if (filters > 65535) throw Error("the convolution is too large: it has more than 65535 slices of channels");
    // A block keeps its filter for many tiles, as many blocks as run at once.
    const int64_t together = std::max<int64_t>(1, int64_t(device.multiprocessors) * resident / filters);
    grid_ = dim3(unsigned(std::min(args_.num_tiles, together)), unsigned(filters));
  }

  DeviceCopy words_;
  const void* function_;
  int shared_bytes_;
  dim3 grid_;
  FewInputsArgs args_{};
};

}  // namespace

std::unique_ptr<ConvolutionKernel> make_few_inputs_conv(const ConvolutionSpec& spec, const Device& device) {
  return std::make_unique<FewInputsConv>(spec, device);
}

}  // namespace cks::cuda
