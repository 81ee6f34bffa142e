// Times every configuration of the Hopper kernel on the layers of the suite, in fp16, TF32 and strict fp32, beside the
// one that its model chooses: the model's constants are fitted to what this prints. Usage: hopper_sweep [part of a
// layer's name ...] > sweep.csv
#include <cmath>
#include <string>

#include "benchmarks/cuda_layers.h"
#include "ops_cuda/hopper/hopper_conv.h"

using namespace cks;
using namespace cks::benchmark;
using namespace cks::cuda;

namespace {

// How much slower than the fastest configuration the chosen one is, as a ratio.
template <class T>
double sweep(const Layer& layer, const char* dtype, DataType type, Precision precision, cudaStream_t stream) {
  const ConvolutionSpec spec{joined_pixels(problem_of(layer), Layout::kNHWC), type, Layout::kNHWC, precision, {}, true};
  const Problem& p = spec.problem;
  const hopper::Operands operands = hopper::operands_of(spec);
  const hopper::Machine machine = hopper::current_machine();
  std::mt19937 random(1);
  const Buffer<T> x(p.N * p.filter.C * volume(p.input), random), w(p.filter.elements(), random);
  const Buffer<T> y(p.N * p.filter.K * volume(p.output), random);
  const Buffer<char> packed(int64_t(packed_filter_bytes(spec.use())));
  pack_filter(spec.use(), w.data(), packed.data(), stream);
  must(cudaStreamSynchronize(stream));

  const std::string chosen = hopper::name_of(hopper::choose_schedule(p, operands, machine).config);
  double best_us = INFINITY, chosen_us = INFINITY;
  for (const hopper::Config& config : hopper::all_configs(p, operands)) {
    const hopper::Schedule schedule = hopper::make_schedule(p, operands, machine, config);
    if (!schedule.clusters) continue;
    const auto kernel = hopper::make_scheduled_conv(spec, schedule);
    const Buffer<char> workspace(int64_t(kernel->workspace_bytes()));
    const double us = microseconds(
        stream, [&] { kernel->run(x.data(), packed.data(), nullptr, nullptr, y.data(), workspace.data(), stream); });
    const std::string name = hopper::name_of(config);
    best_us = std::min(best_us, us);
    if (name == chosen) chosen_us = us;
    std::printf("%s,%s,%s,%d,%d x %d x %d x %d,%d,%.2f,%.2f,%s\n", layer.name.c_str(), dtype, name.c_str(),
                schedule.stages, schedule.box.n, schedule.box.extent[0], schedule.box.extent[1], schedule.box.extent[2],
                schedule.slots, us, schedule.cycles / 1750, name == chosen ? "chosen" : "");
  }
  return chosen_us / best_us;
}

}  // namespace

int main(int argc, char** argv) {
  cudaStream_t stream;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // what was timed is there, whatever comes after
  std::printf("layer,dtype,configuration,stages,box,partial tiles,us,expected us at 1.75 GHz,chosen\n");
  const Parts parts(argv + 1, argv + argc);
  double logs = 0;
  int count = 0;
  std::vector<Layer> layers(std::begin(kLayers), std::end(kLayers));
  layers.insert(layers.end(), std::begin(kModelLayers), std::end(kModelLayers));
  for (const Layer& layer : layers) {
    if (!wanted(layer.name, parts)) continue;
    for (const double ratio : {sweep<__half>(layer, "fp16", DataType::kHalf, Precision::kTF32, stream),
                               sweep<float>(layer, "tf32", DataType::kFloat, Precision::kTF32, stream),
                               sweep<float>(layer, "fp32", DataType::kFloat, Precision::kFP32, stream)}) {
      logs += std::log(ratio), ++count;
    }
  }
  std::fprintf(stderr, "chosen over fastest, geomean of %d: %.3f\n", count, std::exp(logs / std::max(count, 1)));
}
