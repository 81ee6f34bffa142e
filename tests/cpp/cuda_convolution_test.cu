// Checks the CUDA kernels against float64 on random problems, elementwise, on poisoned buffers with guards around them.
// Usage: cuda_convolution_test [problems [seed [capability]]]. With a capability (75, ...) the portable kernels run as
// on a device of that capability. Exit status 0 where all agree, 1 where one does not, 77 where there is no GPU.
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#ifdef ORT_CKS_HOPPER
#include "ops_cuda/hopper/hopper_conv.h"
#include "ops_cuda/hopper/weight_gradient.h"
#endif
#include "ops_cuda/kernel_choice.h"
#include "ops_cuda/pack.h"
#include "tests/cpp/cuda_reference.cuh"

using namespace cks;
using namespace cks::test;

namespace {

void must(cudaError_t status) {
  if (status == cudaSuccess) return;
  std::printf("CUDA: %s\n", cudaGetErrorString(status));
  std::exit(1);
}

int as_capability = 0;  // 0: as what it is

// The device as the portable kernel is told it is. With a single multiprocessor even a small output takes large tiles.
cuda::Device pretended(int multiprocessors, int shared_kb) {
  const cuda::Device real = cuda::current_device();
  if (as_capability > 0) return {as_capability, multiprocessors ? multiprocessors : real.multiprocessors, 64 << 10};
  return {real.capability, multiprocessors ? multiprocessors : real.multiprocessors,
          std::min(real.shared_bytes, shared_kb << 10)};
}

// Device memory between two guards. All bytes start as 0xff: NaN in every type, so what is read before it is written,
// or from outside, shows in the results.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    must(cudaMalloc(&base_, bytes + 2 * kGuard));
    poison();
  }
  ~Buffer() { cudaFree(base_); }
  Buffer(const Buffer&) = delete;
  char* data() const { return base_ + kGuard; }
  size_t bytes() const { return bytes_; }
  void poison() { must(cudaMemset(base_, 0xff, bytes_ + 2 * kGuard)); }
  void write(const std::vector<unsigned char>& v) const {
    must(cudaMemcpy(data(), v.data(), bytes_, cudaMemcpyHostToDevice));
  }
  std::vector<unsigned char> read() const {
    std::vector<unsigned char> v(bytes_);
    must(cudaMemcpy(v.data(), data(), bytes_, cudaMemcpyDeviceToHost));
    return v;
  }
  bool guards_intact() const {
    std::vector<unsigned char> v(bytes_ + 2 * kGuard);
    must(cudaMemcpy(v.data(), base_, v.size(), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < v.size(); ++i)
      if ((i < kGuard || i >= kGuard + bytes_) && v[i] != 0xff) return false;
    return true;
  }

 private:
  static constexpr size_t kGuard = 4096;
  char* base_ = nullptr;
  size_t bytes_;
};

// What one element may differ from the reference by: rounding of the result, then of products and sums, in units of the
// sum of magnitudes.
struct Tolerance {
  double result, sum, subnormal;
};

struct Report {
  unsigned long long failures, first;
  double got, want, bound;
};

__device__ void judge(Report* report, int64_t i, double got, double want, double bound) {
  if (fabs(got - want) <= bound) return;  // false for NaN
  if (atomicAdd(&report->failures, 1ull) == 0) {
    report->first = i, report->got = got, report->want = want, report->bound = bound;
  }
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
    const int64_t k = s.channels_last ? i % s.K : i / pixels % s.K;
    const int64_t pixel = s.channels_last ? i / s.K % pixels : i % pixels;
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

template <class T>
__global__ void check_gradient(Shapes s, Tolerance tolerance, const T* x, const T* dy, const T* dw, int64_t count,
                               Report* report) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t taps = s.filter.d * s.filter.h * s.filter.w, group_c = s.C / s.groups, tap = i % taps;
    const Sum sum =
        weight_gradient_at(s, x, dy, i / taps / group_c, i / taps % group_c,
                           {tap / s.filter.w / s.filter.h, tap / s.filter.w % s.filter.h, tap % s.filter.w});
    judge(report, i, value(dw[i]), sum.value,
          tolerance.result * fabs(sum.value) + tolerance.sum * sum.magnitude + tolerance.subnormal);
  }
}

// Random elements. Coarse ones are multiples of 1/8 in [-1, 1]: exact in every type and in tf32, so that only sums and
// the result round.
template <class T>
void fill(const Buffer& buffer, bool coarse, std::mt19937& random) {
  std::vector<T> v(buffer.bytes() / sizeof(T));
  std::uniform_int_distribution<int> eighths(-8, 8);
  std::normal_distribution<float> normal(0, 0.5f);
  for (T& e : v) e = T(coarse ? float(eighths(random)) / 8 : normal(random));
  must(cudaMemcpy(buffer.data(), v.data(), buffer.bytes(), cudaMemcpyHostToDevice));
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
  Layout layout;
  Precision precision;
  Activation activation;
  bool bias, residual, coarse, uneven;
  float residual_alpha;
  bool constant;                   // weights are packed before the run
  int multiprocessors, shared_kb;  // of the device that the portable kernel is planned for; 0: the real number
  unsigned config;                 // which configuration of the Hopper kernel, modulo their number
};

int64_t pick(std::mt19937& random, std::initializer_list<int64_t> from) {
  return from.begin()[std::uniform_int_distribution<size_t>(0, from.size() - 1)(random)];
}

// Few channels in and out, such as fill whole steps of the tensor cores.
void make_narrow(Filter& f, std::mt19937& random) {
  f.groups = pick(random, {1, 1, 1, 2});
  f.C = f.groups * pick(random, {8, 16, 32, 48, 64}), f.K = f.groups * pick(random, {8, 12, 16, 24, 32, 64, 72});
}

// Channels of X: whole blocks of the Hopper kernel, in most cases, or whole chunks, or neither; of X2 likewise.
void make_two_inputs(Problem& p, std::mt19937& random) {
  p.filter.groups = pick(random, {1, 1, 1, 1, 1, 2});
  const int64_t x_channels = pick(random, {64, 64, 128, 192, 32, 16, 8, 10});
  p.x2_channels = pick(random, {8, 16, 64, 72, 136, 32, 16, 6});
  p.filter.C = x_channels + p.x2_channels, p.filter.K = p.filter.groups * pick(random, {8, 24, 32, 64, 72, 132, 256});
}

enum class Kind { kAny, kNarrow, kTwoInputs };

// A problem with an output, small enough for the reference.
Problem random_problem(std::mt19937& random, Operator op, Kind kind) {
  for (;;) {
    Problem p;
    p.filter.op = op;
    const int rank = int(pick(random, {1, 2, 2, 2, 3}));
    const bool depthwise = pick(random, {0, 0, 0, 1}) == 1;
    p.filter.groups = depthwise ? pick(random, {1, 3, 8, 24, 64, 65, 320}) : pick(random, {1, 1, 1, 1, 2, 3, 8, 32});
    p.filter.C = p.filter.groups * (depthwise ? 1 : pick(random, {1, 2, 3, 4, 7, 8, 12, 16, 20, 32, 56, 64, 72, 130}));
    p.filter.K = p.filter.groups *
                 (depthwise ? pick(random, {1, 1, 1, 2}) : pick(random, {1, 2, 3, 4, 8, 12, 17, 32, 64, 132, 256}));
    if (kind == Kind::kNarrow) make_narrow(p.filter, random);
    if (kind == Kind::kTwoInputs) make_two_inputs(p, random);
    p.N = pick(random, {0, 1, 1, 1, 2, 3, 5, 17, 70});
    bool valid = true;
    for (int i = 3 - rank; i < 3; ++i) {
      const int64_t f = pick(random, {1, 2, 3, 3, 4, 5, 7}), s = pick(random, {1, 1, 2, 2, 3, 5}),
                    d = pick(random, {1, 1, 1, 2, 3, 6});
      p.filter.extent[i] = f, p.stride[i] = s, p.dilation[i] = d;
      p.input[i] = pick(random, {1, 2, 3, 4, 7, 8, 13, 20, 33, 70, 150});
      const int64_t span = (f - 1) * d;
      p.pad[i] = std::uniform_int_distribution<int64_t>(0, span + 1)(random);
      const int64_t end = std::uniform_int_distribution<int64_t>(0, span + 1)(random);
      const int64_t extra = std::uniform_int_distribution<int64_t>(0, std::max(s, d) - 1)(random);
      p.output[i] = op == Operator::kConv ? (p.input[i] + p.pad[i] + end - span - 1 + s) / s
                                          : (p.input[i] - 1) * s + span + 1 - p.pad[i] - end + extra;
      valid = valid && p.output[i] > 0 && (op != Operator::kConv || p.input[i] + p.pad[i] + end > span);
    }
    const double products = double(std::max<int64_t>(p.N, 1)) * double(volume(p.output)) * double(p.filter.elements());
    if (valid && products < 2e8) return p;
  }
}

const char* type_name(float*) { return "float"; }
const char* type_name(__half*) { return "float16"; }
const char* type_name(__nv_bfloat16*) { return "bfloat16"; }

DataType data_type(float*) { return DataType::kFloat; }
DataType data_type(__half*) { return DataType::kHalf; }
DataType data_type(__nv_bfloat16*) { return DataType::kBFloat16; }

template <class T>
Tolerance tolerance_of(const Case& c) {
  const bool is_float = sizeof(T) == 4;
  const double sum = is_float && c.precision == Precision::kTF32 && !c.coarse ? 0x1p-10 : 2e-6;
  if (is_float) return {0x1p-24, sum, 0};
  return std::is_same_v<T, __half> ? Tolerance{0x1p-11, sum, 0x1p-25} : Tolerance{0x1p-8, sum, 0};
}

void describe(const Case& c, const char* type, const char* what, const char* kernel) {
  const Problem& p = c.problem;
  const auto dims = [](const char* name, const Dims& v) {
    std::printf(" %s %lldx%lldx%lld", name, (long long)v[0], (long long)v[1], (long long)v[2]);
  };
  std::printf("%s %s [%s] %s %s: N %lld C %lld K %lld groups %lld", what, type, kernel,
              c.layout == Layout::kNHWC ? "NHWC" : "NCHW", c.precision == Precision::kTF32 ? "tf32" : "fp32",
              (long long)p.N, (long long)p.filter.C, (long long)p.filter.K, (long long)p.filter.groups);
  dims("filter", p.filter.extent), dims("input", p.input), dims("output", p.output), dims("stride", p.stride);
  dims("dilation", p.dilation), dims("pad", p.pad);
  std::printf(" x2 %lld activation %d bias %d residual %d alpha %g coarse %d multiprocessors %d shared %d KB\n",
              (long long)p.x2_channels, int(c.activation.kind), c.bias, c.residual, double(c.residual_alpha), c.coarse,
              c.multiprocessors, c.shared_kb);
}

// A report on the device, cleared; read back after the check.
class DeviceReport {
 public:
  DeviceReport() {
    must(cudaMalloc(&device_, sizeof(Report)));
    must(cudaMemset(device_, 0, sizeof(Report)));
  }
  ~DeviceReport() { cudaFree(device_); }
  Report* device() const { return device_; }

  bool passed(bool guards, bool repeatable) const {
    Report r;
    must(cudaMemcpy(&r, device_, sizeof(Report), cudaMemcpyDeviceToHost));
    if (r.failures == 0 && guards && repeatable) return true;
    std::printf("FAILED: %llu wrong, one at %llu: %.9g, not %.9g +- %.3g; guards %s; second run %s\n  ", r.failures,
                r.first, r.got, r.want, r.bound, guards ? "intact" : "OVERWRITTEN", repeatable ? "equal" : "DIFFERENT");
    return false;
  }

 private:
  Report* device_ = nullptr;
};

enum class Forced { kDepthwise, kDirect, kFewInputs, kFewOutputs, kHopper, kPortable };

std::optional<cuda::FewInputsPlan> plan_few_inputs(const cuda::ConvolutionSpec& spec, const Case& c) {
  return cuda::plan_few_inputs(spec.problem, spec.type, spec.layout, pretended(c.multiprocessors, c.shared_kb));
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
// in a session. The elements are coarse, so that sums are exact and all results the same.
bool check_planned_together(std::mt19937& random) {
#ifdef ORT_CKS_HOPPER
  namespace hopper = cuda::hopper;
  cuda::ConvolutionSpec spec{{}, DataType::kHalf, Layout::kNHWC, Precision::kTF32, {}};
  Problem& p = spec.problem;
  p.N = 2, p.filter.C = 64, p.filter.K = 128, p.filter.extent = {1, 3, 3};
  p.input = p.output = {1, 20, 20}, p.pad = {0, 1, 1};
  if (!cuda::hopper_takes(spec.use(), cuda::current_device())) return true;
  Buffer x(2 * 64 * 400 * 2), w(size_t(p.filter.elements()) * 2), y(2 * 128 * 400 * 2),
      packed(cuda::packed_filter_bytes(spec.use()));
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
    y.poison();
    kernel->run(x.data(), packed.data(), nullptr, nullptr, y.data(), workspace.data(), nullptr);
    must(cudaDeviceSynchronize());
    if (first.empty()) first = y.read();
    if (y.read() != first) {
      std::printf("FAILED: of convolutions planned together two differ\n");
      return false;
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
        const auto kernel = portable ? cuda::make_portable_conv(spec, device) : cuda::make_hopper_conv(spec);
        const Buffer workspace(kernel->workspace_bytes());
        kernel->run(x.data(), packed.data(), nullptr, nullptr, y.data(), workspace.data(), nullptr);
        Buffer found(sizeof(Errors));
        must(cudaMemset(found.data(), 0, sizeof(Errors)));
        measure_errors<<<256, 128>>>(to_shapes(p, spec.layout), reinterpret_cast<const float*>(x.data()),
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

template <class T>
bool check_convolution_case(const Case& c, std::mt19937& random) {
  const Problem& p = c.problem;
  const Filter& f = p.filter;
  const DataType type = data_type(static_cast<T*>(nullptr));
  const int64_t outputs = p.N * f.K * volume(p.output);
  const cuda::ConvolutionSpec spec{p, type, c.layout, c.precision, c.activation, c.constant, c.residual_alpha};
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
    check_convolution<<<1024, 128>>>(to_shapes(p, c.layout), ending, tolerance_of<T>(c),
                                     reinterpret_cast<const T*>(x.data()), reinterpret_cast<const T*>(w.data()), b, z,
                                     reinterpret_cast<const T*>(y.data()), outputs, report.device());
  const bool guards = y.guards_intact() && workspace.guards_intact() && packed.guards_intact();
  if (report.passed(guards, first == y.read())) return true;
  describe(c, type_name(static_cast<T*>(nullptr)), f.op == Operator::kConv ? "Conv" : "ConvTranspose",
           forced ? forced->name() : convolution.kernel_name());
  return false;
}

Case random_case(std::mt19937& random, Operator op) {
  Case c;
  Kind kind = Kind(pick(random, {0, 0, 1, 2}));
  if (kind == Kind::kNarrow && op == Operator::kConvTranspose) kind = Kind::kAny;
  c.problem = random_problem(random, op, kind);
  c.layout = kind == Kind::kTwoInputs || pick(random, {0, 1}) ? Layout::kNHWC : Layout::kNCHW;
  if (kind == Kind::kNarrow && c.layout == Layout::kNHWC)
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

// A schedule of the Hopper weight gradient that the library might not choose, where the kernel takes the problem at
// all.
std::unique_ptr<cuda::WeightGradientKernel> forced_gradient(const Problem& p, DataType type, const Case& c) {
#ifdef ORT_CKS_HOPPER
  namespace hopper = cuda::hopper;
  if (!cuda::hopper_takes_gradient(p, type, c.layout, cuda::current_device())) return nullptr;
  const auto operands = hopper::gradient_operands(type, c.precision);
  auto machine = hopper::current_gradient_machine();
  machine.multiprocessors = c.multiprocessors * 16;
  const auto layouts = hopper::gradient_layouts(p);
  for (size_t i = 0; i < layouts.size(); ++i) {
    const auto schedule =
        hopper::make_gradient_schedule(p, operands, machine, layouts[(c.config + i) % layouts.size()]);
    if (schedule.stages > 0) return hopper::make_scheduled_gradient(p, type, c.precision, schedule);
  }
#endif
  return nullptr;
}

// Half of the problems are such that the Hopper kernel takes them.
Case random_gradient_case(std::mt19937& random) {
  Case c = random_case(random, Operator::kConv);
  c.problem.x2_channels = 0;
  if (pick(random, {0, 1})) {
    Filter& f = c.problem.filter;
    c.layout = Layout::kNHWC;
    f.groups = 1, f.C = pick(random, {8, 16, 64, 72, 136}), f.K = pick(random, {8, 64, 128, 200});
    while (double(c.problem.N) * double(volume(c.problem.output)) * double(f.elements()) > 4e8)
      f.C = f.K = 8, c.problem.N /= 2;
  }
  return c;
}

template <class T>
bool check_gradient_case(const Case& c, std::mt19937& random) {
  const Problem& p = c.problem;
  const Filter& f = p.filter;
  const DataType type = data_type(static_cast<T*>(nullptr));
  Buffer x(size_t(p.N * f.C * volume(p.input)) * sizeof(T)), dy(size_t(p.N * f.K * volume(p.output)) * sizeof(T)),
      dw(size_t(f.elements()) * sizeof(T));
  fill<T>(x, c.coarse, random), fill<T>(dy, c.coarse, random);
  const cuda::WeightGradient gradient(p, type, c.layout, c.precision);
  const auto forced = c.multiprocessors == 0 ? nullptr : forced_gradient(p, type, c);
  Buffer workspace(forced ? forced->workspace_bytes() : gradient.workspace_bytes());
  const auto run = [&] {
    if (forced)
      forced->run(x.data(), dy.data(), dw.data(), workspace.data(), nullptr);
    else
      gradient.run(x.data(), dy.data(), dw.data(), workspace.data(), nullptr);
  };
  run();
  must(cudaDeviceSynchronize());
  const auto first = dw.read();
  dw.poison(), workspace.poison();
  run();

  const DeviceReport report;
  check_gradient<<<1024, 128>>>(to_shapes(p, c.layout), tolerance_of<T>(c), reinterpret_cast<const T*>(x.data()),
                                reinterpret_cast<const T*>(dy.data()), reinterpret_cast<const T*>(dw.data()),
                                f.elements(), report.device());
  if (report.passed(dw.guards_intact() && workspace.guards_intact(), first == dw.read())) return true;
  describe(c, type_name(static_cast<T*>(nullptr)), "weight gradient", forced ? forced->name() : gradient.kernel_name());
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no GPU\n");
    return 77;
  }
  const int problems = argc > 1 ? std::atoi(argv[1]) : 300;
  as_capability = argc > 3 ? std::atoi(argv[3]) : 0;
  std::mt19937 random(argc > 2 ? unsigned(std::atoi(argv[2])) : 1u);
  int failed = 0, done = 0;
  try {
    failed += as_capability == 0 && !check_planned_together(random);
    failed += as_capability == 0 && !check_strict_accuracy(random);
    for (int i = 0; i < problems && failed < 10; ++i) {
      const Case c = random_case(random, i % 2 ? Operator::kConvTranspose : Operator::kConv);
      failed += !check_convolution_case<float>(c, random);
      failed += !check_convolution_case<__half>(c, random);
      failed += !check_convolution_case<__nv_bfloat16>(c, random);
      done += 3;
    }
    for (int i = 0; i < problems / 2 && failed < 10; ++i) {
      Case c = random_gradient_case(random);
      if (as_capability > 0) c.precision = Precision::kFP32;  // the gradient asks the device, which may know tf32
      failed += !check_gradient_case<float>(c, random);
      failed += !check_gradient_case<__half>(c, random);
      failed += as_capability == 0 && !check_gradient_case<__nv_bfloat16>(c, random);
      done += 3;
    }
  } catch (const std::exception& e) {
    std::printf("FAILED: %s\n", e.what());
    ++failed;
  }
  std::printf("%d checks, %d failed\n", done, failed);
  return failed ? 1 : 0;
}
