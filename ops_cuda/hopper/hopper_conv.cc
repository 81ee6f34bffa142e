// The host's half of the Hopper kernel: tensor maps and the launch.
#include "ops_cuda/hopper/hopper_conv.h"

#include <algorithm>
#include <mutex>

#include "ops_cuda/device_epilogue.h"
#include "ops_cuda/hopper/halve.h"
#include "ops_cuda/hopper/pack_halves.h"
#include "ops_cuda/hopper/tensor_map.h"
#include "ops_cuda/kernel.h"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/pack.h"
#include "ops_cuda/shared_memory.h"

namespace cks::cuda {
namespace {

using hopper::Config;
using hopper::Params;
using hopper::Schedule;
using hopper::WorkItem;

// A tensor of `rank` contiguous dimensions, innermost first, and the box of it that one copy moves: every `step`-th
// element.
template <size_t kRank>
struct BoxedTensor {
  CUtensorMapDataType type;
  CUtensorMapSwizzle swizzle;
  std::array<cuuint64_t, kRank> extent;
  std::array<cuuint32_t, kRank> box, step;

  CUtensorMap map(const void* base, size_t element_bytes) const {
    std::array<cuuint64_t, kRank - 1> pitch;
    std::array<cuuint32_t, kRank> span;
    for (size_t i = 0; i + 1 < kRank; ++i) pitch[i] = extent[i] * (i ? pitch[i - 1] : element_bytes);
    for (size_t i = 0; i < kRank; ++i) span[i] = box[i] * step[i];
    return hopper::make_tensor_map(type, swizzle, base, extent, pitch, span, step);
  }
};

// The input that runs of pixels are copied from, of (C, W, H, N).
struct RunTensor {
  CUtensorMapDataType type;
  std::array<cuuint64_t, 4> extent;
  hopper::RunCorners corners;
  cuuint32_t channels, pixels;  // of a copy
  std::array<cuuint32_t, 4> step;

  CUtensorMap map(const void* base, size_t element_bytes) const {
    std::array<cuuint64_t, 3> pitch;
    for (size_t i = 0; i < 3; ++i) pitch[i] = extent[i] * (i ? pitch[i - 1] : element_bytes);
    const auto [lower, upper] = corners;
    return hopper::make_im2col_map(type, CU_TENSOR_MAP_SWIZZLE_128B, base, extent, pitch, {lower[1], lower[0]},
                                   {upper[1], upper[0]}, channels, pixels, step);
  }
};

PixelMajor packed_input(const ConvolutionSpec& spec) {
  return {spec.problem.N, volume(spec.problem.input), 1, spec.problem.filter.C, spec.type, spec.layouts.x};
}

int products_of(const FilterUse& use) {
  return use.type == DataType::kFloat && use.precision == Precision::kFP32 ? 3 : 1;
}

hopper::HalvesFilter halves_filter(const FilterUse& use) { return {use.filter, products_of(use)}; }

std::array<cuuint64_t, 5> innermost_first(int64_t c, const Dims& d, int64_t n) {
  return {cuuint64_t(c), cuuint64_t(d[2]), cuuint64_t(d[1]), cuuint64_t(d[0]), cuuint64_t(n)};
}

// Counters that a launch finds as the one before it has left them. Launches in different streams may run at once, so
// that each stream has its own; they are made here, because nothing may be allocated while a graph is captured.
class Counters {
 public:
  explicit Counters(int counters)
      : counters_(counters),
        memory_(std::vector<unsigned>(size_t(counters) * kStreams).data(), sizeof(unsigned) * counters * kStreams) {}
  unsigned* of(Stream stream) const {
    const std::lock_guard lock(mutex_);
    auto at = std::ranges::find(streams_, stream);
    if (at == streams_.end()) {
      if (streams_.size() == kStreams) {
        throw Error("one convolution runs in more than " + std::to_string(kStreams) +
                    " CUDA streams; make another session for some of them");
      }
      at = streams_.insert(streams_.end(), stream);
    }
    return reinterpret_cast<unsigned*>(const_cast<char*>(memory_.data())) + (at - streams_.begin()) * counters_;
  }

 private:
  static constexpr size_t kStreams = 64;
  int counters_;
  DeviceCopy memory_;
  mutable std::mutex mutex_;
  mutable std::vector<Stream> streams_;
};

class HopperConv : public ConvolutionKernel {
 public:
  HopperConv(const ConvolutionSpec& spec, const Schedule& s)
      : input_(packed_input(spec)), epilogue_(spec), plan_([&] {
          const std::vector<char> bytes = serialize(s);
          return std::make_unique<DeviceCopy>(bytes.data(), bytes.size());
        }()) {
    const Problem& p = spec.problem;
    const Filter& f = p.filter;
    const hopper::TileShape& shape = s.config.shape;
    const bool conv = f.op == Operator::kConv;
    const size_t output_bytes = size_of(spec.type), input_bytes = s.config.halved ? sizeof(uint16_t) : output_bytes;
    if (s.config.halved) halved_.emplace(p, current_device().multiprocessors);
    const cuuint32_t bk = cuuint32_t(128 / input_bytes), bn = cuuint32_t(shape.bn),
                     slab = cuuint32_t(shape.slab(int(output_bytes)));
    const auto steps = [&](bool strided) -> std::array<cuuint32_t, 5> {
      if (!strided) return {1, 1, 1, 1, 1};
      return {1, cuuint32_t(p.stride[2]), cuuint32_t(p.stride[1]), cuuint32_t(p.stride[0]), 1};
    };
    const auto pixels = [](cuuint32_t channels, const Box& b) -> std::array<cuuint32_t, 5> {
      return {channels, cuuint32_t(b.extent[2]), cuuint32_t(b.extent[1]), cuuint32_t(b.extent[0]), cuuint32_t(b.n)};
    };
    const CUtensorMapDataType type = spec.type == DataType::kFloat  ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                     : spec.type == DataType::kHalf ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                                    : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    const int64_t channels = halved_ ? halved_->pitch() : input_.group_pitch();
    const int64_t x2_channels = halved_ ? 0 : p.x2_channels;  // halved they lie beside x
    const CUtensorMapDataType x_type = halved_ ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : type;
    const void* const somewhere = plan_->data();  // runs move the maps to their tensors
    const auto input_of = [&](int64_t its_channels) {
      const auto extent = innermost_first(its_channels, p.input, p.N);
      const auto step = steps(conv);
      if (s.runs) {
        return RunTensor{x_type,
                         {extent[0], extent[1], extent[2], extent[4]},
                         *s.runs,
                         bk,
                         cuuint32_t(s.box.pixels()),
                         {step[0], step[1], step[2], step[4]}}
            .map(somewhere, input_bytes);
      }
      return BoxedTensor<5>{x_type, CU_TENSOR_MAP_SWIZZLE_128B, extent, pixels(bk, s.patch ? s.patch->box : s.box),
                            step}
          .map(somewhere, input_bytes);
    };
    params_.x = input_of(channels - x2_channels);
    if (x2_channels > 0) params_.x2 = input_of(x2_channels);
    // Runs lie in one row of all output pixels.
    const int64_t output_n = s.runs ? 1 : p.N;
    const Dims output = s.runs ? Dims{1, 1, p.N * volume(p.output)} : p.output;
    const bool halves = spec.type == DataType::kFloat;
    const int row = hopper::filter_row(int(input_bytes), products_of(spec.use()));
    const BoxedTensor<3> filter{halves ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : type,
                                row * 2 == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B,
                                {cuuint64_t(halves ? halves_filter(spec.use()).row_elements() : channels),
                                 cuuint64_t(f.K), cuuint64_t(f.taps())},
                                {cuuint32_t(row), bn, 1},
                                {1, 1, 1}};
    params_.filter = filter.map(somewhere, sizeof(uint16_t));
    if (halves) scales_at_ = halves_filter(spec.use()).scales_at();
    const BoxedTensor<5> y{type, slab * output_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B,
                           innermost_first(f.K, output, output_n), pixels(slab, s.box), steps(!conv)};
    params_.y = params_.residual = y.map(somewhere, output_bytes);

    params_.taps = reinterpret_cast<const WorkTap*>(plan_->data());
    params_.items = reinterpret_cast<const WorkItem*>(params_.taps + s.taps.size());
    params_.channel_blocks = int((channels + bk - 1) / bk);
    params_.x_blocks = int((channels - x2_channels + bk - 1) / bk);
    params_.last_is_half = params_.channel_blocks * int64_t(bk) - channels >= bk / 2;
    params_.box_bytes = int(s.box.pixels() * 128), params_.runs = s.runs.has_value();
    if (s.patch) {
      params_.patch_stages = s.patch_stages;
      params_.patch_bytes = int(s.patch->box.pixels() * 128), params_.patch_pitch = hopper::patch_pitch(*s.patch);
      params_.group_pitch = s.patch->group_pitch * 128;
      for (size_t i = 0; i < s.patch->row_blocks.size(); ++i) params_.row_blocks[i] = s.patch->row_blocks[i] * 128;
      params_.filter_stays = s.filter_stays, params_.filter_taps = int(f.taps());
    }
    params_.stages = s.stages, params_.splits = s.config.splits, params_.pairs = s.config.pairs;
    params_.N = int(output_n), params_.K = int(f.K);
    params_.output = to_int3(output);
    params_.out_step = conv ? Int3{1, 1, 1} : to_int3(p.stride);
    params_.box_d = Divider(s.box.extent[0]), params_.box_h = Divider(s.box.extent[1]);
    params_.box_w = Divider(s.box.extent[2]), params_.box_n = s.box.n;

    if (halved_) {
      params_.x_scales_in_line = halved_->pixel_scales || s.runs;
      params_.rows_of_x_scale = halved_->pixel_scales ? 1 : int(s.runs ? volume(p.output) : s.box.pixels() / s.box.n);
      params_.x_scales_count = int(halved_->scales());
    }
    packed_at_ =
        size_t(round_up(int64_t(s.slots) * shape.bm() * shape.bn * int64_t(sizeof(float)), kWorkspaceAlignment));
    params_.filter_is_constant = spec.filter_is_constant;
    if (s.counters > 0) counters_ = std::make_unique<Counters>(s.counters);
    function_ = find_kernel(spec.use(), s.config);
    shared_bytes_ = int(s.shared_bytes);
    blocks_ = unsigned(s.blocks()), cluster_ = unsigned(s.config.cluster());
    threads_ = unsigned(shape.threads(int(input_bytes)));
    allow_all_shared_memory(function_);
  }

  // The parts of cut tiles, and X where it must be packed or halved.
  size_t workspace_bytes() const override {
    return packed_at_ + (halved_ ? halved_->bytes() : input_.is_already() ? 0 : input_.bytes());
  }
  const char* name() const override { return "hopper wgmma"; }

  void run(InputTensors input, const void* filter, const void* bias, const void* residual, void* y, void* workspace,
           Stream stream) const override {
    char* const scratch = static_cast<char*>(workspace);
    const void* x = input.x;
    if (!input_.is_already()) {
      pack_pixel_major(input_, x, scratch + packed_at_, stream);
      x = scratch + packed_at_;
    }
    require_aligned(x, "X"), require_aligned(input.x2, "X2"), require_aligned(y, "Y"), require_aligned(residual, "Z");
    Params params = params_;
    if (halved_) {
      hopper::halve(*halved_, input, scratch + packed_at_, stream);
      x = scratch + packed_at_;
      params.x_scales = reinterpret_cast<const float*>(scratch + packed_at_ + halved_->scales_at());
    }
    if (counters_) {
      params.counters = counters_->of(stream);
      params.partials = scratch;
    }
    hopper::move_map(params.x, x);
    if (input.x2 && !halved_) hopper::move_map(params.x2, input.x2);
    hopper::move_map(params.filter, filter);
    params.filter_scales = reinterpret_cast<const float*>(static_cast<const char*>(filter) + scales_at_);
    hopper::move_map(params.y, y);
    if (residual) hopper::move_map(params.residual, residual);
    params.epilogue = epilogue_.of(bias, residual, y);

    void* arguments[] = {&params};
    launch_dependent_if(true, "launching the Hopper kernel", function_, dim3(blocks_), dim3(threads_), shared_bytes_,
                        stream, arguments, dim3(cluster_));
  }

 private:
  static const void* find_kernel(const FilterUse& use, const Config& config) {
    const hopper::TileShape& shape = config.shape;
    const auto same = [&](const hopper::TileShape& s) {
      return s.team == shape.team && s.row_blocks == shape.row_blocks && s.bn == shape.bn && s.curve == shape.curve &&
             s.source == shape.source;
    };
    const int index = int(std::ranges::find_if(hopper::kTileShapes, same) - std::begin(hopper::kTileShapes));
    return use.type == DataType::kHalf         ? hopper::half_kernel(index)
           : use.type == DataType::kBFloat16   ? hopper::bfloat16_kernel(index)
           : config.halved                     ? hopper::halved_kernel(index)
           : use.precision == Precision::kTF32 ? hopper::tf32_kernel(index)
                                               : hopper::fp32_kernel(index);
  }
  // Taps, then items, and room for what a warp reads behind the last tap, unused.
  static std::vector<char> serialize(const Schedule& s) {
    std::vector<char> bytes;
    const auto append = [&](const auto& v) {
      const char* from = reinterpret_cast<const char*>(v.data());
      bytes.insert(bytes.end(), from, from + v.size() * sizeof(v[0]));
    };
    static_assert(sizeof(Tap) == sizeof(WorkTap));  // the same four integers
    append(s.taps);
    append(s.items);
    bytes.resize(bytes.size() + hopper::kTapsAtOnce * sizeof(WorkTap));
    return bytes;
  }

  PixelMajor input_;
  std::optional<hopper::HalvedInput> halved_;
  DeviceEpilogue epilogue_;
  std::unique_ptr<DeviceCopy> plan_;
  Params params_{};
  const void* function_;
  std::unique_ptr<Counters> counters_;  // where tiles are cut
  size_t packed_at_, scales_at_ = 0;
  int shared_bytes_;
  unsigned blocks_, cluster_, threads_;
};

}  // namespace

size_t hopper_filter_bytes(const FilterUse& use) {
  return use.type == DataType::kFloat ? halves_filter(use).bytes() : portable_filter_bytes(use);
}

void pack_hopper_filter(const FilterUse& use, const void* w, void* packed, Stream stream) {
  if (use.type == DataType::kFloat) {
    pack_halves(halves_filter(use), static_cast<const float*>(w), packed, stream);
  } else {
    pack_portable_filter(use, w, packed, stream);
  }
}

std::unique_ptr<ConvolutionKernel> make_hopper_conv(const ConvolutionSpec& spec) {
  const Problem& p = spec.problem;
  const hopper::Operands o = hopper::operands_of(spec);
  const hopper::Machine m = hopper::current_machine();
  if (const std::optional<Config> asked = hopper::config_named(spec.tile, p, o)) {
    const Schedule schedule = hopper::make_schedule(p, o, m, *asked);
    if (schedule.clusters > 0) return hopper::make_scheduled_conv(spec, schedule);
  }
  return hopper::make_scheduled_conv(spec, hopper::choose_schedule(p, o, m));
}

bool is_hopper_tile(const ConvolutionSpec& spec, const std::string& tile) {
  return hopper::config_named(tile, spec.problem, hopper::operands_of(spec)).has_value();
}

std::vector<std::string> hopper_tile_choices(const ConvolutionSpec& spec, size_t most) {
  std::vector<std::string> names;
  for (const Schedule& s :
       hopper::best_schedules(spec.problem, hopper::operands_of(spec), hopper::current_machine(), most))
    names.push_back(hopper::name_of(s.config));
  return names;
}

hopper::Operands hopper::operands_of(const ConvolutionSpec& spec) {
  const PixelMajor input = packed_input(spec);
  const int bytes = int(size_of(spec.type)), products = products_of(spec.use());
  const bool can_be_halved = spec.type == DataType::kFloat && products == 1 && input.is_already();
  return {bytes, products, input.group_pitch(), curve_of(spec.activation.kind), bytes, can_be_halved};
}

hopper::Machine hopper::current_machine() {
  Machine m;
  m.multiprocessors = current_device().multiprocessors, m.shared_bytes = most_shared_bytes();
  // Any solo shape answers for all of them: what counts is how many fit an SM.
  const TileShape* solo = std::ranges::find(kTileShapes, Team::kSolo, &TileShape::team);
  const void* function = half_kernel(int(solo - kTileShapes));
  allow_all_shared_memory(function);
  for (int blocks = 1; blocks <= 2; ++blocks) {
    for (int i = 0; i < 4; ++i) {
      cudaLaunchAttribute attribute;
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim = {1u << i, 1, 1};
      cudaLaunchConfig_t launch{};
      launch.gridDim = dim3(unsigned(m.multiprocessors) << i),
      launch.blockDim = dim3(unsigned(solo->threads(int(sizeof(uint16_t)))));
      launch.dynamicSmemBytes = size_t(m.shared_bytes / blocks - kFixedSharedBytes);
      launch.attrs = &attribute, launch.numAttrs = 1;
      check(cudaOccupancyMaxActiveClusters(&m.clusters[blocks - 1][i], function, &launch),
            "asking how many clusters fit the GPU");
    }
  }
  return m;
}

std::unique_ptr<ConvolutionKernel> hopper::make_scheduled_conv(const ConvolutionSpec& spec, const Schedule& schedule) {
  return std::make_unique<HopperConv>(spec, schedule);
}

}  // namespace cks::cuda
