// Times the CUDA kernels, as the library chooses them, on the layers of the suite. Usage: cuda_layers [part of a
// layer's name]
#include <chrono>

#include "benchmarks/cuda_layers.h"

using namespace cks;
using namespace cks::benchmark;

namespace {

struct Time {
  double conv, gradient, plan_ms;
};

template <class T>
Time time_layer(const Problem& p, DataType type, Layout layout, Precision precision, cudaStream_t stream) {
  std::mt19937 random(1);
  const Buffer<T> x(p.N * p.filter.C * volume(p.input), random), w(p.filter.elements(), random);
  const Buffer<T> y(p.N * p.filter.K * volume(p.output), random);
  const cuda::ConvolutionSpec spec{p, type, layout, precision, {}, true};
  const Buffer<char> packed(int64_t(cuda::packed_filter_bytes(spec.use())));
  cuda::pack_filter(spec.use(), w.data(), packed.data(), stream);
  must(cudaStreamSynchronize(stream));
  const auto start = std::chrono::steady_clock::now();
  const cuda::Convolution conv(spec);
  const double plan_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  const Buffer<char> workspace(int64_t(conv.workspace_bytes()));
  Time t{0, 0, plan_ms};
  t.conv = microseconds(
      stream, [&] { conv.run(x.data(), packed.data(), nullptr, nullptr, y.data(), workspace.data(), stream); });
  if (p.filter.op == kC) {
    const cuda::WeightGradient gradient(p, type, layout, precision);
    const Buffer<char> scratch(int64_t(gradient.workspace_bytes()));
    t.gradient = microseconds(stream, [&] { gradient.run(x.data(), y.data(), w.data(), scratch.data(), stream); });
  }
  return t;
}

}  // namespace

int main(int argc, char** argv) {
  cudaStream_t stream;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  std::printf(
      "us; dW: the weight gradient; plan: the first plan of the layer, ms\n%-18s %8s %8s %8s %8s %8s %8s %8s %8s\n",
      "layer", "fp16", "tf32", "fp32", "nchw16", "dW16", "dWtf32", "dWfp32", "plan");
  try {
    for (const Layer& l : kLayers) {
      if (argc > 1 && !std::strstr(l.name, argv[1])) continue;
      const Problem p = problem_of(l);
      const Time half = time_layer<__half>(p, DataType::kHalf, Layout::kNHWC, Precision::kTF32, stream);
      const Time tf32 = time_layer<float>(p, DataType::kFloat, Layout::kNHWC, Precision::kTF32, stream);
      const Time fp32 = time_layer<float>(p, DataType::kFloat, Layout::kNHWC, Precision::kFP32, stream);
      const Time nchw = time_layer<__half>(p, DataType::kHalf, Layout::kNCHW, Precision::kTF32, stream);
      std::printf("%-18s %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %8.3f\n", l.name, half.conv, tf32.conv, fp32.conv,
                  nchw.conv, half.gradient, tf32.gradient, fp32.gradient, tf32.plan_ms);
    }
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    return 1;
  }
  return 0;
}
