// Runs every configuration of the Hopper kernel on a few layers, several launches in a row, for this GPU and for one of
// a few multiprocessors, on which a block has many tiles. The numbers are such that nothing rounds but the result: all
// must be what a sum in float64 rounds to. Usage: hopper_configs_test [part of a layer's or a configuration's name
// ...]. Exit status as of cuda_convolution_test.
#include <algorithm>
#include <string>

#include "ops_cuda/hopper/hopper_conv.h"
#include "ops_cuda/pack.h"
#include "tests/cpp/cuda_check.cuh"

using namespace cks;
using namespace cks::test;
namespace hopper = cks::cuda::hopper;

namespace {

constexpr int kLaunches = 3;  // the next may begin while the one before it ends

struct Layer {
  const char* name;
  Operator op;
  int64_t N, C, K;
  Dims input, filter, stride, dilation, pad, output;
};
constexpr Operator kC = Operator::kConv, kT = Operator::kConvTranspose;
const Layer kLayers[] = {
    {"3x3", kC, 2, 64, 64, {1, 14, 14}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {1, 14, 14}},
    {"5x5 stride 2", kC, 3, 72, 32, {1, 15, 18}, {1, 5, 5}, {1, 2, 2}, {1, 1, 1}, {0, 2, 2}, {1, 8, 9}},
    {"3x3 stride 2", kC, 2, 96, 96, {1, 18, 22}, {1, 3, 3}, {1, 2, 2}, {1, 1, 1}, {0, 1, 1}, {1, 9, 11}},
    {"dilated", kC, 1, 128, 256, {1, 17, 17}, {1, 3, 3}, {1, 1, 1}, {1, 6, 6}, {0, 6, 6}, {1, 17, 17}},
    {"transposed", kT, 5, 128, 264, {1, 6, 7}, {1, 4, 4}, {1, 2, 2}, {1, 1, 1}, {0, 1, 1}, {1, 12, 14}},
    {"volume", kC, 1, 32, 24, {9, 6, 10}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {9, 6, 10}},
    {"line", kC, 1, 160, 64, {1, 1, 700}, {1, 1, 7}, {1, 1, 1}, {1, 1, 3}, {0, 0, 9}, {1, 1, 700}},
    {"pointwise", kC, 2, 96, 512, {1, 9, 11}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {1, 9, 11}},
};

Problem problem_of(const Layer& l) {
  Problem p;
  p.filter = {l.op, l.C, l.K, 1, l.filter};
  p.N = l.N, p.input = l.input, p.output = l.output;
  p.stride = l.stride, p.dilation = l.dilation, p.pad = l.pad;
  return p;
}

template <class T>
__global__ void check_exact(Shapes s, const T* x, const T* w, const T* bias, const T* y, int64_t count,
                            Report* report) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t pixels = s.output.d * s.output.h * s.output.w, k = i % s.K, pixel = i / s.K % pixels;
    const Size o{pixel / s.output.w / s.output.h, pixel / s.output.w % s.output.h, pixel % s.output.w};
    const double sum = convolution_at(s, x, w, i / pixels / s.K, k, o).value + value(bias[k]);
    judge(report, i, value(y[i]), value(T(float(fmax(sum, 0.0)))), 0);
  }
}

// With less of everything than this GPU has.
hopper::Machine small_machine(hopper::Machine m) {
  m.multiprocessors = 8;
  m.clusters = {{{8, 4, 2, 1}, {16, 8, 4, 2}}};
  return m;
}

template <class T>
void check_layer(const Layer& layer, Precision precision, const std::vector<std::string>& parts, int& done,
                 int& failed) {
  std::mt19937 random(1);
  const Problem p = problem_of(layer);
  const cuda::ConvolutionSpec spec{joined_pixels(p, Layout::kNHWC),
                                   data_type(static_cast<T*>(nullptr)),
                                   Layout::kNHWC,
                                   precision,
                                   {ActivationKind::kRelu},
                                   true};
  const int64_t outputs = p.N * p.filter.K * volume(p.output);
  Buffer x(size_t(p.N * p.filter.C * volume(p.input)) * sizeof(T)), w(size_t(p.filter.elements()) * sizeof(T)),
      bias(size_t(p.filter.K) * sizeof(T)), y(size_t(outputs) * sizeof(T)),
      packed(cuda::hopper_filter_bytes(spec.use()));
  fill<T>(x, true, random), fill<T>(w, true, random), fill<T>(bias, true, random);
  cuda::pack_hopper_filter(spec.use(), w.data(), packed.data(), nullptr);
  must(cudaDeviceSynchronize());

  const hopper::Operands operands = hopper::operands_of(spec);
  const hopper::Machine machine = hopper::current_machine();
  for (const hopper::Machine& m : {machine, small_machine(machine)}) {
    for (const hopper::Config& config : hopper::all_configs(spec.problem, operands)) {
      const std::string name = layer.name + (": " + hopper::name_of(config));
      const auto is_part = [&](const std::string& part) { return name.find(part) != name.npos; };
      if (!parts.empty() && std::ranges::none_of(parts, is_part)) continue;
      const hopper::Schedule schedule = hopper::make_schedule(spec.problem, operands, m, config);
      if (schedule.clusters == 0) continue;  // does not fit
      const auto kernel = hopper::make_scheduled_conv(spec, schedule);
      Buffer workspace(kernel->workspace_bytes());
      y.poison();
      for (int i = 0; i < kLaunches; ++i)
        kernel->run(x.data(), packed.data(), bias.data(), nullptr, y.data(), workspace.data(), nullptr);
      const DeviceReport report;
      check_exact<<<256, 128>>>(to_shapes(p, Layout::kNHWC), reinterpret_cast<const T*>(x.data()),
                                reinterpret_cast<const T*>(w.data()), reinterpret_cast<const T*>(bias.data()),
                                reinterpret_cast<const T*>(y.data()), outputs, report.device());
      ++done;
      if (report.passed(y.guards_intact() && workspace.guards_intact(), true)) continue;
      std::printf("%s, %s%s, %d multiprocessors\n", name.c_str(), type_name(static_cast<T*>(nullptr)),
                  precision == Precision::kTF32 ? "" : " strict", m.multiprocessors);
      ++failed;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> parts(argv + 1, argv + argc);
  return run_checks([&](int& done, int& failed) {
    if (cuda::current_device().capability != 90) return;
    for (const Layer& layer : kLayers) {
      check_layer<__half>(layer, Precision::kTF32, parts, done, failed);
      check_layer<__nv_bfloat16>(layer, Precision::kTF32, parts, done, failed);
      check_layer<float>(layer, Precision::kTF32, parts, done, failed);
      check_layer<float>(layer, Precision::kFP32, parts, done, failed);
    }
  });
}
