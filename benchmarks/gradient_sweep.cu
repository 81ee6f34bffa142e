// Times the weight gradient on the convolutions of benchmarks.paper, in fp16, TF32 and strict fp32, in every way of the
// Hopper kernel that its model expects to take at most some times as long as the best one (which comes first), and by
// the kernel for few pixels: the models' constants are fitted to what this prints.
//
// Usage: gradient_sweep [times [part of a name, such as 3x3_s1_8_b32_fp16, ...]] > sweep.csv
#include <cmath>
#include <string>

#include "benchmarks/cuda_layers.h"
#include "ops_cuda/few_pixels_plan.h"
#include "ops_cuda/hopper/weight_gradient.h"

using namespace cks;
using namespace cks::benchmark;
using namespace cks::cuda;

namespace {

// As benchmarks/paper.py has them.
std::vector<Layer> paper_layers() {
  constexpr int64_t kMostElements = int64_t(1) << 25, kBatches[] = {256, 128, 32, 1};
  struct Maps {
    int64_t size, channels;
  };
  struct Filters {
    int64_t kernel, stride;
    std::vector<int64_t> batches;
  };
  const Filters filters[] = {{3, 1, {1, 32, 128, 256}}, {3, 2, {128}}, {5, 1, {32}}, {5, 2, {128}}};
  std::vector<Layer> layers;
  for (const auto& [size, C] : {Maps{2, 512}, {4, 512}, {8, 512}, {16, 256}, {32, 128}, {64, 64}, {128, 64}}) {
    int64_t most = 0;
    for (const int64_t n : kBatches)
      if (most == 0 && n * C * size * size <= kMostElements) most = n;
    for (const auto& [kernel, stride, batches] : filters) {
      int64_t last = 0;
      for (const int64_t batch : batches) {
        const int64_t N = std::min(batch, most);
        if (N == last) continue;
        last = N;
        const std::string name = std::to_string(kernel) + "x" + std::to_string(kernel) + "_s" + std::to_string(stride) +
                                 "_" + std::to_string(size) + "_b" + std::to_string(N);
        layers.push_back({name, kC, N, C, C, size, size, kernel, stride, kernel / 2, 1, 0, 1});
      }
    }
  }
  return layers;
}

std::string name_of(const hopper::GradientSchedule& s) {
  const auto box = [](const hopper::Axes& b) {
    return std::to_string(b[0]) + "x" + std::to_string(b[1]) + "x" + std::to_string(b[2]) + "x" + std::to_string(b[3]);
  };
  int splits = 0, joined = 0;
  for (const hopper::GradientSums& sums : s.sums) splits = std::max(splits, sums.splits);
  for (const hopper::GradientSlot& slot : s.slots) joined += slot.apart > 0;
  return std::string(s.layout.images_inner ? "images first " : "images last ") + box(s.layout.box) + " of dY " +
         box(s.x_box) + " of X; " + std::to_string(s.tile_k) + " x " + std::to_string(s.tile_c) + " squares of 64 x " +
         std::to_string(s.shape.width) + " in runs of " + std::to_string(s.shape.join) + "; " +
         std::to_string(s.num_parts.size()) + " tap sets; " + std::to_string(joined) + " joined; " +
         std::to_string(s.max_parts) + " parts; " + std::to_string(splits) + " splits" + (s.direct ? " direct" : "") +
         (s.float_stages > 0 ? " of floats" : "");
}

// How much slower than the fastest way the chosen one is, as a ratio.
template <class T>
double sweep(const Layer& layer, double within, const char* dtype, DataType type, Precision precision,
             cudaStream_t stream) {
  const Problem p = problem_of(layer);
  std::mt19937 random(1);
  const Buffer<T> x(p.N * p.filter.C * volume(p.input), random), dy(p.N * p.filter.K * volume(p.output), random);
  const Buffer<T> dw(p.filter.elements(), random);
  double best_us = INFINITY, chosen_us = INFINITY, least_cycles = INFINITY;
  const auto time = [&](const WeightGradientKernel& kernel, const std::string& way, double cycles) {
    const Buffer<char> workspace(int64_t(kernel.workspace_bytes()));
    const double us =
        microseconds(stream, [&] { kernel.run(x.data(), dy.data(), dw.data(), workspace.data(), stream); });
    best_us = std::min(best_us, us);
    if (cycles < least_cycles) least_cycles = cycles, chosen_us = us;
    std::printf("%s,%s,%s,%.2f,%.2f\n", layer.name.c_str(), dtype, way.c_str(), us, cycles / 1700);
  };
  hopper::GradientOperands operands = hopper::gradient_operands(type, precision);
  operands.floats = type == DataType::kFloat;
  for (const hopper::GradientSchedule& s :
       hopper::likely_gradient_schedules(p, operands, hopper::current_gradient_machine(), within)) {
    const std::string stages = std::to_string(s.stages) + " x " + std::to_string(s.stage_bytes / 1024) + " KB";
    time(*hopper::make_scheduled_gradient(p, type, precision, s), name_of(s) + "," + stages, s.cycles);
  }
  if (few_pixels_takes_gradient(p, type, Layout::kNHWC, current_device())) {
    if (const auto plan = plan_few_pixels(p, precision, current_device()))
      time(*make_few_pixels_gradient(p, precision, *plan), "few pixels,1", plan->cycles);
  }
  return chosen_us / best_us;
}

}  // namespace

int main(int argc, char** argv) {
  cudaStream_t stream;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const double within = argc > 1 ? std::atof(argv[1]) : 1.3;
  const Parts parts(argv + std::min(argc, 2), argv + argc);
  std::printf("layer,dtype,schedule,stages,us,expected us at 1.7 GHz\n");
  double logs = 0;
  int count = 0;
  const auto add = [&]<class T>(T*, const Layer& layer, const char* dtype, DataType type, Precision precision) {
    if (!wanted(layer.name + "_" + dtype, parts)) return;
    logs += std::log(sweep<T>(layer, within, dtype, type, precision, stream)), ++count;
  };
  for (const Layer& layer : paper_layers()) {
    add(static_cast<__half*>(nullptr), layer, "fp16", DataType::kHalf, Precision::kTF32);
    add(static_cast<float*>(nullptr), layer, "tf32", DataType::kFloat, Precision::kTF32);
    add(static_cast<float*>(nullptr), layer, "fp32", DataType::kFloat, Precision::kFP32);
  }
  std::fprintf(stderr, "chosen over fastest, geomean of %d: %.3f\n", count, std::exp(logs / std::max(count, 1)));
}
