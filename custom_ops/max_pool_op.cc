// MaxPoolNhwc: the largest value under a sliding window, channels last, on either provider.
#include "custom_ops/cpu_provider.h"
#include "custom_ops/kernel.h"
#include "custom_ops/plan_cache.h"
#ifdef ORT_CKS_CUDA
#include "custom_ops/cuda_provider.h"
#endif

namespace cks::ort {
namespace {

template <class Provider>
struct PlannedPool {
  Shape y;
  typename Provider::MaxPool pool;
};

template <class Provider>
class MaxPoolKernel final : public Kernel {
 public:
  explicit MaxPoolKernel(const KernelArguments& arguments)
      : Kernel(arguments.api, arguments.subject),
        type_(arguments.type),
        attributes_(read_attributes(KernelAttributes(arguments.api, arguments.info), arguments.kind).convolution),
        provider_(arguments.api, arguments.info) {}

  void run(OrtKernelContext* context) override {
    const typename Provider::Run run(provider_, context);
    const OrtValue* x = input(api_, context, 0);
    const Shape x_shape = shape_of(api_, x);
    const auto planned = plans_.get({x_shape, Shape{}}, run.is_capturing(), [&] { return plan(x_shape); });
    void* y = allocate_output(api_, context, planned->y);
    if (elements(planned->y) > 0) Provider::pool(run, planned->pool, data_of(api_, x), y);
  }

 private:
  using Planned = PlannedPool<Provider>;

  std::unique_ptr<const Planned> plan(const Shape& x) const {
    const Problem problem = make_problem(attributes_, make_window(attributes_, x), x, Layout::kNHWC);
    const Shape y = to_shape(output_shape(problem, x.rank, Layout::kNHWC));
    return std::make_unique<const Planned>(Planned{y, typename Provider::MaxPool(problem, type_)});
  }

  const DataType type_;
  const Attributes attributes_;
  Provider provider_;
  PlanCache<Planned> plans_;
};

}  // namespace

template <class Provider>
std::unique_ptr<Kernel> make_max_pool_kernel(const KernelArguments& arguments) {
  return std::make_unique<MaxPoolKernel<Provider>>(arguments);
}

template std::unique_ptr<Kernel> make_max_pool_kernel<CpuProvider>(const KernelArguments&);
#ifdef ORT_CKS_CUDA
template std::unique_ptr<Kernel> make_max_pool_kernel<CudaProvider>(const KernelArguments&);
#endif

}  // namespace cks::ort
