// The host's half of the portable implicit GEMM: which kernel, which tiles, and the launch.
#include "ops_cuda/portable_conv.h"

#include "ops_cuda/device_epilogue.h"
#include "ops_cuda/error.h"
#include "ops_cuda/kernel.h"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/pack.h"
#include "ops_cuda/portable_plan.h"

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

class PortableConv : public ConvolutionKernel {
 public:
  PortableConv(const ConvolutionSpec& spec, const Device& device)
      : groups_(gemm_groups(spec.problem.filter)),
        input_{spec.problem.N, volume(spec.problem.input), groups_.count, groups_.c, spec.type, spec.layouts.x},
        epilogue_(spec) {
    const Problem& p = spec.problem;
    const Filter& f = p.filter;
    const PortablePlan plan = plan_portable(p, spec.type, spec.layouts.y, device);
    const TileShape& tile = kTileShapes[plan.shape];
    kernel_ = find_kernel(spec, device, plan.shape);
    check(cudaFuncSetAttribute(kernel_.function, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel_.shared_bytes),
          "preparing the implicit GEMM kernel");
    plan_ = std::make_unique<DevicePlan>(plan.plan);
    const Pieces& pieces = plan.pieces;
    if (pieces.parts > 0) {
      pieces_ = copy_of(pieces.pieces), cut_tiles_ = copy_of(pieces.cut_tiles);
      args_.pieces = reinterpret_cast<const Piece*>(pieces_->data());
      args_.cut_tiles = reinterpret_cast<const CutTile*>(cut_tiles_->data());
    }

    args_.tiles = plan_->tiles(), args_.taps = plan_->taps();
    args_.input = to_int3(p.input), args_.output = to_int3(p.output);
    args_.groups = int(groups_.count), args_.group_k = int(groups_.k), args_.filter_taps = int(f.taps());
    args_.group_c = int(input_.group_pitch());
    args_.pixel_chunks = int(groups_.count * input_.group_pitch() * int64_t(size_of(spec.type)) / 16);
    if (input_.bytes() / 16 > UINT32_MAX) throw Error("the convolution is too large: its input has more than 64 GiB");
    args_.column_tiles = int(ceil_div(groups_.k, tile.n));
    const int64_t pixels = volume(p.output);
    const bool channels_first = is_channels_first(p, spec.layouts.y);
    args_.y_image = pixels * f.K;
    args_.y_pixel = channels_first ? 1 : f.K;
    args_.y_channel = channels_first ? pixels : 1;
    args_.chunks = !channels_first && groups_.k % (16 / int64_t(size_of(spec.type))) == 0;

    const int64_t copies = groups_.count * args_.column_tiles;
    blocks_ = int64_t(pieces.pieces.size()) * copies;
    adding_blocks_ = int64_t(pieces.cut_tiles.size()) * copies * (tile.m / kAddedRows);
    parts_at_ = size_t(round_up(int64_t(packed_bytes()), kWorkspaceAlignment));
    parts_bytes_ = size_t(pieces.parts * copies * tile.m * tile.n) * sizeof(float);
    if (blocks_ > INT32_MAX) throw Error("the convolution is too large: its output has more than 2^31 tiles");
  }

  size_t workspace_bytes() const override { return parts_bytes_ > 0 ? parts_at_ + parts_bytes_ : packed_bytes(); }
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
    if (parts_bytes_ > 0) args.parts = reinterpret_cast<float*>(static_cast<char*>(workspace) + parts_at_);
    void* parameters[] = {&args};
    launch_dependent("launching the implicit GEMM kernel", kernel_.function, dim3(unsigned(blocks_)), kTileThreads,
                     kernel_.shared_bytes, stream, parameters);
    if (adding_blocks_ == 0) return;
    launch_dependent("launching the kernel that adds up parts of sums", kernel_.add_parts,
                     dim3(unsigned(adding_blocks_)), kTileThreads, 0, stream, parameters);
  }

 private:
  size_t packed_bytes() const { return input_.is_already() ? 0 : input_.bytes(); }
  template <class T>
  static std::unique_ptr<DeviceCopy> copy_of(const std::vector<T>& v) {
    return std::make_unique<DeviceCopy>(v.data(), v.size() * sizeof(T));
  }

  GemmGroups groups_;
  PixelMajor input_;
  PortableKernel kernel_;
  DeviceEpilogue epilogue_;
  std::unique_ptr<DevicePlan> plan_;
  std::unique_ptr<DeviceCopy> pieces_, cut_tiles_;  // where sums are cut
  PortableConvArgs args_{};
  int64_t blocks_, adding_blocks_;
  size_t parts_at_, parts_bytes_;  // of the workspace, behind the packed input
};

}  // namespace

std::unique_ptr<ConvolutionKernel> make_portable_conv(const ConvolutionSpec& spec, const Device& device) {
  return std::make_unique<PortableConv>(spec, device);
}

}  // namespace cks::cuda
