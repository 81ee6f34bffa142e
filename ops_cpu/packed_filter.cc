// Filters in panels: [group][panel][tap][C / groups][width], zeros where K / groups is not a multiple of the width. A
// tap that no tile needs is never read. Depthwise filters are [tap][K].
#include <algorithm>
#include <new>

#include "ops_cpu/convolution.h"
#include "ops_cpu/kernels.h"

namespace cks::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};
struct Free {
  void operator()(float* p) const { ::operator delete[](p, kAlignment); }
};
using Floats = std::unique_ptr<float[], Free>;
Floats allocate(int64_t count) { return Floats(new (kAlignment) float[std::max<int64_t>(count, 1)]); }

}  // namespace

struct PackedFilter::Impl {
  Filter filter;
  Floats packed;
};

PackedFilter::PackedFilter(const Filter& f, DataType type, const void* w_onnx, const ParallelFor& parallel_for)
    : impl_(new Impl{f, nullptr}) {
  const Kernels& k = kernels();
  const int64_t taps = f.taps(), Cg = f.C / f.groups, Kg = f.K / f.groups;

  Floats widened;
  const float* w = static_cast<const float*>(w_onnx);
  if (type != DataType::kFloat) {
    widened = allocate(f.elements());
    k.to_float(w_onnx, type, f.elements(), widened.get());
    w = widened.get();
  }

  if (is_depthwise(f)) {
    impl_->packed = allocate(f.elements());
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t c = 0; c < f.K; ++c) impl_->packed[tap * f.K + c] = w[f.onnx_offset(c, c, tap)];
    return;
  }

  const int width = panel_width(k, Kg);
  const int64_t panels = (Kg + width - 1) / width, panel_floats = taps * Cg * width;
  impl_->packed = allocate(f.groups * panels * panel_floats);
  parallel_for(f.groups * panels, [&](int64_t i) {
    const int64_t g = i / panels, k0 = i % panels * width;
    float* panel = impl_->packed.get() + i * panel_floats;
    for (int64_t c = 0; c < Cg; ++c)
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t j = 0; j < width; ++j)
          panel[(tap * Cg + c) * width + j] = k0 + j < Kg ? w[f.onnx_offset(g * Kg + k0 + j, g * Cg + c, tap)] : 0.0f;
  });
}

PackedFilter::~PackedFilter() = default;
PackedFilter::PackedFilter(PackedFilter&&) noexcept = default;
const Filter& PackedFilter::filter() const { return impl_->filter; }
const float* PackedFilter::data() const { return impl_->packed.get(); }

}  // namespace cks::cpu
