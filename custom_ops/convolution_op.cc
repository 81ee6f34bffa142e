// ConvV2, SkDilated and KSDeconv: Y = activation(convolution(X, W) + B + Z), on either provider. With concat = 1 the
// last input is X2, and what is convolved Concat([X, X2]).
#include <chrono>
#include <cstdio>
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
        tuning_(arguments.tuning),
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
    const Call call{run, context, input(api_, context, kX), input(api_, context, kW),
                    inputs_ > kB ? input(api_, context, kB) : nullptr,
                    inputs_ > kZ ? input(api_, context, kZ) : nullptr,
                    attributes_.concat ? input(api_, context, inputs_) : nullptr,
                    // Only floats have two: half-precision weights must not be packed again because a session forbids
                    // TF32.
                    type_ == DataType::kFloat ? run.precision(attributes_.precision) : attributes_.precision};

    const bool capturing = run.is_capturing();
    const typename Cache::Key key{shape_of(api_, call.x), constant_filter_ ? constant_w_shape_ : shape_of(api_, call.w),
                                  call.x2 ? shape_of(api_, call.x2) : Shape{}};
    const auto kept = plans_.get(key, capturing, [&] {
      if (capturing) throw Error("a CUDA graph is being captured for shapes that the session has not run with before");
      return plan(key, call);
    });
    const Planned& planned = *kept;
    check_operands(call, planned);

    void* y = allocate_output(api_, context, planned.y);
    if (planned.is_empty) return;
    const Tensors tensors = tensors_of(call);
    with_filter(call, planned.filter, planned.convolution->workspace_bytes(), [&](const auto& packed, char* workspace) {
      Provider::convolve(run, *planned.convolution, tensors.input, packed, tensors.bias, tensors.residual, y,
                         workspace);
    });
  }

 private:
  using Planned = PlannedConvolution<Provider>;
  using Cache = PlanCache<Planned>;

  // What a run has to do with. An input that is absent is null.
  struct Call {
    const typename Provider::Run& run;
    OrtKernelContext* context;
    const OrtValue *x, *w, *b, *z, *x2;
    Precision precision;
  };

  struct Tensors {
    InputTensors input;
    const void *bias, *residual;
  };
  Tensors tensors_of(const Call& call) const {
    return {{data_of(api_, call.x), call.x2 ? data_of(api_, call.x2) : nullptr},
            call.b ? data_of(api_, call.b) : nullptr,
            call.z ? data_of(api_, call.z) : nullptr};
  }

  // Calls use(packed filter, workspace); both are gone afterwards, unless the filter is constant.
  template <class Use>
  void with_filter(const Call& call, const Filter& filter, size_t workspace_bytes, const Use& use) {
    if (constant_filter_) {
      const Block scratch = call.run.scratch(workspace_bytes);
      return use(constant_filter_->get(call.run, call.precision, call.w), scratch.data());
    }
    const FilterUse filter_is = filter_use(filter, shape_of(api_, call.w), call.precision);
    const size_t packed_bytes = size_t(round_up(int64_t(Provider::packed_bytes(filter_is)), 256));
    const Block scratch = call.run.scratch(packed_bytes + workspace_bytes);
    const auto& packed = Provider::pack(call.run, filter_is, data_of(api_, call.w), scratch.data());
    use(packed, scratch.data() + packed_bytes);
  }

  std::unique_ptr<const Planned> plan(const typename Cache::Key& key, const Call& call) {
    const auto& [x, w, x2] = key;
    if (x.rank != w.rank) {
      throw Error("X has rank " + std::to_string(x.rank) + " and W rank " + std::to_string(w.rank) +
                  "; they must be the same");
    }
    auto planned = std::make_unique<Planned>();
    planned->filter = make_filter(attributes_.convolution, w);
    check_slopes(attributes_.activation, planned->filter.K);
    Problem problem =
        make_problem(attributes_.convolution, planned->filter,
                     attributes_.concat ? joined_shape(x, x2, planned->filter) : x, attributes_.layouts.x);
    if (attributes_.concat) problem.x2_channels = x2.dims[x2.rank - 1];
    planned->y = to_shape(output_shape(problem, x.rank, attributes_.layouts.y));
    planned->is_empty = elements(planned->y) == 0;
    if (planned->is_empty) return planned;
    typename Provider::Spec spec{problem,
                                 type_,
                                 attributes_.layouts,
                                 call.precision,
                                 attributes_.activation,
                                 constant_filter_.has_value(),
                                 attributes_.residual_alpha};
    if constexpr (Provider::kSearchesTiles) {
      if (tuning_ && Provider::has_tiles(spec)) spec.tile = find_tile(call, *planned, spec);
    }
    planned->convolution = Provider::plan(spec);
    return planned;
  }

  // The tile that is fastest on this GPU: known, or measured now, in the first run of these shapes.
  std::string find_tile(const Call& call, const Planned& planned, const typename Provider::Spec& spec) {
    check_operands(call, planned);
    const std::string problem = Provider::search_key(spec, call.z != nullptr);
    const auto turn = tuning_->turn();
    std::optional<std::string> tile = tuning_->find(problem);
    if (!tile || !Provider::is_tile(spec, *tile)) {
      const Tensors tensors = tensors_of(call);
      void* const y = allocate_output(api_, call.context, planned.y);
      // No input shares memory with Y: the operator lets ONNX Runtime compute nothing in place. The caller may have
      // bound both to the same place; then the sum of a second launch would have the result of the first in it.
      if (tensors.residual == y) return {};
      tile = search(call, planned, spec, tensors, y);
    }
    try {
      tuning_->keep(problem, *tile);
    } catch (const Error& e) {  // a full disk must not cost the run
      log_message(api_, call.context, ORT_LOGGING_LEVEL_WARNING, subject() + ": " + e.what());
    }
    return *tile;
  }

  std::string search(const Call& call, const Planned& planned, const typename Provider::Spec& spec,
                     const Tensors& tensors, void* y) {
    const auto begin = std::chrono::steady_clock::now();
    typename Provider::TileSearch search(spec);
    typename Provider::TileSearch::Found found;
    const auto measure = [&](const auto& packed, char* workspace) {
      found = search.fastest(tensors.input, packed, tensors.bias, tensors.residual, y, workspace, call.run.stream());
    };
    for (bool measured = false; !measured;) {
      try {
        with_filter(call, planned.filter, search.workspace_bytes(), measure);
        measured = true;
      } catch (const StatusError&) {  // ONNX Runtime has no such block
        if (!search.drop_largest()) throw;
      }
    }
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    log_message(api_, call.context, ORT_LOGGING_LEVEL_INFO, subject() + ": " + describe(found, took.count()));
    return found.tile;
  }

  template <class Found>
  static std::string describe(const Found& found, double search_ms) {
    char text[200];
    std::snprintf(text, sizeof text, "searched %zu tiles in %.1f ms: '%s' takes %.2f us, the expected one %.2f us",
                  found.candidates, search_ms, found.tile.c_str(), found.us, found.expected_us);
    return text;
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
    return {filter, make_stride(attributes_.convolution, w.rank), type_, attributes_.layouts, precision};
  }

  void check_operands(const Call& call, const Planned& planned) const {
    if (call.b) check_bias(call.b, planned.filter);
    if (call.z) check_residual(call.z, planned.y);
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
  Tuning* const tuning_;  // null: no tile is searched
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
