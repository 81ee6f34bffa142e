#include "ops_cuda/kernel_choice.h"

#include "ops_cuda/depthwise_plan.h"
#include "ops_cuda/few_outputs_plan.h"
#include "ops_cuda/hopper/schedule.h"
#include "ops_cuda/pack.h"

namespace cks::cuda {
namespace {

// The matrix product sums 64 or 128 bytes of a tap at a time and wants whole chunks of 16: it suits neither very few
// channels nor, up to a point, odd ones, which it copies first.
bool few_inputs_pays(const Filter& f, DataType type) {
  const int64_t bytes = f.C / f.groups * int64_t(size_of(type));
  if (f.groups > 1) return bytes <= 64;
  return bytes <= 48 || (bytes % 16 != 0 && bytes <= 128);
}

// Channels that fill whole steps of the tensor cores, in and out not more than a patch and a filter in shared memory
// suit. Channels first they save the matrix product's copy of X, as long as few taps read the patch (measured: up to 11
// win, 27 lose). Channels last they win where half of what the matrix product multiplies at a time is empty, and
// all taps but one are read from shared memory; with wgmma, as the plan must tell.
bool whole_steps_may_pay(const ConvolutionSpec& spec) {
  const Filter& f = spec.problem.filter;
  const int64_t bytes = f.C * int64_t(size_of(spec.type));
  if (f.op != Operator::kConv || f.groups > 1 || bytes % 32 != 0 || f.K > 64) return false;
  if (spec.layouts == Layout::kNCHW) return bytes <= 256 && f.taps() <= 11;
  return spec.layouts == Layout::kNHWC && bytes <= 64 && f.taps() > 1 && size_of(spec.type) == 2;
}

constexpr int64_t kFewOutputs = 8;

// Few channels on both sides, which fill a tile of 16 outputs at least by half: tiles of the matrix product are wider.
bool few_of_both(const FilterUse& use) {
  const Filter& f = use.filter;
  const int64_t bytes = f.C * int64_t(size_of(use.type));
  return f.op == Operator::kConv && f.groups == 1 && use.layouts == Layout::kNHWC && f.K > kFewOutputs && f.K <= 16 &&
         bytes % 16 == 0 && bytes <= 256 && f.taps() * f.C <= 1024;
}

// Transposed, to few outputs: where their products would have to be made in turns, cells of outputs are multiplied as
// one convolution's.
bool cells_may_pay(const Filter& f) {
  return f.op == Operator::kConvTranspose && f.K <= kFewOutputs && f.taps() * f.K > kFewOutputsColumns;
}

// Few or odd channels, whose tile of the matrix product would be mostly empty or stored by single elements. Not where
// the products of many inputs bound it, which the matrix product is better at (channels last: else it copies X first);
// nor where patches overlap much, because of a dilation, and are read too often. False where there is no plan.
bool few_outputs_pays(const ConvolutionSpec& spec, const Device& device) {
  const Problem& p = spec.problem;
  const int64_t size = int64_t(size_of(spec.type));
  if (p.filter.K > kFewOutputs && p.filter.K * size % 16 == 0) return false;
  if (p.filter.K > kFewOutputs && spec.layouts.x == Layout::kNHWC && p.filter.C * size > 256) return false;
  const auto plan = plan_few_outputs(p, spec.type, device.multiprocessors, half_of_shared(device));
  if (!plan) return false;
  const int64_t tiles =
      ceil_div(p.output[0], plan->box.d) * ceil_div(p.output[1], plan->box.h) * ceil_div(p.output[2], plan->box.w);
  return tiles * plan->patch_pixels() <= 4 * volume(p.input);
}

}  // namespace

bool depthwise_can(const ConvolutionSpec& spec) {
  const Filter& f = spec.problem.filter;
  if (f.op != Operator::kConv || f.groups != f.C || f.groups != f.K) return false;
  // How many multiprocessors there are decides how small the parts are, not whether they fit.
  if (by_planes(f, spec.layouts)) return plan_planes(spec.problem, spec.type, 1).has_value();
  return spec.layouts == Layout::kNHWC && depthwise_chunks_can(spec.problem, spec.type);
}

bool few_outputs_can(const ConvolutionSpec& spec, const Device& device) {
  return has_tensor_cores(spec.type, device) && !is_direct(spec.problem.filter) &&
         plan_few_outputs(spec.problem, spec.type, device.multiprocessors, half_of_shared(device));
}

FilterForm choose_form(const FilterUse& use, const Device& device) {
  const Filter& f = use.filter;
  const bool may_have_few_channels = few_inputs_pays(f, use.type) || few_of_both(use) || f.K <= kFewOutputs;
  if (is_direct(f) || (use.type == DataType::kFloat && may_have_few_channels)) return FilterForm::kPortable;
  return hopper_takes(use, device) ? FilterForm::kHopper : FilterForm::kPortable;
}

Choice choose_family(const ConvolutionSpec& spec, const Device& device) {
  const Filter& f = spec.problem.filter;
  if (is_direct(f)) return {depthwise_can(spec) ? Family::kDepthwise : Family::kDirect};
  const bool few = few_inputs_pays(f, spec.type) || few_of_both(spec.use()) || cells_may_pay(f);
  if (few || whole_steps_may_pay(spec)) {
    auto plan = plan_few_inputs(spec.problem, spec.type, spec.layouts, device);
    if (plan && (few || spec.layouts == Layout::kNCHW || plan->shape.loop == FewInputsLoop::kWgmma))
      return {Family::kFewInputs, std::move(plan)};
  }
  if (has_tensor_cores(spec.type, device) && few_outputs_pays(spec, device)) return {Family::kFewOutputs};
  return {Family::kMatrixProduct};
}

bool reads_x2(const Choice& choice, const ConvolutionSpec& spec, const Device& device) {
  const Problem& p = spec.problem;
  const int64_t chunk = 16 / int64_t(size_of(spec.type)), x_channels = p.filter.C - p.x2_channels;
  if (spec.layouts.x != Layout::kNHWC || p.filter.groups > 1 || x_channels % chunk || p.x2_channels % chunk)
    return false;
  switch (choice.family) {
    case Family::kFewInputs:
      return choice.few_inputs->shape.loop != FewInputsLoop::kWords &&
             choice.few_inputs->source == PatchSource::kChunks;
    case Family::kMatrixProduct:
#ifdef ORT_CKS_HOPPER
      return choose_form(spec.use(), device) == FilterForm::kHopper &&
             x_channels * int64_t(size_of(spec.type)) % hopper::kBlockBytes == 0;
#endif
    default:
      return false;
  }
}

}  // namespace cks::cuda
