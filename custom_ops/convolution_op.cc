// ConvV2, SkDilated and KSDeconv: Y = activation(convolution(X, W) + B + Z), on either provider. With concat = 1 the
// last input is X2, and what is convolved Concat([X, X2]).
#include <optional>

#include "custom_ops/cpu_provider.h"
#include "custom_ops/kernel.h"
#include "custom_ops/plan_cache.h"
#ifdef ORT_CKS_CUDA
#include "custom_ops/cuda_provider.h"
#endif

namespace cks::ort {
namespace {

enum Input : size_t { kX, kW, kB, kZ, kAfterZ };

// A convolution planned for one set of shapes.
template <class Provider>
struct PlannedConvolution {
  Filter filter;
  Shape y;
  bool is_empty;
  std::unique_ptr<const typename Provider::Convolution> convolution;  // null where Y is empty
};

template <class Provider>
class ConvolutionKernel final : public Kernel {
 public:
  explicit ConvolutionKernel(const KernelArguments& arguments)
      : Kernel(arguments.api, arguments.subject),
        type_(arguments.type),
        attributes_(read_attributes(KernelAttributes(arguments.api, arguments.info), arguments.kind)),
        inputs_(inputs_before_x2(attributes_, input_count(arguments.api, arguments.info))),
        provider_(arguments.api, arguments.info) {
    const OrtValue* w = constant_input(api_, arguments.info, kW);
    if (!w) return;
    constant_w_shape_ = shape_of(api_, w);
    const Filter filter = make_filter(attributes_.convolution, constant_w_shape_);
    check_slopes(attributes_.activation, filter.K);
    if (inputs_ > kB) {
      if (const OrtValue* b = constant_input(api_, arguments.info, kB)) check_bias(b, filter);
    }
    constant_filter_.emplace(provider_, filter_use(filter, constant_w_shape_, attributes_.precision), w);
  }

  void run(OrtKernelContext* context) override {
    const typename Provider::Run run(provider_, context);
    const OrtValue* x = input(api_, context, kX);
    const OrtValue* w = input(api_, context, kW);
    const OrtValue* b = inputs_ > kB ? input(api_, context, kB) : nullptr;
    const OrtValue* z = inputs_ > kZ ? input(api_, context, kZ) : nullptr;
    const OrtValue* x2 = attributes_.concat ? input(api_, context, inputs_) : nullptr;

    // Only floats have two: half-precision weights must not be packed again because a session forbids TF32.
    const Precision precision =
        type_ == DataType::kFloat ? run.precision(attributes_.precision) : attributes_.precision;
    const bool capturing = run.is_capturing();
    const typename Cache::Key key{shape_of(api_, x), constant_filter_ ? constant_w_shape_ : shape_of(api_, w),
                                  x2 ? shape_of(api_, x2) : Shape{}};
    const auto kept = plans_.get(key, capturing, [&] {
      if (capturing) throw Error("a CUDA graph is being captured for shapes that the session has not run with before");
      return plan(key, precision);
    });
    const PlannedConvolution<Provider>& planned = *kept;
    if (b) check_bias(b, planned.filter);
    if (z) check_residual(z, planned.y);

    void* y = allocate_output(api_, context, planned.y);
    if (planned.is_empty) return;
    const InputTensors tensors(data_of(api_, x), x2 ? data_of(api_, x2) : nullptr);
    const void* bias = b ? data_of(api_, b) : nullptr;
    const void* residual = z ? data_of(api_, z) : nullptr;
    const size_t workspace_bytes = planned.convolution->workspace_bytes();
    if (constant_filter_) {
      const Block scratch = run.scratch(workspace_bytes);
      Provider::convolve(run, *planned.convolution, tensors, constant_filter_->get(run, precision, w), bias, residual,
                         y, scratch.data());
    } else {
      const FilterUse use = filter_use(planned.filter, shape_of(api_, w), precision);
      const size_t packed_bytes = size_t(round_up(int64_t(Provider::packed_bytes(use)), 256));
      const Block scratch = run.scratch(packed_bytes + workspace_bytes);
      const auto& packed = Provider::pack(run, use, data_of(api_, w), scratch.data());
      Provider::convolve(run, *planned.convolution, tensors, packed, bias, residual, y, scratch.data() + packed_bytes);
    }
  }

 private:
  using Cache = PlanCache<PlannedConvolution<Provider>>;

  std::unique_ptr<const PlannedConvolution<Provider>> plan(const typename Cache::Key& key, Precision precision) const {
    const auto& [x, w, x2] = key;
    if (x.rank != w.rank) {
      throw Error("X has rank " + std::to_string(x.rank) + " and W rank " + std::to_string(w.rank) +
                  "; they must be the same");
    }
    auto planned = std::make_unique<PlannedConvolution<Provider>>();
    planned->filter = make_filter(attributes_.convolution, w);
    check_slopes(attributes_.activation, planned->filter.K);
    Problem problem = make_problem(attributes_.convolution, planned->filter,
                                   attributes_.concat ? joined_shape(x, x2, planned->filter) : x, attributes_.layout);
    if (attributes_.concat) problem.x2_channels = x2.dims[x2.rank - 1];
    planned->y = to_shape(output_shape(problem, x.rank, attributes_.layout));
    planned->is_empty = elements(planned->y) == 0;
    if (!planned->is_empty) {
      planned->convolution = Provider::plan(problem, type_, attributes_.layout, precision, attributes_.activation,
                                            attributes_.residual_alpha, constant_filter_.has_value());
    }
    return planned;
  }

  static size_t inputs_before_x2(const NodeAttributes& node, size_t count) {
    if (!node.concat) {
      if (count > kAfterZ) throw Error("it has five inputs, of which the last is X2, but attribute concat is 0");
      return count;
    }
    if (count <= kB) throw Error("attribute concat is 1, but it has no X2: the last input, after X and W, B, Z");
    return count - 1;
  }

  // The shape of Concat([X, X2]), in NHWC.
  static Shape joined_shape(const Shape& x, const Shape& x2, const Filter& filter) {
    Shape joined = x;
    int64_t& channels = joined.dims[x.rank - 1];
    channels = x2.dims[x.rank - 1];
    if (x2 != joined) {
      throw Error("X2 has shape " + to_string(x2) + "; but for its channels, the last axis, it must be X's, " +
                  to_string(x));
    }
    channels += x.dims[x.rank - 1];
    if (channels != filter.C) {
      throw Error("X and X2 have shapes " + to_string(x) + " and " + to_string(x2) + ", " + std::to_string(channels) +
                  " channels together, but W takes " + std::to_string(filter.C) + " input channels");
    }
    return joined;
  }

  FilterUse filter_use(const Filter& filter, const Shape& w, Precision precision) const {
    return {filter, make_stride(attributes_.convolution, w.rank), type_, attributes_.layout, precision};
  }

  void check_bias(const OrtValue* b, const Filter& filter) const {
    const Shape shape = shape_of(api_, b);
    if (shape.rank != 1 || shape.dims[0] != filter.K) {
      throw Error("B has shape " + to_string(shape) + "; with these weights it must be [" + std::to_string(filter.K) +
                  "]");
    }
  }

  void check_residual(const OrtValue* z, const Shape& y) const {
    const Shape shape = shape_of(api_, z);
    if (shape != y) throw Error("Z has shape " + to_string(shape) + "; it must have the output's, " + to_string(y));
  }

  const DataType type_;
  const NodeAttributes attributes_;
  const size_t inputs_;
  Provider provider_;
  Shape constant_w_shape_;
  std::optional<typename Provider::ConstantFilter> constant_filter_;
  Cache plans_;
};

}  // namespace

template <class Provider>
std::unique_ptr<Kernel> make_convolution_kernel(const KernelArguments& arguments) {
  return std::make_unique<ConvolutionKernel<Provider>>(arguments);
}

template std::unique_ptr<Kernel> make_convolution_kernel<CpuProvider>(const KernelArguments&);
#ifdef ORT_CKS_CUDA
template std::unique_ptr<Kernel> make_convolution_kernel<CudaProvider>(const KernelArguments&);
#endif

}  // namespace cks::ort
