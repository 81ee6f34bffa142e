// ReluEach: Y_i = max(X_i, 0) of several tensors, each of a shape of its own, on either provider.
#include <vector>

#include "custom_ops/cpu_provider.h"
#include "custom_ops/kernel.h"
#ifdef ORT_CKS_CUDA
#include "custom_ops/cuda_provider.h"
#endif

namespace cks::ort {
namespace {

template <class Provider>
class ReluEachKernel final : public Kernel {
 public:
  explicit ReluEachKernel(const KernelArguments& arguments)
      : Kernel(arguments.api, arguments.subject),
        type_(arguments.type),
        count_(input_count(arguments.api, arguments.info)),
        provider_(arguments.api, arguments.info) {
    const size_t outputs = output_count(arguments.api, arguments.info);
    if (outputs != count_) {
      throw Error("it has " + std::to_string(count_) + " inputs and " + std::to_string(outputs) +
                  " outputs; each input has an output");
    }
  }

  void run(OrtKernelContext* context) override {
    const typename Provider::Run run(provider_, context);
    std::vector<ReluTensor> tensors;
    tensors.reserve(count_);
    for (size_t i = 0; i < count_; ++i) {
      const OrtValue* x = input(api_, context, i);
      const std::vector<int64_t> shape = dims_of(api_, x);
      tensors.push_back({data_of(api_, x), allocate_output(api_, context, shape, i), elements(shape)});
    }
    Provider::relu_each(run, tensors, type_);
  }

 private:
  const DataType type_;
  const size_t count_;
  Provider provider_;
};

}  // namespace

template <class Provider>
std::unique_ptr<Kernel> make_relu_each_kernel(const KernelArguments& arguments) {
  return std::make_unique<ReluEachKernel<Provider>>(arguments);
}

template std::unique_ptr<Kernel> make_relu_each_kernel<CpuProvider>(const KernelArguments&);
#ifdef ORT_CKS_CUDA
template std::unique_ptr<Kernel> make_relu_each_kernel<CudaProvider>(const KernelArguments&);
#endif

}  // namespace cks::ort
