// Checks the weight gradients on CUDA against float64 on random problems, elementwise, on poisoned buffers with guards
// around them. Usage: cuda_gradient_test [problems [seed [capability]]]. With a capability (75, ...), for code that was
// built for it alone, only what every device has. Exit status 0 where all agree, 1 where one does not, 77 where there
// is no GPU.
#include <cmath>
#include <memory>

#ifdef ORT_CKS_HOPPER
#include "ops_cuda/hopper/weight_gradient.h"
#endif
#include "ops_cuda/few_pixels_plan.h"
#include "ops_cuda/kernel.h"
#include "tests/cpp/cuda_check.cuh"
#include "tests/cpp/random_problem.h"

using namespace cks;
using namespace cks::test;

namespace {

struct Case {
  Problem problem;
  Layout layout;
  Precision precision;
  bool coarse;
  int multiprocessors;  // of the device that the Hopper kernel is planned for, in sixteens; 0: the library's own plan
  unsigned config;      // which layout of boxes of that kernel, modulo their number
  bool floats;          // its blocks convert floats themselves
  bool few_pixels;      // by the kernel for few pixels, where it takes the problem at all
  bool growing;         // floats are zero in the first pixels, then small, and in the last ones 2^10 times as large
};

// Half of the problems are such that the Hopper kernel takes them.
Case random_case(std::mt19937& random) {
  Case c;
  Problem& p = c.problem;
  p = random_problem(random, Operator::kConv, Kind(pick(random, {0, 0, 1, 2})));
  p.x2_channels = 0;
  c.layout = pick(random, {0, 1}) ? Layout::kNHWC : Layout::kNCHW;
  if (pick(random, {0, 1})) {
    Filter& f = p.filter;
    c.layout = Layout::kNHWC;
    f.groups = 1, f.C = pick(random, {8, 16, 64, 72, 136}), f.K = pick(random, {8, 64, 128, 200});
    while (double(p.N) * double(volume(p.output)) * double(f.elements()) > 4e8) f.C = f.K = 8, p.N /= 2;
  }
  c.precision = pick(random, {0, 1}) ? Precision::kTF32 : Precision::kFP32;
  c.coarse = pick(random, {0, 1});
  c.multiprocessors = int(pick(random, {0, 0, 1, 1, 2, 8})), c.config = random();
  c.floats = pick(random, {0, 1}), c.few_pixels = pick(random, {0, 0, 1}), c.growing = pick(random, {0, 0, 0, 1});
  return c;
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

// A kernel that the library might not choose, or a schedule of it, where that kernel takes the problem at all.
std::unique_ptr<cuda::WeightGradientKernel> forced_gradient(const Problem& p, DataType type, const Case& c) {
  const cuda::Device device = cuda::current_device();
  if (c.few_pixels && cuda::few_pixels_takes_gradient(p, type, c.layout, device)) {
    if (const auto plan = cuda::plan_few_pixels(p, c.precision, device))
      return cuda::make_few_pixels_gradient(p, c.precision, *plan);
  }
#ifdef ORT_CKS_HOPPER
  namespace hopper = cuda::hopper;
  if (c.multiprocessors == 0 || !cuda::hopper_takes_gradient(p, type, c.layout, device)) return nullptr;
  auto operands = hopper::gradient_operands(type, c.precision);
  operands.floats = c.floats && type == DataType::kFloat;
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

// What a scale that was found in the first pixels does not suit.
void grow(const Buffer& buffer) {
  std::vector<float> v(buffer.bytes() / sizeof(float));
  must(cudaMemcpy(v.data(), buffer.data(), buffer.bytes(), cudaMemcpyDeviceToHost));
  for (size_t i = 0; i < v.size(); ++i) v[i] = i < v.size() / 8 ? 0.f : std::ldexp(v[i], int(10 * i / v.size()));
  must(cudaMemcpy(buffer.data(), v.data(), buffer.bytes(), cudaMemcpyHostToDevice));
}

template <class T>
bool check_case(const Case& c, std::mt19937& random) {
  const Problem& p = c.problem;
  const Filter& f = p.filter;
  const DataType type = data_type(static_cast<T*>(nullptr));
  Buffer x(size_t(p.N * f.C * volume(p.input)) * sizeof(T)), dy(size_t(p.N * f.K * volume(p.output)) * sizeof(T)),
      dw(size_t(f.elements()) * sizeof(T));
  fill<T>(x, c.coarse, random), fill<T>(dy, c.coarse, random);
  if (c.growing && type == DataType::kFloat) grow(x), grow(dy);
  const cuda::WeightGradient gradient(p, type, c.layout, c.precision);
  const auto forced = forced_gradient(p, type, c);
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
  check_gradient<<<1024, 128>>>(to_shapes(p, c.layout), tolerance_of<T>(c.precision, c.coarse),
                                reinterpret_cast<const T*>(x.data()), reinterpret_cast<const T*>(dy.data()),
                                reinterpret_cast<const T*>(dw.data()), f.elements(), report.device());
  if (report.passed(dw.guards_intact() && workspace.guards_intact(), first == dw.read())) return true;
  describe(p, c.layout, c.precision, type_name(static_cast<T*>(nullptr)), "weight gradient",
           forced ? forced->name() : gradient.kernel_name());
  std::printf(" coarse %d multiprocessors %d floats %d growing %d\n", c.coarse, c.multiprocessors, c.floats, c.growing);
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 150;
  std::mt19937 random(argc > 2 ? unsigned(std::atoi(argv[2])) : 1u);
  const bool everywhere = argc > 3 && std::atoi(argv[3]) > 0;
  return run_checks([&](int& done, int& failed) {
    for (int i = 0; i < problems && failed < 10; ++i) {
      Case c = random_case(random);
      if (everywhere) c.precision = Precision::kFP32;  // the gradient asks the device, which may know tf32
      failed += !check_case<float>(c, random);
      failed += !check_case<__half>(c, random);
      failed += !everywhere && !check_case<__nv_bfloat16>(c, random);
      done += 3;
    }
  });
}
