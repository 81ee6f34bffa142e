// The host's half of the kernels for few input channels.
#include "ops_cuda/few_inputs.h"

#include <algorithm>
#include <bit>

#include "ops_cuda/device_epilogue.h"
#include "ops_cuda/error.h"
#include "ops_cuda/launch.cuh"
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

template <class T>
size_t bytes_of(const std::vector<T>& v) {
  return v.size() * sizeof(T);
}

class FewInputsConv : public ConvolutionKernel {
 public:
  FewInputsConv(const ConvolutionSpec& spec, const FewInputsPlan& plan, const Device& device)
      : words_(plan.words.data(), in_steps(plan) ? 0 : bytes_of(plan.words)),
        cell_columns_(plan.cell_columns.data(), bytes_of(plan.cell_columns)),
        met_by_(plan.met_by.data(), bytes_of(plan.met_by)),
        epilogue_(spec),
        function_(find_kernel(spec, plan.shape, plan.columns)),
        threads_(32 * plan.shape.warps * plan.teams),
        shared_bytes_(plan.shared_bytes()) {
    const Problem& p = plan.problem;
    const Filter& f = p.filter;
    const int chunk = 16 / int(size_of(spec.type)), part = plan.source == PatchSource::kHalves ? chunk / 2 : chunk;
    const GemmGroups gemm = gemm_groups(f);
    args_.words = reinterpret_cast<const FewInputsWord*>(words_.data());
    args_.steps = plan.steps(), args_.patches = plan.patches;
    args_.filter_is_constant = spec.filter_is_constant;
    args_.source = plan.source;
    const bool planes = plan.source == PatchSource::kPlanes || plan.source == PatchSource::kPlaneRuns;
    const int parts = by_parts(plan.source) ? plan.slice_c / part : plan.slice_c;
    const int row = plan.lead + plan.patch.w * (planes ? 1 : plan.slice_c);  // elements of x
    args_.row_units = Divider(by_chunks(plan.source) ? ceil_div(row, chunk) : row);
    args_.parts = Divider(parts), args_.patch_w = Divider(plan.patch.w), args_.patch_h = Divider(plan.patch.h);
    args_.patch_pixels = plan.patch.d * plan.patch.h * plan.patch.w;
    if (by_parts(plan.source)) {
      args_.copy_pixels = 32 * plan.shape.warps / parts;
      const int lines = args_.copy_pixels / plan.patch.w;
      args_.copy_step = {lines / plan.patch.h, lines % plan.patch.h, args_.copy_pixels % plan.patch.w};
    }
    if (in_steps(plan)) {
      for (int i = 0; i < args_.steps; ++i) {
        const FewInputsWord &first = plan.words[size_t(i) * 8], &second = plan.words[size_t(i) * 8 + 4];
        args_.step[i] = {uint32_t(first.patch / 4) | uint32_t(second.patch / 4) << 16,
                         {first.weight[0], second.weight[0]}};
      }
      args_.padded = plan.slice_c % chunk != 0;
    }
    args_.input = to_int3(p.input), args_.output = to_int3(p.output);
    args_.stride = to_int3(p.stride), args_.pad = to_int3(p.pad);
    args_.box_log2 = {log2_of(plan.box.d), log2_of(plan.box.h), log2_of(plan.box.w)};
    args_.patch = plan.patch, args_.row_pitch = plan.row_pitch;
    args_.pixel_pitch = plan.pixel_pitch, args_.chunk_pitch = plan.chunk_pitch;
    args_.matrix_pitch = plan.matrix_pitch * int(size_of(spec.type));
    args_.lead = plan.lead, args_.origin = plan.origin;
    args_.patch_words = plan.patch_words, args_.shifted = plan.shifted;
    args_.C = int(f.C), args_.x_parts = int(f.C - spec.problem.x2_channels) / part;
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
    lay_out_y(spec, plan, std::min(plan.columns / 4, chunk));
    args_.columns_at = shared_bytes_ - plan.columns_bytes();

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
    void* parameters[] = {&args};
    launch_dependent("launching the convolution of few inputs", function_, grid_, dim3(unsigned(threads_)),
                     shared_bytes_, stream, parameters);
  }

 private:
  // vector: columns that a thread stores at once, those that it has or a chunk of them.
  void lay_out_y(const ConvolutionSpec& spec, const FewInputsPlan& plan, int vector) {
    const Dims& output = spec.problem.output;
    const int64_t K = spec.problem.filter.K, outputs = volume(output);
    const bool cells = !plan.cell_columns.empty(), planes = spec.layouts.y == Layout::kNCHW;
    const int64_t pixel = planes ? 1 : K, row = output[2] * pixel, plane = output[1] * row;
    args_.y_image = K * outputs, args_.y_column = planes ? outputs : 1;
    args_.y_d = output[0] > 1 ? int32_t(plane) * plan.cell.d : 0, args_.y_h = int32_t(row) * plan.cell.h,
    args_.y_w = int32_t(pixel) * plan.cell.w;
    args_.cell = plan.cell, args_.outputs = to_int3(output);
    args_.ragged = output[0] % plan.cell.d != 0 || output[1] % plan.cell.h != 0 || output[2] % plan.cell.w != 0;
    args_.cell_columns = cells ? reinterpret_cast<const FewInputsColumn*>(cell_columns_.data()) : nullptr;
    args_.met_by = reinterpret_cast<const uint64_t*>(met_by_.data());
    args_.channels_first = planes && !cells;
    if (args_.channels_first)
      args_.neighbours = output[2] % 4 == 0;
    else
      args_.neighbours = !args_.ragged && plan.cell.w * pixel % vector == 0 && plan.slice_k % vector == 0;
  }

  DeviceCopy words_, cell_columns_, met_by_;
  DeviceEpilogue epilogue_;
  const void* function_;
  int threads_, shared_bytes_;
  dim3 grid_;
  FewInputsArgs args_{};
};

}  // namespace

std::unique_ptr<ConvolutionKernel> make_few_inputs_conv(const ConvolutionSpec& spec, const FewInputsPlan& plan,
                                                        const Device& device) {
  return std::make_unique<FewInputsConv>(spec, plan, device);
}

}  // namespace cks::cuda
