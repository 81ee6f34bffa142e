// A transposed convolution as an ordinary one. Outputs go in cells of one stride along each axis, and all cells meet
// the inputs around them through the same taps. So a cell counts as one pixel, each of its outputs as a channel of its
// own, and the inputs that any of them meets as the taps of a filter, which has zeros where an output does not meet
// them. (So an Inf or NaN of X reaches all of a cell.)
#pragma once
#include <algorithm>
#include <optional>

#include "ops_cuda/device_plan.h"

namespace cks::cuda {

struct OutputCells {
  Problem problem;  // of the cells
  Int3 extent;      // outputs of a cell
  Int3 first_tap;   // output a of a cell meets input j of n, on an axis, by tap first_tap + a + (n - 1 - j) * extent,
                    // if there is one
};

// None of an ordinary convolution, of groups, and of taps that lie apart.
inline std::optional<OutputCells> output_cells(const Problem& p) {
  const Filter& f = p.filter;
  if (f.op != Operator::kConvTranspose || f.groups > 1) return {};
  OutputCells cells{p, to_int3(p.stride), {}};
  Problem& of_cells = cells.problem;
  of_cells.filter.op = Operator::kConv, of_cells.filter.K = volume(p.stride) * f.K;
  of_cells.stride = of_cells.dilation = {1, 1, 1};
  int32_t* const first_tap[] = {&cells.first_tap.d, &cells.first_tap.h, &cells.first_tap.w};
  for (size_t axis = 0; axis < 3; ++axis) {
    const int64_t s = p.stride[axis], pad = p.pad[axis], span = f.extent[axis] - 1;
    if (span > 0 && p.dilation[axis] > 1) return {};
    const int64_t last = -ceil_div(1 - s - pad, s), first = std::min(ceil_div(pad - span, s), last);
    of_cells.filter.extent[axis] = last - first + 1, of_cells.pad[axis] = -first;
    of_cells.output[axis] = ceil_div(p.output[axis], s);
    *first_tap[axis] = int32_t(pad - last * s);
  }
  return cells;
}

}  // namespace cks::cuda
