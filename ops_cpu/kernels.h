// The inner loops of the CPU convolutions. isa_kernels.cc is compiled once per instruction set; each build fills one
// table of functions, and the best one that this machine can run is chosen when the first operator is made.
#pragma once
#include <cstdint>
#include <span>

#include "plan/problem.h"

namespace cks::cpu {

inline constexpr int kLineFloats = 16;  // of a cache line: parts of a workspace start at one
inline constexpr int kMaxRows = 12;     // the most output pixels a kernel holds in registers
inline constexpr int kMaxWidth = 32;    // and the most channels
inline constexpr int kNarrow = 4;       // the most output channels that are summed over input channels side by side

// sums[rows][width] = sum over taps t and channels c of x[t][row][c] * w[t][c][0 .. width).
struct TapProduct {
  const float* const* x;  // [taps][kMaxRows]: the input pixel that each row reads, or a row of zeros
  int64_t x_offset;       // added to each of them: the first channel of the group
  const float* w;         // one panel of a packed filter
  const int32_t* filter;  // [taps]: which tap of the panel
  int64_t slab;           // floats in one tap of the panel
  int64_t taps, channels;
  int rows, width;
  // Read by tap_product alone:
  const int32_t* span;  // [taps]: of how many taps in a row x and w are contiguous
  bool accumulate;      // sums are added to
  bool fetch_ahead;     // w is not in the cache
};

// sums[rows][width] += sum over runs and i < length of row[i][0 .. rows) (outer product) column[i][0 .. width).
struct GradientRun {
  const float *row, *column;
};
struct GradientProduct {
  const GradientRun* runs;
  int64_t num_runs, length;
  int64_t row_step, column_step;      // floats from i to i + 1
  int64_t row_offset, column_offset;  // added to every run's pointers
  int rows, width;
};

// What becomes of sums: y = activation(acc + bias + residual), rounded to `type`.
struct Epilogue {
  DataType type;
  const Activation& activation;
  const float* bias;     // [K]
  const void* residual;  // null, or as y
  float residual_slope;  // of its negative values, before it is added
  void* y;
  int64_t channel_step;  // elements between two channels of one pixel
};

struct PanelWidths {
  int count;
  int width[5];
  const int* begin() const { return width; }
  const int* end() const { return width + count; }
};

struct Kernels {
  const char* name;
  int rows;            // pixels in a full tile
  PanelWidths widths;  // widest first; the last is 1

  void (*tap_product)(const TapProduct&, float* sums);
  // As tap_product for few output channels, width <= kNarrow, and the filter with its input channels last: w[t][k][c].
  void (*narrow_product)(const TapProduct&, float* sums);
  // As tap_product for groups of one channel in, one out: w[t][k] multiplies x[t][row][k] for k in [0, width).
  void (*depthwise_product)(const TapProduct&, float* sums);
  void (*gradient_product)(const GradientProduct&, float* sums);
  // As gradient_product for groups of one channel in, one out: the product is element by element, rows is 1.
  void (*depthwise_gradient)(const GradientProduct&, float* sums);

  // sums[rows][width] holds channels [k, k + count) in its columns [skip, skip + count); pixel[row] is the offset of
  // the row's channel 0 in y. Overwrites sums.
  void (*store)(const Epilogue&, float* sums, int rows, int width, int skip, int count, const int64_t* pixel,
                int64_t k);

  void (*to_float)(const void* from, DataType, int64_t count, float* to);
  void (*from_float)(const float* from, DataType, int64_t count, void* to);
  // to[p * pitch + c] = from[p * channels + c] for pixels p in [begin, end), all channels c.
  void (*widen_rows)(const void* from, DataType, int64_t channels, int64_t begin, int64_t end, float* to,
                     int64_t pitch);
  // to[p * pitch + c] = from[c * pixels + p], the same.
  void (*planes_to_rows)(const void* from, DataType, int64_t channels, int64_t pixels, int64_t begin, int64_t end,
                         float* to, int64_t pitch);
};

std::span<const Kernels* const> runnable_kernels();  // on this machine, best first
const Kernels& kernels();                            // the table that operators made from now on use: the best one
void use_kernels(const Kernels&);  // another one, for tests of those that this machine would not choose

// Which product a filter is for, and so how it is packed:
//   kWide       [group][panel][tap][C / groups][width], zeros where K / groups is not a multiple of the width
//   kNarrow     [group][tap][K / groups][C / groups]: groups of few channels out and many in; one panel a group
//   kDepthwise  [tap][K]: groups of one channel in, one out; panels overlap where K is not a multiple of the width
struct Packing {
  enum Kind { kWide, kNarrow, kDepthwise } kind;
  int width;
  int64_t group_panels, panels;  // of one group (a depthwise filter is one), and in all
};
Packing choose_packing(const Kernels&, const Filter&);

}  // namespace cks::cpu
