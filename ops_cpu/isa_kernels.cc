// One instruction set's kernels. Compiled once for each, with CKS_ISA its name and the compiler flags that go with it
// (sources.cmake). Everything but the table has internal linkage.
#include <utility>

#include "ops_cpu/elements.h"
#include "ops_cpu/epilogue.h"
#include "ops_cpu/products.h"

#define CKS_STRING_OF(x) #x
#define CKS_STRING(x) CKS_STRING_OF(x)

namespace {

#if defined(__AVX512F__)
using Widths = std::integer_sequence<int, 32, 16, 8, 4, 1>;
#elif defined(__AVX__)
using Widths = std::integer_sequence<int, 16, 8, 4, 1>;
#else
using Widths = std::integer_sequence<int, 8, 4, 1>;
#endif

template <int... widths>
constexpr cks::cpu::PanelWidths panel_widths(std::integer_sequence<int, widths...>) {
  return {sizeof...(widths), {widths...}};
}

// The instance of a kernel for p.rows and p.width.
template <class Kernel, class Product, int width, int... rows>
inline bool run_width(const Product& p, float* sums, std::integer_sequence<int, rows...>) {
  return ((p.rows == rows + 1 && (Kernel::template run<rows + 1, width>(p, sums), true)) || ...);
}
template <class Kernel, class Product, int... widths>
inline void run_shape(const Product& p, float* sums, std::integer_sequence<int, widths...>) {
  constexpr auto all_rows = std::make_integer_sequence<int, Kernel::max_rows>();
  (void)((p.width == widths && run_width<Kernel, Product, widths>(p, sums, all_rows)) || ...);
}
template <class Kernel, class Product>
void run(const Product& p, float* sums) {
  run_shape<Kernel>(p, sums, Widths());
}

struct Tap {
  static constexpr int max_rows = kRows;
  template <int rows, int width>
  static void run(const TapProduct& p, float* sums) {
    p.fetch_ahead ? tap_product<rows, width, true>(p, sums) : tap_product<rows, width, false>(p, sums);
  }
};
struct Depthwise {
  static constexpr int max_rows = kRows;
  template <int rows, int width>
  static void run(const TapProduct& p, float* sums) {
    depthwise_product<rows, width>(p, sums);
  }
};
struct Gradient {
  static constexpr int max_rows = kRows;
  template <int rows, int width>
  static void run(const GradientProduct& p, float* sums) {
    gradient_product<rows, width>(p, sums);
  }
};
struct DepthwiseGradient {
  static constexpr int max_rows = 1;
  template <int rows, int width>
  static void run(const GradientProduct& p, float* sums) {
    depthwise_gradient<width>(p, sums);
  }
};

void run_narrow(const TapProduct& p, float* sums) {
  static_assert(cks::cpu::kNarrow == 4);
  switch (p.width) {
    case 1:
      return narrow_product<1>(p, sums);
    case 2:
      return narrow_product<2>(p, sums);
    case 3:
      return narrow_product<3>(p, sums);
    case 4:
      return narrow_product<4>(p, sums);
  }
}

}  // namespace

namespace cks::cpu::CKS_ISA {

extern const Kernels table;
const Kernels table = {
    .name = CKS_STRING(CKS_ISA),
    .rows = kRows,
    .widths = panel_widths(Widths()),
    .tap_product = run<Tap, TapProduct>,
    .narrow_product = run_narrow,
    .depthwise_product = run<Depthwise, TapProduct>,
    .gradient_product = run<Gradient, GradientProduct>,
    .depthwise_gradient = run<DepthwiseGradient, GradientProduct>,
    .store = store_sums,
    .to_float = to_float,
    .from_float = from_float,
    .widen_rows = widen_rows,
    .planes_to_rows = planes_to_rows,
};

}  // namespace cks::cpu::CKS_ISA
