// Times the CUDA kernels, as the library chooses them, on the layers of the suite, on narrow ones, and on all layers of
// some models. Usage: cuda_layers [part of a layer's name, or of "model layer" ...]
#include <chrono>
#include <string>

#include "benchmarks/cuda_layers.h"
#include "ops_cuda/kernel.h"

using namespace cks;
using namespace cks::benchmark;

namespace {

struct Time {
  double conv, gradient, plan_ms, host;
  std::string kernel;
};

template <class T>
Time time_layer(const Problem& p, DataType type, Layouts layouts, Precision precision, bool with_gradient,
                cudaStream_t stream, Activation activation = {}) {
  std::mt19937 random(1);
  const Buffer<T> x(p.N * p.filter.C * volume(p.input), random), w(p.filter.elements(), random);
  const Buffer<T> y(p.N * p.filter.K * volume(p.output), random);
  const Buffer<T> bias(p.filter.K, random);
  const cuda::ConvolutionSpec spec{p, type, layouts, precision, activation, true};
  const Buffer<char> packed(int64_t(cuda::packed_filter_bytes(spec.use())));
  cuda::pack_filter(spec.use(), w.data(), packed.data(), stream);
  must(cudaStreamSynchronize(stream));
  const auto start = std::chrono::steady_clock::now();
  const cuda::Convolution conv(spec);
  const double plan_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  const Buffer<char> workspace(int64_t(conv.workspace_bytes()));
  Time t{0, 0, plan_ms, 0, conv.kernel_name()};
  if (conv.workspace_bytes() > 0) t.kernel += " + workspace";
  const auto run = [&] { conv.run(x.data(), packed.data(), bias.data(), nullptr, y.data(), workspace.data(), stream); };
  t.conv = microseconds(stream, run);
  t.host = host_microseconds(stream, run);
  if (with_gradient) {
    const cuda::WeightGradient gradient(p, type, layouts.x, precision);
    const Buffer<char> scratch(int64_t(gradient.workspace_bytes()));
    t.gradient = microseconds(stream, [&] { gradient.run(x.data(), y.data(), w.data(), scratch.data(), stream); });
  }
  return t;
}

// The library's convolution as one of its kernels.
class WholeConvolution : public cuda::ConvolutionKernel {
 public:
  explicit WholeConvolution(const cuda::ConvolutionSpec& spec) : convolution_(spec) {}
  size_t workspace_bytes() const override { return convolution_.workspace_bytes(); }
  const char* name() const override { return convolution_.kernel_name(); }
  void run(InputTensors input, const void* filter, const void* bias, const void* residual, void* y, void* workspace,
           cuda::Stream stream) const override {
    convolution_.run(input, filter, bias, residual, y, workspace, stream);
  }

 private:
  cuda::Convolution convolution_;
};

void time_suite(const Parts& parts, cudaStream_t stream) {
  std::printf(
      "us; dW: the weight gradient; host: CPU time of a run in fp16; plan: the first plan of the layer, ms\n"
      "%-18s %8s %8s %8s %8s %8s %8s %8s %8s %8s\n",
      "layer", "fp16", "tf32", "fp32", "nchw16", "dW16", "dWtf32", "dWfp32", "host", "plan");
  for (const Layer& l : kLayers) {
    if (!wanted(l.name, parts)) continue;
    const Problem p = problem_of(l);
    const bool g = l.op == kC;
    const Time half = time_layer<__half>(p, DataType::kHalf, Layout::kNHWC, Precision::kTF32, g, stream);
    const Time tf32 = time_layer<float>(p, DataType::kFloat, Layout::kNHWC, Precision::kTF32, g, stream);
    const Time fp32 = time_layer<float>(p, DataType::kFloat, Layout::kNHWC, Precision::kFP32, g, stream);
    const Time nchw = time_layer<__half>(p, DataType::kHalf, Layout::kNCHW, Precision::kTF32, false, stream);
    std::printf("%-18s %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %8.3f\n", l.name.c_str(), half.conv, tf32.conv,
                fp32.conv, nchw.conv, half.gradient, tf32.gradient, fp32.gradient, half.host, tf32.plan_ms);
  }
}

// What fp16 cannot beat on an H200: each byte once at 4.3 TB/s, each product at 790 TFLOP/s.
double floor_us(const Problem& p) {
  const Filter& f = p.filter;
  const int64_t pixels_in = p.N * volume(p.input), pixels_out = p.N * volume(p.output);
  const double bytes = 2.0 * double(pixels_in * f.C + pixels_out * f.K + f.elements());
  const double products = double(f.op == kC ? pixels_out : pixels_in) * double(f.elements());
  return std::max(bytes / 4.3e6, 2 * products / 790e6);
}

void time_narrow(const Parts& parts, cudaStream_t stream) {
  std::printf("us; floor: of fp16\n%-18s %8s %8s %8s %8s %8s %8s  %s\n", "narrow layer", "floor", "fp16", "nchw16",
              "tf32", "fp32", "nchw32", "kernels of fp16 and fp32");
  for (const Layer& l : kNarrowLayers) {
    if (!wanted(l.name, parts)) continue;
    const Problem p = problem_of(l);
    const Time half = time_layer<__half>(p, DataType::kHalf, Layout::kNHWC, Precision::kTF32, false, stream);
    const Time half_nchw = time_layer<__half>(p, DataType::kHalf, Layout::kNCHW, Precision::kTF32, false, stream);
    const Time tf32 = time_layer<float>(p, DataType::kFloat, Layout::kNHWC, Precision::kTF32, false, stream);
    const Time fp32 = time_layer<float>(p, DataType::kFloat, Layout::kNHWC, Precision::kFP32, false, stream);
    const Time fp32_nchw = time_layer<float>(p, DataType::kFloat, Layout::kNCHW, Precision::kFP32, false, stream);
    std::printf("%-18s %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f  %s, %s\n", l.name.c_str(), floor_us(p), half.conv,
                half_nchw.conv, tf32.conv, fp32.conv, fp32_nchw.conv, half.kernel.c_str(), fp32.kernel.c_str());
  }
}

// Layers of few channels on one side, with the tensor of that side in NHWC and in NCHW: what a Transpose may be folded
// into.
void time_mixed(const Parts& parts, cudaStream_t stream) {
  std::printf("us; the few channels in NHWC, then NCHW, the many in NHWC\n%-18s %8s %8s %8s %8s %8s %8s  %s\n",
              "few channels", "fp16", "nchw", "tf32", "nchw", "fp32", "nchw", "kernels of fp16");
  for (const Layer& l : kNarrowLayers) {
    const bool few_inputs = l.C <= 4 && l.C > 1, few_outputs = l.K <= 8 || l.K % 4 != 0;
    if (!wanted(l.name, parts) || l.groups > 1 || few_inputs == few_outputs) continue;
    const Problem p = problem_of(l);
    const Layouts mixed = few_inputs ? Layouts(Layout::kNCHW, Layout::kNHWC) : Layouts(Layout::kNHWC, Layout::kNCHW);
    std::printf("%-18s", l.name.c_str());
    const auto time = [&]<class T>(T*, DataType type, Precision precision) {
      const Time nhwc = time_layer<T>(p, type, Layout::kNHWC, precision, false, stream);
      const Time nchw = time_layer<T>(p, type, mixed, precision, false, stream);
      std::printf(" %8.2f %8.2f", nhwc.conv, nchw.conv);
      return nhwc.kernel + ", " + nchw.kernel;
    };
    const std::string kernels = time(static_cast<__half*>(nullptr), DataType::kHalf, Precision::kTF32);
    time(static_cast<float*>(nullptr), DataType::kFloat, Precision::kTF32);
    time(static_cast<float*>(nullptr), DataType::kFloat, Precision::kFP32);
    std::printf("  %s\n", kernels.c_str());
  }
}

void time_models(const Parts& parts, cudaStream_t stream) {
  std::printf("us, fp16 NHWC; over: the model's time above the floor\n%-34s %5s %8s %8s %8s  %s\n", "model layer",
              "times", "floor", "fp16", "over", "kernel");
  for (const ModelLayer& m : model_layers()) {
    const std::string name = std::string(m.model) + " " + m.layer.name;
    if (!wanted(name, parts)) continue;
    const Problem p = problem_of(m.layer);
    Activation activation{m.activation, 0.1f};
    if (m.activation == ActivationKind::kPRelu) activation.slopes.assign(size_t(p.filter.K), 0.1f);
    const Time half =
        time_layer<__half>(p, DataType::kHalf, Layout::kNHWC, Precision::kTF32, false, stream, activation);
    const double floor = floor_us(p);
    std::printf("%-34s %5d %8.2f %8.2f %8.1f  %s\n", name.c_str(), m.times, floor, half.conv,
                m.times * (half.conv - floor), half.kernel.c_str());
  }
}

// Of one tensor, of two as the library reads them, and of two that are copied into one first.
template <class T>
void time_concat(const ConcatLayer& l, DataType type, Precision precision, cudaStream_t stream) {
  std::mt19937 random(1);
  cuda::ConvolutionSpec spec{problem_of(l.layer), type, Layout::kNHWC, precision, {}, true};
  const Problem& p = spec.problem;
  const int64_t in = p.N * volume(p.input);
  const Buffer<T> x(in * p.filter.C, random), x2(in * l.x2, random), w(p.filter.elements(), random);
  const Buffer<T> y(p.N * p.filter.K * volume(p.output), random);
  const Buffer<char> packed(int64_t(cuda::packed_filter_bytes(spec.use())));
  cuda::pack_filter(spec.use(), w.data(), packed.data(), stream);
  must(cudaStreamSynchronize(stream));
  const auto time = [&](const auto& conv, InputTensors input) {
    const Buffer<char> workspace(int64_t(conv.workspace_bytes()));
    return microseconds(stream,
                        [&] { conv.run(input, packed.data(), nullptr, nullptr, y.data(), workspace.data(), stream); });
  };
  const double one = time(cuda::Convolution(spec), x.data());
  auto whole = std::make_unique<WholeConvolution>(spec);
  spec.problem.x2_channels = l.x2;
  const cuda::Convolution both(spec);
  const InputTensors two(x.data(), x2.data());
  const double of_both = time(both, two), copied = time(*cuda::make_concatenated_conv(spec, std::move(whole)), two);
  std::printf(" %8.2f %8.2f %8.2f  %-24s", one, of_both, copied, both.kernel_name());
}

void time_concats(const Parts& parts, cudaStream_t stream) {
  std::printf("us, fp16, then tf32, each: one tensor, X and X2, a copy of both\n");
  for (const ConcatLayer& l : kConcatLayers) {
    if (!wanted(l.layer.name, parts)) continue;
    std::printf("%-18s", l.layer.name.c_str());
    time_concat<__half>(l, DataType::kHalf, Precision::kTF32, stream);
    time_concat<float>(l, DataType::kFloat, Precision::kTF32, stream);
    std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  cudaStream_t stream;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const Parts parts(argv + 1, argv + argc);
  try {
    time_suite(parts, stream);
    time_narrow(parts, stream);
    time_concats(parts, stream);
    time_mixed(parts, stream);
    time_models(parts, stream);
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    return 1;
  }
  return 0;
}
