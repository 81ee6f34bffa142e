#include "ops_cpu/kernels.h"

#include <algorithm>
#include <atomic>
#include <vector>

namespace cks::cpu {

namespace baseline {
extern const Kernels table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

std::vector<const Kernels*> find_runnable() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx2 && has_avx512) found.push_back(&avx512::table);
  if (has_avx2) found.push_back(&avx2::table);
#endif
  found.push_back(&baseline::table);
  return found;
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> kernels{runnable_kernels().front()};
  return kernels;
}

}  // namespace

std::span<const Kernels* const> runnable_kernels() {
  static const std::vector<const Kernels*> kernels = find_runnable();
  return kernels;
}

const Kernels& kernels() { return *current(); }
void use_kernels(const Kernels& kernels) { current() = &kernels; }

namespace {

// The width that wastes least on `channels`. A step of a panel takes as long as its multiplications, or as the
// broadcasts of x where the panel is narrow.
int panel_width(const Kernels& kernels, int64_t channels) {
  const auto cost = [&](int width) { return ceil_div(channels, width) * (std::max(width, 8) + 1); };
  int best = *kernels.widths.begin();
  for (const int width : kernels.widths)
    if (cost(width) <= cost(best)) best = width;
  return best;
}

}  // namespace

Packing choose_packing(const Kernels& kernels, const Filter& f) {
  constexpr int64_t kManyChannels = 16;
  const int64_t C = f.C / f.groups, K = f.K / f.groups;
  if (f.groups > 1 && C == 1 && K == 1) {
    const int width = *std::ranges::find_if(kernels.widths, [&](int w) { return w <= f.K; });
    const int64_t panels = ceil_div(f.K, width);
    return {Packing::kDepthwise, width, panels, panels};
  }
  if (K <= kNarrow && C >= kManyChannels) return {Packing::kNarrow, int(K), 1, f.groups};
  const int width = panel_width(kernels, K);
  const int64_t panels = ceil_div(K, width);
  return {Packing::kWide, width, panels, panels * f.groups};
}

}  // namespace cks::cpu
