// SkDilatedWeightGrad: dW of the Conv whose input is X and whose output has the gradient dY, on either provider.
#include <algorithm>

#include "custom_ops/cpu_provider.h"
#include "custom_ops/kernel.h"
#include "custom_ops/plan_cache.h"
#include "custom_ops/shape_inference.h"
#ifdef ORT_CKS_CUDA
#include "custom_ops/cuda_provider.h"
#endif

namespace cks::ort {
namespace {

enum Input : size_t { kX, kDY };

template <class Provider>
struct PlannedGradient {
  Shape dw;
  std::unique_ptr<const typename Provider::WeightGradient> gradient;
};

template <class Provider>
class WeightGradientKernel final : public Kernel {
 public:
  explicit WeightGradientKernel(const KernelArguments& arguments)
      : Kernel(arguments.api, arguments.subject),
        type_(arguments.type),
        attributes_(read_attributes(KernelAttributes(arguments.api, arguments.info), arguments.kind)),
        provider_(arguments.api, arguments.info) {}

  void run(OrtKernelContext* context) override {
    const typename Provider::Run run(provider_, context);
    const OrtValue* x = input(api_, context, kX);
    const OrtValue* dy = input(api_, context, kDY);
    const bool capturing = run.is_capturing();
    const typename Cache::Key key{shape_of(api_, x), shape_of(api_, dy)};
    const auto kept = plans_.get(key, capturing, [&] {
      if (capturing) throw Error("a CUDA graph is being captured for shapes that the session has not run with before");
      return plan(key, run.precision(attributes_.precision));
    });
    const PlannedGradient<Provider>& planned = *kept;
    void* dw = allocate_output(api_, context, planned.dw);
    const Block scratch = run.scratch(planned.gradient->workspace_bytes());
    Provider::differentiate(run, *planned.gradient, data_of(api_, x), data_of(api_, dy), dw, scratch.data());
  }

 private:
  using Cache = PlanCache<PlannedGradient<Provider>>;

  std::unique_ptr<const PlannedGradient<Provider>> plan(const typename Cache::Key& key, Precision precision) const {
    const Shape &x = key[0], &dy = key[1];
    const Attributes& a = attributes_.convolution;
    const Layout layout = attributes_.layouts.x;  // dY's too
    auto planned = std::make_unique<PlannedGradient<Provider>>();
    planned->dw = to_shape(gradient_shape(attributes_, x, dy));
    const Problem problem = make_problem(a, make_filter(a, planned->dw), x, layout);
    const std::vector<int64_t> y = output_shape(problem, x.rank, layout);
    if (!std::ranges::equal(y, std::span<const int64_t>(dy))) {
      throw Error("dY has shape " + to_string(dy) + "; the output of this convolution has " + to_string(y));
    }
    planned->gradient = Provider::plan_gradient(problem, type_, layout, precision);
    return planned;
  }

  const DataType type_;
  const NodeAttributes attributes_;
  Provider provider_;
  Cache plans_;
};

}  // namespace

template <class Provider>
std::unique_ptr<Kernel> make_weight_gradient_kernel(const KernelArguments& arguments) {
  return std::make_unique<WeightGradientKernel<Provider>>(arguments);
}

template std::unique_ptr<Kernel> make_weight_gradient_kernel<CpuProvider>(const KernelArguments&);
#ifdef ORT_CKS_CUDA
template std::unique_ptr<Kernel> make_weight_gradient_kernel<CudaProvider>(const KernelArguments&);
#endif

}  // namespace cks::ort
