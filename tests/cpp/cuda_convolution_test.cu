// Checks the CUDA convolutions against float64 on random problems, elementwise, on poisoned buffers with guards around
// them. Usage: cuda_convolution_test [problems [seed [capability]]]. With a capability (75, ...) the portable kernels
// run as on a device of that capability. Exit status 0 where all agree, 1 where one does not, 77 where there is no GPU.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#ifdef ORT_CKS_HOPPER
#include "ops_cuda/hopper/hopper_conv.h"
#endif
#include "ops_cuda/kernel_choice.h"
#include "ops_cuda/pack.h"
#include "tests/cpp/cuda_check.cuh"
#include "tests/cpp/random_problem.h"

using namespace cks;
using namespace cks::test;

namespace {

int as_capability = 0;  // 0: as what it is

// The device as the portable kernel is told it is. With a single multiprocessor even a small output takes large tiles.
cuda::Device pretended(int multiprocessors, int shared_kb) {
  const cuda::Device real = cuda::current_device();
  if (as_capability > 0) return {as_capability, multiprocessors ? multiprocessors : real.multiprocessors, 64 << 10};
  return {real.capability, multiprocessors ? multiprocessors : real.multiprocessors,
          std::min(real.shared_bytes, shared_kb << 10)};
}

// What follows the sum; the slopes are on the device.
struct Ending {
  ActivationKind kind;
  float alpha, beta, residual_alpha;
  const float* slopes;
};

template <class T>
__global__ void check_convolution(Shapes s, Ending ending, Tolerance tolerance, const T* x, const T* w, const T* bias,
                                  const T* residual, const T* y, int64_t count, Report* report) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t pixels = s.output.d * s.output.h * s.output.w;
    const int64_t k = s.y_channels_last ? i % s.K : i / pixels % s.K;
    const int64_t pixel = s.y_channels_last ? i / s.K % pixels : i % pixels;
    const Size o{pixel / s.output.w / s.output.h, pixel / s.output.w % s.output.h, pixel % s.output.w};
    Sum sum = convolution_at(s, x, w, i / pixels / s.K, k, o);
    if (bias) sum.add(value(bias[k]));
    if (residual) {
      const double z = value(residual[i]);
      sum.add(z < 0 ? z / ending.residual_alpha : z);
    }
    const double slope = ending.slopes ? ending.slopes[k] : 0;
    const double want = activate(ending.kind, ending.alpha, ending.beta, slope, sum.value);
    judge(report, i, value(y[i]), want,
          tolerance.result * fabs(want) + 1.2 * tolerance.sum * sum.magnitude + tolerance.subnormal + 1e-7);
  }
}

// Stretches of elements, shorter than a k-block's and longer, made larger or smaller by up to 2^12.
void make_uneven(const Buffer& floats, std::mt19937& random) {
  std::vector<float> v(floats.bytes() / sizeof(float));
  must(cudaMemcpy(v.data(), floats.data(), floats.bytes(), cudaMemcpyDeviceToHost));
  std::uniform_int_distribution<int> octave(-12, 12), length(1, 100);
  for (size_t i = 0; i < v.size();) {
    const float scale = std::ldexp(1.f, octave(random));
    for (const size_t end = std::min(v.size(), i + size_t(length(random))); i < end; ++i) v[i] *= scale;
  }
  must(cudaMemcpy(floats.data(), v.data(), floats.bytes(), cudaMemcpyHostToDevice));
}

struct Case {
  Problem problem;
  Layouts layouts = Layout::kNCHW;
  Precision precision;
  Activation activation;
  bool bias, residual, coarse, uneven;
  float residual_alpha;
  bool constant;                   // weights are packed before the run
  int multiprocessors, shared_kb;  // of the device that the portable kernel is planned for; 0: the real number
  unsigned config;                 // which configuration of the Hopper kernel, modulo their number
};

void describe(const Case& c, const char* type, const char* kernel) {
  const char* const what = c.problem.filter.op == Operator::kConv ? "Conv" : "ConvTranspose";
  test::describe(c.problem, c.layouts, c.precision, type, what, kernel);
  std::printf(" activation %d bias %d residual %d alpha %g coarse %d multiprocessors %d shared %d KB\n",
              int(c.activation.kind), c.bias, c.residual, double(c.residual_alpha), c.coarse, c.multiprocessors,
              c.shared_kb);
}

enum class Forced { kDepthwise, kDirect, kFewInputs, kFewOutputs, kHopper, kPortable };

std::optional<cuda::FewInputsPlan> plan_few_inputs(const cuda::ConvolutionSpec& spec, const Case& c) {
  return cuda::plan_few_inputs(spec.problem, spec.type, spec.layouts, pretended(c.multiprocessors, c.shared_kb));
}

// A family that the dispatch might not choose, but which can.
Forced forced_family(const cuda::ConvolutionSpec& spec, const Case& c) {
  const cuda::Device device = pretended(c.multiprocessors, c.shared_kb);
  if (cuda::is_direct(spec.problem.filter))
    return c.config % 2 && cuda::depthwise_can(spec) ? Forced::kDepthwise : Forced::kDirect;
  if (c.config % 3 == 0 && plan_few_inputs(spec, c)) return Forced::kFewInputs;
  if (c.config % 3 <= 1 && cuda::few_outputs_can(spec, device)) return Forced::kFewOutputs;
#ifdef ORT_CKS_HOPPER
  if (as_capability == 0 && c.shared_kb > 64 && cuda::hopper_takes(spec.use(), cuda::current_device()))
    return Forced::kHopper;
#endif
  return Forced::kPortable;
}

// Of the Hopper kernel any configuration, of the portable one any tile.
std::unique_ptr<cuda::ConvolutionKernel> make_forced(Forced family, const cuda::ConvolutionSpec& spec, const Case& c) {
  const cuda::Device device = pretended(c.multiprocessors, c.shared_kb);
  switch (family) {
    case Forced::kDepthwise:
      return cuda::make_depthwise_conv(spec, device);
    case Forced::kDirect:
      return cuda::make_direct_conv(spec, device);
    case Forced::kFewInputs:
      return cuda::make_few_inputs_conv(spec, *plan_few_inputs(spec, c), device);
    case Forced::kFewOutputs:
      return cuda::make_few_outputs_conv(spec, device);
    case Forced::kHopper:
#ifdef ORT_CKS_HOPPER
    {
      namespace hopper = cuda::hopper;
      const hopper::Operands operands = hopper::operands_of(spec);
      const auto configs = hopper::all_configs(spec.problem, operands);
      for (size_t i = 0;; ++i) {
        const auto& config = configs[(c.config + i) % configs.size()];
        const auto schedule = hopper::make_schedule(spec.problem, operands, hopper::current_machine(), config);
        if (schedule.clusters > 0) return hopper::make_scheduled_conv(spec, schedule);
      }
    }
#endif
    case Forced::kPortable:
      break;
  }
  return cuda::make_portable_conv(spec, device);
}

// A forced kernel; where it reads one tensor only, of a copy of X and X2.
std::unique_ptr<cuda::ConvolutionKernel> make_forced_of_two(Forced family, const cuda::ConvolutionSpec& spec,
                                                            const Case& c) {
  const cuda::Device device = pretended(c.multiprocessors, c.shared_kb);
  const bool in_place =
      spec.problem.x2_channels == 0 ||
      (family == Forced::kFewInputs &&
       cuda::reads_x2({cuda::Family::kFewInputs, plan_few_inputs(spec, c)}, spec, device)) ||
      (family == Forced::kHopper && cuda::reads_x2({cuda::Family::kMatrixProduct}, spec, cuda::current_device()));
  if (in_place) return make_forced(family, spec, c);
  cuda::ConvolutionSpec whole = spec;
  whole.problem.x2_channels = 0;
  return cuda::make_concatenated_conv(spec, make_forced(family, whole, c));
}

// The last channels of each pixel of x apart from the others, as bytes.
void split_channels(const Buffer& x, size_t pixel_bytes, const Buffer& first, const Buffer& second) {
  const std::vector<unsigned char> all = x.read();
  std::vector<unsigned char> parts[2];
  const size_t of_second = second.bytes() * pixel_bytes / std::max<size_t>(all.size(), 1);
  for (size_t i = 0; i < all.size(); ++i) parts[i % pixel_bytes >= pixel_bytes - of_second].push_back(all[i]);
  first.write(parts[0]), second.write(parts[1]);
}

// The packed form that a kernel reads.
struct Packing {
  size_t (*bytes)(const FilterUse&);
  void (*pack)(const FilterUse&, const void*, void*, cuda::Stream);
};
Packing packing_of(bool as_chosen, Forced family) {
  if (as_chosen) return {cuda::packed_filter_bytes, cuda::pack_filter};
#ifdef ORT_CKS_HOPPER
  if (family == Forced::kHopper) return {cuda::hopper_filter_bytes, cuda::pack_hopper_filter};
#endif
  return {cuda::portable_filter_bytes, cuda::pack_portable_filter};
}

// Convolutions whose kernels are one function with different shared memory: all are planned before the first runs, as
// in a session. The elements are coarse, so that sums are exact and all results the same. The first problem has few
// tiles, which are cut; the second many with few products.
bool check_planned_together(std::mt19937& random) {
#ifdef ORT_CKS_HOPPER
  namespace hopper = cuda::hopper;
  Problem few, many;
  few.N = 2, few.filter.C = 64, few.filter.K = 128, few.filter.extent = {1, 3, 3};
  few.input = few.output = {1, 20, 20}, few.pad = {0, 1, 1};
  many.N = 4, many.filter.C = 64, many.filter.K = 128, many.filter.extent = {1, 2, 2}, many.stride = {1, 2, 2};
  many.input = {1, 64, 64}, many.output = {1, 128, 128}, many.filter.op = Operator::kConvTranspose;
  for (const Problem& p : {few, many}) {
    const cuda::ConvolutionSpec spec{p, DataType::kHalf, Layout::kNHWC, Precision::kTF32, {}};
    if (!cuda::hopper_takes(spec.use(), cuda::current_device())) return true;
    Buffer x(size_t(p.N * p.filter.C * volume(p.input)) * 2), w(size_t(p.filter.elements()) * 2),
        y(size_t(p.N * p.filter.K * volume(p.output)) * 2), packed(cuda::packed_filter_bytes(spec.use()));
    fill<__half>(x, true, random), fill<__half>(w, true, random);
    cuda::pack_filter(spec.use(), w.data(), packed.data(), nullptr);
    std::vector<std::unique_ptr<cuda::ConvolutionKernel>> kernels;
    for (const hopper::Config& config : hopper::all_configs(p, hopper::operands_of(spec))) {
      const auto schedule = hopper::make_schedule(p, hopper::operands_of(spec), hopper::current_machine(), config);
      if (schedule.clusters > 0) kernels.push_back(hopper::make_scheduled_conv(spec, schedule));
    }
    std::vector<unsigned char> first;
    for (const auto& kernel : kernels) {
      const Buffer workspace(kernel->workspace_bytes());
      for (int launch = 0; launch < 2; ++launch) {  // the second finds counters as the first has left them
        y.poison();
        kernel->run(x.data(), packed.data(), nullptr, nullptr, y.data(), workspace.data(), nullptr);
        must(cudaDeviceSynchronize());
        if (first.empty()) first = y.read();
        if (y.read() != first) {
          std::printf("FAILED: of convolutions planned together two differ\n");
          return false;
        }
      }
    }
  }
#endif
  return true;
}

// Errors as shares of the sum of magnitudes: their squares' sum, and the largest (its bits: positive floats are ordered
// as those).
struct Errors {
  double squares;
  unsigned largest;
};

__global__ void measure_errors(Shapes s, const float* x, const float* w, const float* y, int64_t count,
                               Errors* errors) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t pixel = i / s.K, pixels = s.output.d * s.output.h * s.output.w;
    const Size o{pixel % pixels / s.output.w / s.output.h, pixel / s.output.w % s.output.h, pixel % s.output.w};
    const Sum sum = convolution_at(s, x, w, pixel / pixels, i % s.K, o);
    const double error = fabs(double(y[i]) - sum.value) / sum.magnitude;
    atomicAdd(&errors->squares, error * error);
    atomicMax(&errors->largest, __float_as_uint(float(error)));
  }
}

// A strict float convolution on tensor cores must not be less exact than one of fused multiply-adds: of signed values,
// of ones with all signs alike (as after ReLU), and of rows and channels of very different sizes.
bool check_strict_accuracy(std::mt19937& random) {
#ifdef ORT_CKS_HOPPER
  const cuda::Device device = cuda::current_device();
  cuda::ConvolutionSpec spec{{}, DataType::kFloat, Layout::kNHWC, Precision::kFP32, {}};
  Problem& p = spec.problem;
  p.N = 2, p.filter.K = 64, p.filter.extent = {1, 3, 3}, p.pad = {0, 1, 1}, p.input = p.output = {1, 14, 14};
  if (device.capability != 90) return true;
  cuda::Device small = device;
  small.multiprocessors = 1;  // so that the portable kernel makes each sum in one go
  bool passed = true;
  std::printf("errors of strict float, rms and largest: tensor cores, then fused multiply-adds\n");
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> octave(-10, 10);
  for (const int64_t channels : {64, 512, 2048}) {
    for (const char* kind : {"signed", "positive", "of all sizes"}) {
      p.filter.C = channels;
      const int64_t pixels = p.N * volume(p.input), outputs = pixels * p.filter.K;
      std::vector<float> of_x(size_t(pixels * channels)), of_w(size_t(p.filter.elements()));
      std::vector<float> of_channel(size_t(channels), 1.f);
      if (*kind == 'o')
        for (float& v : of_channel) v = std::ldexp(1.f, octave(random));
      for (size_t i = 0; i < of_x.size(); ++i)
        of_x[i] = (*kind == 'p' ? std::fabs(normal(random)) : normal(random)) * of_channel[i % size_t(channels)];
      for (float& v : of_w) v = *kind == 'p' ? std::fabs(normal(random)) : normal(random);
      Buffer x(of_x.size() * 4), w(of_w.size() * 4), y(size_t(outputs) * 4);
      must(cudaMemcpy(x.data(), of_x.data(), x.bytes(), cudaMemcpyHostToDevice));
      must(cudaMemcpy(w.data(), of_w.data(), w.bytes(), cudaMemcpyHostToDevice));
      double rms[2], largest[2];
      for (const bool portable : {false, true}) {
        Buffer packed(portable ? cuda::portable_filter_bytes(spec.use()) : cuda::hopper_filter_bytes(spec.use()));
        (portable ? cuda::pack_portable_filter : cuda::pack_hopper_filter)(spec.use(), w.data(), packed.data(),
                                                                           nullptr);
        const auto kernel = portable ? cuda::make_portable_conv(spec, small) : cuda::make_hopper_conv(spec);
        const Buffer workspace(kernel->workspace_bytes());
        kernel->run(x.data(), packed.data(), nullptr, nullptr, y.data(), workspace.data(), nullptr);
        Buffer found(sizeof(Errors));
        must(cudaMemset(found.data(), 0, sizeof(Errors)));
        measure_errors<<<256, 128>>>(to_shapes(p, spec.layouts), reinterpret_cast<const float*>(x.data()),
                                     reinterpret_cast<const float*>(w.data()), reinterpret_cast<const float*>(y.data()),
                                     outputs, reinterpret_cast<Errors*>(found.data()));
        Errors errors;
        must(cudaMemcpy(&errors, found.data(), sizeof(Errors), cudaMemcpyDeviceToHost));
        rms[portable] = std::sqrt(errors.squares / double(outputs));
        largest[portable] = std::bit_cast<float>(errors.largest);
      }
      std::printf("  %4d channels, %-12s %.2e %.2e   %.2e %.2e\n", int(channels), kind, rms[0], largest[0], rms[1],
                  largest[1]);
      passed &= rms[0] <= rms[1] && largest[0] <= largest[1];
    }
  }
  if (!passed) std::printf("FAILED: tensor cores are less exact\n");
  return passed;
#else
  return true;
#endif
}

// Floats of patches, and those that are halved before the kernel, are converted with a scale for many of them: images
// and blocks of channels of very different sizes, and nothing but zeros, in every such configuration.
bool check_shared_scales(std::mt19937& random) {
#ifdef ORT_CKS_HOPPER
  namespace hopper = cuda::hopper;
  cuda::ConvolutionSpec spec{{}, DataType::kFloat, Layout::kNHWC, Precision::kTF32, {}};
  Problem& p = spec.problem;
  std::uniform_int_distribution<int> octave(-16, 16);
  std::normal_distribution<float> normal;
  int checked = 0;
  for (const auto& [C, K, extent, dilation] : {std::tuple{96, 64, Dims{1, 3, 3}, Dims{1, 1, 1}},
                                               {32, 24, {3, 3, 3}, {1, 1, 1}},
                                               {200, 32, {1, 3, 5}, {1, 2, 1}},
                                               {160, 40, {1, 1, 7}, {1, 1, 3}},
                                               {416, 264, {1, 3, 3}, {1, 1, 1}},
                                               {288, 136, {1, 1, 1}, {1, 1, 1}}}) {
    const bool line = extent[1] == 1;
    p.N = 6, p.filter.C = C, p.filter.K = K, p.filter.extent = extent, p.dilation = dilation;
    p.input = p.output = {extent[0] > 1 ? 9 : 1, line ? 1 : 34, line ? 700 : 21};
    for (int i = 0; i < 3; ++i) p.pad[i] = dilation[i] * (extent[i] - 1) / 2;
    if (!cuda::hopper_takes(spec.use(), cuda::current_device())) return true;
    const int64_t pixels = volume(p.input), outputs = p.N * pixels * K;
    std::vector<float> of_x(size_t(p.N * pixels * C)), of_image { 1, 0x1p50f, 0, 0x1p-60f, 0x1p12f, 0x1p-8f };
    for (int64_t n = 0; n < p.N; ++n) {
      std::vector<float> of_block(size_t(C / 32 + 1));
      for (float& v : of_block) v = std::ldexp(of_image[size_t(n)], octave(random));
      for (int64_t i = 0; i < pixels * C; ++i)
        of_x[size_t(n * pixels * C + i)] = normal(random) * of_block[size_t(i % C / 32)];
    }
    Buffer x(of_x.size() * 4), w(size_t(p.filter.elements()) * 4), y(size_t(outputs) * 4),
        packed(cuda::hopper_filter_bytes(spec.use()));
    must(cudaMemcpy(x.data(), of_x.data(), x.bytes(), cudaMemcpyHostToDevice));
    fill<float>(w, false, random);
    cuda::pack_hopper_filter(spec.use(), w.data(), packed.data(), nullptr);
    cuda::ConvolutionSpec served = spec;
    served.problem = joined_pixels(p, spec.layouts);
    const hopper::Operands operands = hopper::operands_of(served);
    for (const hopper::Config& config : hopper::all_configs(served.problem, operands)) {
      const bool patches = config.shape.source == hopper::Source::kPatches;
      if (!patches && !config.halved) continue;
      const auto schedule = hopper::make_schedule(served.problem, operands, hopper::current_machine(), config);
      if (schedule.clusters == 0) continue;
      if (patches && schedule.box.n > 1) continue;  // a tile of one image only has one size
      const auto kernel = hopper::make_scheduled_conv(served, schedule);
      const Buffer workspace(kernel->workspace_bytes());
      y.poison();
      for (int i = 0; i < 3; ++i)
        kernel->run(x.data(), packed.data(), nullptr, nullptr, y.data(), workspace.data(), nullptr);
      const DeviceReport report;
      check_convolution<<<1024, 128>>>(
          to_shapes(p, Layout::kNHWC), Ending{ActivationKind::kNone, 0, 0, 1, nullptr},
          tolerance_of<float>(spec.precision, false), reinterpret_cast<const float*>(x.data()),
          reinterpret_cast<const float*>(w.data()), static_cast<const float*>(nullptr),
          static_cast<const float*>(nullptr), reinterpret_cast<const float*>(y.data()), outputs, report.device());
      ++checked;
      if (report.passed(y.guards_intact(), true)) continue;
      test::describe(p, Layout::kNHWC, spec.precision, "float", "Conv", hopper::name_of(config).c_str());
      std::printf("\n");
      return false;
    }
  }
  std::printf("%d configurations with floats of all sizes that share scales\n", checked);
  return checked > 0;
#else
  return true;
#endif
}

template <class T>
bool check_convolution_case(const Case& c, std::mt19937& random) {
  const Problem& p = c.problem;
  const Filter& f = p.filter;
  const DataType type = data_type(static_cast<T*>(nullptr));
  const int64_t outputs = p.N * f.K * volume(p.output);
  const cuda::ConvolutionSpec spec{p, type, c.layouts, c.precision, c.activation, c.constant, c.residual_alpha};
  const bool as_chosen = outputs == 0 || (c.multiprocessors == 0 && as_capability == 0);
  const Forced family = forced_family(spec, c);
  const Packing packing = packing_of(as_chosen, family);
  Buffer x(size_t(p.N * f.C * volume(p.input)) * sizeof(T)), w(size_t(f.elements()) * sizeof(T)),
      bias(size_t(f.K) * sizeof(T)), residual(size_t(outputs) * sizeof(T)), y(size_t(outputs) * sizeof(T)),
      packed(packing.bytes(spec.use()));
  fill<T>(x, c.coarse, random), fill<T>(w, c.coarse, random);
  fill<T>(bias, c.coarse, random), fill<T>(residual, c.coarse, random);
  if (c.uneven && !c.coarse && type == DataType::kFloat) make_uneven(x, random);
  const Buffer x1(size_t(p.N * (f.C - p.x2_channels) * volume(p.input)) * sizeof(T)),
      x2(size_t(p.N * p.x2_channels * volume(p.input)) * sizeof(T));
  if (p.x2_channels > 0) split_channels(x, size_t(f.C) * sizeof(T), x1, x2);
  const InputTensors input = p.x2_channels > 0 ? InputTensors(x1.data(), x2.data()) : InputTensors(x.data());
  const Activation& a = c.activation;
  const Buffer slopes(a.slopes.size() * sizeof(float));
  must(cudaMemcpy(slopes.data(), a.slopes.data(), slopes.bytes(), cudaMemcpyHostToDevice));
  const Ending ending{a.kind, a.alpha, a.beta, c.residual_alpha,
                      a.slopes.empty() ? nullptr : reinterpret_cast<float*>(slopes.data())};
  const T* b = c.bias ? reinterpret_cast<const T*>(bias.data()) : nullptr;
  const T* z = c.residual ? reinterpret_cast<const T*>(residual.data()) : nullptr;

  packing.pack(spec.use(), w.data(), packed.data(), nullptr);
  if (c.constant) must(cudaDeviceSynchronize());
  const cuda::Convolution convolution(spec);
  const auto forced = as_chosen ? nullptr : make_forced_of_two(family, spec, c);
  Buffer workspace(forced ? forced->workspace_bytes() : convolution.workspace_bytes());
  const auto run = [&] {
    if (forced)
      forced->run(input, packed.data(), b, z, y.data(), workspace.data(), nullptr);
    else
      convolution.run(input, packed.data(), b, z, y.data(), workspace.data(), nullptr);
  };
  run();
  must(cudaDeviceSynchronize());
  const auto first = y.read();
  y.poison(), workspace.poison();
  for (int i = 0; i < 3; ++i) run();  // the next may begin while the one before it ends

  const DeviceReport report;
  if (outputs > 0)
    check_convolution<<<1024, 128>>>(to_shapes(p, c.layouts), ending, tolerance_of<T>(c.precision, c.coarse),
                                     reinterpret_cast<const T*>(x.data()), reinterpret_cast<const T*>(w.data()), b, z,
                                     reinterpret_cast<const T*>(y.data()), outputs, report.device());
  const bool guards = y.guards_intact() && workspace.guards_intact() && packed.guards_intact();
  if (report.passed(guards, first == y.read())) return true;
  describe(c, type_name(static_cast<T*>(nullptr)), forced ? forced->name() : convolution.kernel_name());
  return false;
}

// Long sums of few tiles, which the portable kernel cuts into pieces: of tiles with all taps and with some, in both
// layouts of Y.
bool check_cut_sums(std::mt19937& random, int& done) {
  bool passed = true;
  for (const Operator op : {Operator::kConv, Operator::kConvTranspose})
    for (const Layout y : {Layout::kNHWC, Layout::kNCHW})
      for (const Precision precision : {Precision::kTF32, Precision::kFP32}) {
        Case c{};
        Problem& p = c.problem;
        p.filter = {op, 1032, 72, 1, {1, 3, 5}};
        p.N = 2, p.input = {1, 9, 13}, p.output = {1, 9, 13}, p.dilation = {1, 2, 1}, p.pad = {0, 2, 2};
        if (op == Operator::kConvTranspose) p.stride = {1, 1, 2}, p.output[2] = 25;
        c.layouts = {Layout::kNHWC, y}, c.precision = precision;
        c.activation = {ActivationKind::kLeakyRelu, 0.25f}, c.residual_alpha = 1.f;
        c.bias = c.residual = c.constant = true;
        c.multiprocessors = 40, c.shared_kb = 64, c.config = 2;  // not the Hopper kernel, nor those of few channels
        const cuda::ConvolutionSpec spec{p, DataType::kHalf, c.layouts, precision, c.activation};
        if (cuda::make_portable_conv(spec, pretended(c.multiprocessors, c.shared_kb))->workspace_bytes() == 0) {
          std::printf("FAILED: a long sum is not cut\n");
          passed = false;
        }
        passed &= check_convolution_case<float>(c, random) && check_convolution_case<__half>(c, random) &&
                  check_convolution_case<__nv_bfloat16>(c, random);
        done += 3;
      }
  return passed;
}

Case random_case(std::mt19937& random, Operator op) {
  Case c;
  const Kind kind = Kind(pick(random, {0, 0, 1, 2}));
  c.problem = random_problem(random, op, kind);
  c.layouts.x = kind == Kind::kTwoInputs || pick(random, {0, 1}) ? Layout::kNHWC : Layout::kNCHW;
  c.layouts.y = pick(random, {0, 1}) ? Layout::kNHWC : Layout::kNCHW;
  if (kind == Kind::kNarrow && op == Operator::kConv && c.layouts.x == Layout::kNHWC)
    c.problem.x2_channels = pick(random, {0, c.problem.filter.C / 2});
  c.precision = pick(random, {0, 1}) ? Precision::kTF32 : Precision::kFP32;
  c.activation.kind = ActivationKind(pick(random, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12}));
  if (c.activation.kind == ActivationKind::kClip)
    c.activation.alpha = -0.5f, c.activation.beta = 6.f;
  else
    c.activation.alpha = 0.2f, c.activation.beta = 0.5f;
  if (c.activation.kind == ActivationKind::kPRelu) {
    std::uniform_real_distribution<float> slope(-0.5f, 1.2f);  // no steeper than check_convolution allows for
    for (int64_t k = 0; k < c.problem.filter.K; ++k) c.activation.slopes.push_back(slope(random));
  }
  c.multiprocessors = int(pick(random, {0, 0, 1, 1, 2, 8})), c.shared_kb = int(pick(random, {64, 100, 228}));
  c.config = kind == Kind::kNarrow ? 0 : random();
  if (kind == Kind::kTwoInputs) {  // mostly such families as read them in place
    c.shared_kb = 228;
    c.config = c.config / 3 * 3 + unsigned(pick(random, {0, 2, 2}));
  }
  c.bias = pick(random, {0, 1}), c.residual = pick(random, {0, 1}), c.coarse = pick(random, {0, 1});
  c.constant = pick(random, {0, 1}), c.uneven = pick(random, {0, 1});
  c.residual_alpha = std::array{1.f, 0.01f, 0.1f, 2.f}[size_t(pick(random, {0, 0, 1, 2, 3}))];
  return c;
}

}  // namespace

int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 300;
  std::mt19937 random(argc > 2 ? unsigned(std::atoi(argv[2])) : 1u);
  as_capability = argc > 3 ? std::atoi(argv[3]) : 0;
  return run_checks([&](int& done, int& failed) {
    failed += as_capability == 0 && !check_planned_together(random);
    failed += as_capability == 0 && !check_strict_accuracy(random);
    failed += as_capability == 0 && !check_shared_scales(random);
    failed += !check_cut_sums(random, done);
    for (int i = 0; i < problems && failed < 10; ++i) {
      const Case c = random_case(random, i % 2 ? Operator::kConvTranspose : Operator::kConv);
      failed += !check_convolution_case<float>(c, random);
      failed += !check_convolution_case<__half>(c, random);
      failed += !check_convolution_case<__nv_bfloat16>(c, random);
      done += 3;
    }
  });
}
