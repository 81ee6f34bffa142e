// Filters in the orders that kernels.h names. A tap that no tile needs is never read again.
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
  const Kernels& isa = kernels();
  const int64_t taps = f.taps(), Cg = f.C / f.groups, Kg = f.K / f.groups;

  Floats widened;
  const float* w = static_cast<const float*>(w_onnx);
  if (type != DataType::kFloat) {
    widened = allocate(f.elements());
    isa.to_float(w_onnx, type, f.elements(), widened.get());
    w = widened.get();
  }

  const auto [kind, width, panels, all_panels] = choose_packing(isa, f);
  const int64_t panel_floats = kind == Packing::kDepthwise ? 0 : taps * Cg * width;
  impl_->packed = allocate(kind == Packing::kDepthwise ? f.elements() : all_panels * panel_floats);
  float* to = impl_->packed.get();
  switch (kind) {
    case Packing::kDepthwise:
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t c = 0; c < f.K; ++c) *to++ = w[f.onnx_offset(c, c, tap)];
      break;
    case Packing::kNarrow:
      for (int64_t g = 0; g < f.groups; ++g)
        for (int64_t tap = 0; tap < taps; ++tap)
          for (int64_t k = 0; k < Kg; ++k)
            for (int64_t c = 0; c < Cg; ++c) *to++ = w[f.onnx_offset(g * Kg + k, g * Cg + c, tap)];
      break;
    case Packing::kWide:
      parallel_for(all_panels, [&](int64_t i) {
        const int64_t g = i / panels, k0 = i % panels * width;
        for (int64_t c = 0; c < Cg; ++c)
          for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t j = 0; j < width; ++j)
              to[i * panel_floats + (tap * Cg + c) * width + j] =
                  k0 + j < Kg ? w[f.onnx_offset(g * Kg + k0 + j, g * Cg + c, tap)] : 0.0f;
      });
  }
}

PackedFilter::~PackedFilter() = default;
PackedFilter::PackedFilter(PackedFilter&&) noexcept = default;
const Filter& PackedFilter::filter() const { return impl_->filter; }
const float* PackedFilter::data() const { return impl_->packed.get(); }

}  // namespace cks::cpu
