#include "ops_cpu/kernels.h"

#include <atomic>
#include <limits>
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

// A step of a panel takes as long as its multiplications, or as the broadcasts of x where the panel is narrow.
int panel_width(const Kernels& kernels, int64_t channels) {
  int best = 0;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const int width : kernels.widths) {
    const int64_t panels = (channels + width - 1) / width, cost = panels * (std::max(width, 8) + 1);
    if (cost <= least) least = cost, best = width;
  }
  return best;
}

}  // namespace cks::cpu
