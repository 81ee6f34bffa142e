// The host's half of the Hopper weight gradient: tensor maps and launches.
#include "ops_cuda/hopper/weight_gradient.h"

#include <algorithm>
#include <optional>

#include "ops_cuda/hopper/gradient_passes.h"
#include "ops_cuda/hopper/tensor_map.h"
#include "ops_cuda/kernel.h"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/shared_memory.h"

namespace cks::cuda {
namespace {

using namespace hopper;

// A channels-last tensor, whose pixels a map has in the order of a BoxLayout, and the box of `width`
// channels that a copy moves: every `step`-th pixel along each axis.
struct BoxedPixels {
  CUtensorMapDataType type;
  std::array<cuuint64_t, 5> extent;  // channels first
  std::array<cuuint64_t, 4> pitch;   // bytes, of the axes after the channels
  std::array<cuuint32_t, 5> span, step;

  BoxedPixels(CUtensorMapDataType type, int64_t channels, int width, const Dims& size, int64_t images,
              bool images_inner, const Axes& box, const Axes& steps)
      : type(type) {
    const uint64_t w = uint64_t(channels) * (type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2),
                   h = w * uint64_t(size[2]), d = h * uint64_t(size[1]), n = d * uint64_t(size[0]);
    const auto ordered = [&](auto images_value, auto of_d, auto of_h, auto of_w) {
      using T = decltype(images_value);
      return images_inner ? std::array<T, 4>{images_value, T(of_w), T(of_h), T(of_d)}
                          : std::array<T, 4>{T(of_w), T(of_h), T(of_d), images_value};
    };
    const auto sizes = ordered(uint64_t(images), size[0], size[1], size[2]);
    pitch = ordered(cuuint64_t(n), d, h, w);
    extent[0] = cuuint64_t(channels), span[0] = cuuint32_t(width), step[0] = 1;
    for (int a = 0; a < 4; ++a)
      extent[a + 1] = sizes[a], step[a + 1] = cuuint32_t(steps[a]), span[a + 1] = cuuint32_t(box[a] * steps[a]);
  }

  CUtensorMap map(const void* base) const {
    const CUtensorMapSwizzle swizzle = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? CU_TENSOR_MAP_SWIZZLE_NONE
                                       : span[0] == kSquare                    ? CU_TENSOR_MAP_SWIZZLE_128B
                                       : span[0] == 32                         ? CU_TENSOR_MAP_SWIZZLE_64B
                                                                               : CU_TENSOR_MAP_SWIZZLE_32B;
    return make_tensor_map(type, swizzle, base, extent, pitch, span, step);
  }
};

// Pieces of one allocation, each aligned.
class Layouter {
 public:
  size_t take(size_t bytes) {
    const size_t at = end_;
    end_ += size_t(round_up(int64_t(bytes), kWorkspaceAlignment));
    return at;
  }
  size_t bytes() const { return end_; }

 private:
  size_t end_ = 0;
};

// The schedule's tables, copied to the device together.
class GradientTables {
 public:
  explicit GradientTables(const GradientSchedule& s)
      : items_(add(s.items)),
        places_(add(s.places)),
        masks_(add(s.masks)),
        slots_(add(s.slots)),
        parts_(add(s.parts)),
        num_parts_(add(s.num_parts)),
        sums_(add(s.sums)),
        copy_(bytes_.data(), bytes_.size()) {
    bytes_.clear();
  }
  void point(GradientParams& p) const {
    p.items = at<GradientItem>(items_), p.places = at<GradientPlace>(places_), p.masks = at<uint32_t>(masks_);
    p.slots = at<GradientSlot>(slots_), p.parts = at<GradientPlace>(parts_), p.num_parts = at<int32_t>(num_parts_);
  }
  const GradientSums* sums() const { return at<GradientSums>(sums_); }

 private:
  template <class T>
  size_t add(const std::vector<T>& v) {
    const size_t begin = size_t(round_up(int64_t(bytes_.size()), kWorkspaceAlignment));
    bytes_.resize(begin + v.size() * sizeof(T));
    std::copy_n(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T), bytes_.begin() + int64_t(begin));
    return begin;
  }
  template <class T>
  const T* at(size_t begin) const {
    return reinterpret_cast<const T*>(copy_.data() + begin);
  }
  std::vector<char> bytes_;
  size_t items_, places_, masks_, slots_, parts_, num_parts_, sums_;
  DeviceCopy copy_;
};

template <class Params>
void launch_after(const char* doing, const void* function, int64_t blocks, int threads, size_t shared_bytes,
                  Stream stream, Params& params, int cluster = 1) {
  void* arguments[] = {&params};
  launch_dependent_if(true, doing, function, dim3(unsigned(blocks)), dim3(unsigned(threads)), int(shared_bytes), stream,
                      arguments, dim3(unsigned(cluster)));
}

// The high word of the descriptors of an operand whose groups of 8 pixels lie `group` bytes apart, each pixel a row of
// so many channels, in the swizzle of its width.
uint32_t descriptor_high(int group, int width) {
  return uint32_t(group) >> 4 | (width == kSquare ? 1u : width == 32 ? 2u : 3u) << 30;
}

int planes_of(DataType type, Precision precision) {
  return type == DataType::kFloat && precision == Precision::kFP32 ? 2 : 1;
}

class HopperGradient : public WeightGradientKernel {
 public:
  HopperGradient(const Problem& p, DataType type, const GradientOperands& o, const GradientSchedule& s)
      : converts_before_(type == DataType::kFloat && s.float_stages == 0),
        planes_(o.planes),
        tables_(s),
        blocks_(int(s.items.size())) {
    const Filter& f = p.filter;
    sum_ = {nullptr,
            tables_.sums(),
            nullptr,
            nullptr,
            nullptr,
            int(f.K),
            int(f.C),
            int(f.taps()),
            int(ceil_div(f.K, kSquare)),
            int(ceil_div(f.C, kSquare))};
    int splits = 0;
    for (const GradientSums& sums : s.sums) splits = std::max(splits, sums.splits);
    sum_kernel_ = sum_kernel(type, splits, sum_.k_squares * sum_.c_squares, sum_.taps);
    direct_ = s.direct, cluster_ = s.cluster();
    if (!direct_) partials_at_ = layout_.take(size_t(s.partial_squares) * kSquare * kSquare * sizeof(float));
    if (blocks_ == 0) return;

    if (converts_before_) {
      const int multiprocessors = current_device().multiprocessors;
      const int64_t pixels[2] = {p.N * volume(p.output), p.N * volume(p.input)}, channels[2] = {f.K, f.C};
      const double elements = double(pixels[0] * channels[0]) + double(pixels[1] * channels[1]);
      for (int i = 0; i < 2; ++i) {
        ScaledTensor& t = scale_.tensors[i];
        t.pixels = pixels[i], t.channels = int(channels[i]), t.pitch = int(round_up(channels[i], 8));
        t.slices = int(ceil_div(t.pitch, kSquare));
        // Two blocks on every multiprocessor, shared by size; no block with less than a few rounds of its threads.
        const double share = 2.0 * multiprocessors * double(pixels[i] * channels[i]) / elements;
        t.ranges = int(std::clamp<int64_t>(int64_t(share / t.slices + 0.5), 1, std::max<int64_t>(1, pixels[i] / 64)));
        scaled_at_[i] = layout_.take(size_t(t.pixels) * size_t(t.pitch * planes_) * sizeof(uint16_t));
        largest_at_[i] = layout_.take(size_t(t.ranges) * size_t(t.pitch) * sizeof(float));
        exponents_at_[i] = layout_.take(size_t(t.pitch) * sizeof(int32_t));
      }
      few_pixels_ = std::max(pixels[0], pixels[1]) <= kFewPixels;
      params_.dy_plane = scale_.tensors[0].pitch, params_.x_plane = scale_.tensors[1].pitch;
    }
    const bool floats = s.float_stages > 0;
    const CUtensorMapDataType element = type == DataType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                        : floats                    ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                                                    : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    const auto width = [&](int64_t channels) { return converts_before_ ? planes_ * round_up(channels, 8) : channels; };
    dy_.emplace(element, width(f.K), kSquare, p.output, p.N, s.layout.images_inner, s.layout.box, Axes{1, 1, 1, 1});
    x_.emplace(element, width(f.C), s.shape.width, p.input, p.N, s.layout.images_inner, s.x_box, s.x_step);

    tables_.point(params_);
    params_.stride = to_int3(p.stride);
    params_.images_inner = s.layout.images_inner, params_.box_images = s.layout.box[s.layout.images_inner ? 0 : 3];
    params_.direct = s.direct, params_.dw_is_float = type == DataType::kFloat;
    params_.K = int(f.K), params_.C = int(f.C), params_.taps = int(f.taps());
    params_.shape = s.shape, params_.team_squares = s.shape.slots(), params_.squares = s.shape.squares();
    params_.k_squares = sum_.k_squares, params_.c_squares = int(ceil_div(f.C, s.shape.width));
    params_.tile_k = s.tile_k, params_.tile_c = s.tile_c, params_.max_parts = s.max_parts;
    params_.stages = s.stages, params_.stage_bytes = s.stage_bytes;
    params_.a_bytes = s.a_bytes(), params_.b_bytes = s.b_bytes();
    const auto pixels = [](const Axes& box) { return box[0] * box[1] * box[2] * box[3]; };
    const int copied_bytes = floats ? int(sizeof(float)) : int(sizeof(uint16_t));
    params_.a_copied = pixels(s.layout.box) * kSquare * copied_bytes;
    params_.b_copied = pixels(s.x_box) * s.shape.width * copied_bytes;
    const int floats_at = s.floats_at();
    params_.floats = {s.float_stages,
                      s.float_stage_bytes,
                      floats_at,
                      floats_at + s.float_stages * s.float_stage_bytes,
                      s.float_a_bytes(),
                      s.float_b_bytes(),
                      pixels(s.layout.box),
                      pixels(s.x_box)};
    params_.a_plane = s.tile_k * s.a_bytes(), params_.b_plane = s.max_parts * s.tile_c * s.b_bytes();
    params_.high_a = descriptor_high(s.group_a, kSquare);
    params_.high_b = descriptor_high(s.group_b, s.shape.width);
    for (size_t i = 0; i < s.step_a.size(); ++i) params_.steps[i] = uint32_t(s.step_a[i]) | uint32_t(s.step_b[i]) << 16;

    function_ = type == DataType::kBFloat16 ? bfloat16_gradient()
                : floats                    ? float_gradient(planes_)
                                            : half_gradient(planes_);
    allow_all_shared_memory(function_);
    shared_bytes_ = size_t(s.shared_bytes() + kStageAlignment);
    params_.sets = params_.cluster_splits = 1;
    if (direct_) write_rows(s, f, int(size_of(type)));
  }

  size_t workspace_bytes() const override { return layout_.bytes(); }
  const char* name() const override { return "hopper wgmma"; }

  void run(const void* x, const void* dy, void* dw, void* workspace, Stream stream) const override {
    require_aligned(x, "X"), require_aligned(dy, "dY"), require_aligned(dw, "dW");
    char* const scratch = static_cast<char*>(workspace);
    GradientParams params = params_;
    SumParams sum = sum_;
    params.partials = reinterpret_cast<float4*>(scratch + partials_at_);
    sum.partials = params.partials, sum.dw = dw;
    if (blocks_ > 0) {
      if (converts_before_) {
        ScaleParams scale = scale_;
        const void* const from[2] = {dy, x};
        int blocks = 0;
        for (int i = 0; i < 2; ++i) {
          ScaledTensor& t = scale.tensors[i];
          t.from = static_cast<const float*>(from[i]), t.to = scratch + scaled_at_[i];
          t.largest = reinterpret_cast<float*>(scratch + largest_at_[i]);
          t.exponents = reinterpret_cast<int32_t*>(scratch + exponents_at_[i]);
          blocks += t.ranges * t.slices;
        }
        if (few_pixels_) {
          launch_after("launching the conversion to halves", scale_few_kernel(planes_),
                       kFewBlocks * (scale.tensors[0].slices + scale.tensors[1].slices), kFewThreads, 0, stream, scale,
                       kFewBlocks);
        } else {
          launch_after("launching the search for the largest values", largest_kernel(), blocks, kScaleThreads, 0,
                       stream, scale);
          launch_after("launching the conversion to halves", scale_kernel(planes_), blocks, kScaleThreads, 0, stream,
                       scale);
        }
        dy = scale.tensors[0].to, x = scale.tensors[1].to;
        sum.k_exponents = scale.tensors[0].exponents, sum.c_exponents = scale.tensors[1].exponents;
      }
      params.dy = dy_->map(dy), params.x = x_->map(x);
      params.dw = dw, params.k_exponents = sum.k_exponents, params.c_exponents = sum.c_exponents;
      launch_after("launching the Hopper weight gradient", function_, blocks_, kGradientBlockThreads, shared_bytes_,
                   stream, params, cluster_);
    }
    if (direct_) return;
    launch_after("launching the sum of the weight gradient's parts", sum_kernel_.function,
                 int64_t(sum.k_squares) * sum.c_squares * sum_kernel_.blocks_of_square(), sum_kernel_.threads(sum.taps),
                 size_t(sum_kernel_.shared_bytes(sum.taps)), stream, sum);
  }

 private:
  // Blocks write dW themselves.
  void write_rows(const GradientSchedule& s, const Filter& f, int element_bytes) {
    params_.sets = int(s.set_taps.size()), params_.cluster_splits = s.cluster_splits;
    int live = 0, most = 0;
    for (size_t set = 0; set < s.set_taps.size(); ++set) {
      params_.set_first[set] = int16_t(live);
      for (const int tap : s.set_taps[set]) params_.tap_of[live++] = int16_t(tap);
      most = std::max(most, int(s.set_taps[set].size()));
    }
    params_.set_first[s.set_taps.size()] = int16_t(live);
    const GradientRowSpace space = gradient_row_space(s.shape.width, most, live, int(f.taps()), s.cluster_splits,
                                                      element_bytes, most_shared_bytes() - kGradientFixedBytes);
    params_.rows_at = space.rows_at, params_.row_bytes = space.row_bytes;
    params_.row_channels = space.row_channels, params_.rows_at_once = space.rows_at_once;
    params_.tables_at = space.tables_at;
    shared_bytes_ = std::max(shared_bytes_, size_t(space.bytes) + kStageAlignment);
  }

  bool converts_before_;  // floats, in passes before
  int planes_;
  GradientTables tables_;
  int blocks_;
  std::optional<BoxedPixels> dy_, x_;
  GradientParams params_{};
  ScaleParams scale_{};
  SumParams sum_{};
  Layouter layout_;
  size_t partials_at_ = 0, scaled_at_[2] = {}, largest_at_[2] = {}, exponents_at_[2] = {};
  const void* function_ = nullptr;
  size_t shared_bytes_ = 0;
  bool direct_, few_pixels_ = false;
  int cluster_;
  SumKernel sum_kernel_;
};

}  // namespace

hopper::GradientMachine hopper::current_gradient_machine() {
  GradientMachine m{current_device().multiprocessors, most_shared_bytes(), {}};
  const void* function = half_gradient(1);
  allow_all_shared_memory(function);
  for (int n = 1; n <= kMaxGradientCluster; ++n) {
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {unsigned(n), 1, 1};
    cudaLaunchConfig_t launch{};
    launch.gridDim = dim3(unsigned(m.multiprocessors * n)), launch.blockDim = dim3(kGradientBlockThreads);
    launch.dynamicSmemBytes = size_t(m.shared_bytes - kGradientFixedBytes + kStageAlignment);
    launch.attrs = &attribute, launch.numAttrs = 1;
    check(cudaOccupancyMaxActiveClusters(&m.clusters[size_t(n)], function, &launch),
          "asking how many clusters fit the GPU");
  }
  return m;
}

hopper::GradientOperands hopper::gradient_operands(DataType type, Precision precision) {
  return {planes_of(type, precision)};
}

bool hopper_takes_gradient(const Problem& p, DataType type, Layout layout, const Device& device) {
  const int64_t chunk = 16 / int64_t(size_of(type));
  return device.capability == 90 && layout == Layout::kNHWC && p.filter.C % chunk == 0 && p.filter.K % chunk == 0 &&
         hopper::can_implement_gradient(p);
}

std::unique_ptr<WeightGradientKernel> make_hopper_gradient(const Problem& p, DataType type, Precision precision,
                                                           double cycles) {
  const GradientOperands operands = gradient_operands(type, precision);
  const GradientMachine machine = current_gradient_machine();
  const GradientSchedule schedule = type == DataType::kFloat ? choose_gradient_of_floats(p, operands.planes, machine)
                                                             : choose_gradient_schedule(p, operands, machine);
  return schedule.cycles < cycles ? make_scheduled_gradient(p, type, precision, schedule) : nullptr;
}

std::unique_ptr<WeightGradientKernel> hopper::make_scheduled_gradient(const Problem& p, DataType type,
                                                                      Precision precision,
                                                                      const GradientSchedule& schedule) {
  return std::make_unique<HopperGradient>(p, type, gradient_operands(type, precision), schedule);
}

}  // namespace cks::cuda
