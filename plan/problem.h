// What a convolution is, before anything is said of how to compute it: the one struct that the plan, the CPU kernels,
// the CUDA kernels and the ONNX Runtime glue share.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace cks {

// A sentence for the user; the glue puts the node's name before it.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Spatial extents in the order D, H, W. Ranks 1 and 2 use the last entries; the leading ones are neutral (extent 1,
// stride 1, dilation 1, pad 0), so every kernel is written once, for three axes.
using Dims = std::array<int64_t, 3>;
inline int64_t volume(const Dims& d) { return d[0] * d[1] * d[2]; }

// b > 0.
constexpr int64_t ceil_div(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
constexpr int64_t round_up(int64_t a, int64_t multiple) { return ceil_div(a, multiple) * multiple; }

enum class Operator { kConv, kConvTranspose };
enum class DataType { kFloat, kHalf, kBFloat16 };
enum class Layout { kNCHW, kNHWC };     // of a tensor of pixels; weights always come in their ONNX layout
enum class Precision { kTF32, kFP32 };  // of float convolutions on a GPU; other data types and the CPU ignore it
inline size_t size_of(DataType t) { return t == DataType::kFloat ? 4 : 2; }

// Of what a convolution reads (X and X2) and of what it writes (Y, and Z, which is added to it).
struct Layouts {
  Layout x, y;
  Layouts(Layout both) : x(both), y(both) {}
  Layouts(Layout of_x, Layout of_y) : x(of_x), y(of_y) {}
  bool operator==(const Layouts&) const = default;
};

// y = activation(convolution + bias + residual); the residual may be a LeakyRelu's output, which is undone before it is
// added: x = y < 0 ? y / alpha : y. Parameters as in the ONNX operator of the same name:
//   kLeakyRelu alpha (PRelu with one slope too) | kPRelu slopes, one for each output channel | kClip min, max |
//   kHardSigmoid alpha, beta | kElu alpha; the others have none.
// kGelu is the exact (erf) form, kGeluTanh the tanh approximation, kSilu x * sigmoid(x).
enum class ActivationKind {
  kNone,
  kRelu,
  kLeakyRelu,
  kClip,
  kSigmoid,
  kTanh,
  kHardSigmoid,
  kHardSwish,
  kSilu,
  kGelu,
  kGeluTanh,
  kElu,
  kPRelu
};
struct Activation {
  ActivationKind kind = ActivationKind::kNone;
  float alpha = 0, beta = 0;
  std::vector<float> slopes{};
};

// The part that weights depend on: known when a session starts, before any input has a shape.
struct Filter {
  Operator op = Operator::kConv;
  int64_t C = 0, K = 0, groups = 1;  // input and output channels, of all groups together
  Dims extent{1, 1, 1};              // T, R, S
  int64_t taps() const { return volume(extent); }
  int64_t elements() const { return taps() * C * (K / groups); }
  // ONNX layout: Conv W[K][C / groups][T][R][S], ConvTranspose W[C][K / groups][T][R][S]. Element (k, c, tap) with k
  // and c counted over all groups (both in the same group) and tap = (t * R + r) * S + s.
  int64_t onnx_offset(int64_t k, int64_t c, int64_t tap) const {
    const int64_t Cg = C / groups, Kg = K / groups;
    return op == Operator::kConv ? (k * Cg + c % Cg) * taps() + tap : (c * Kg + k % Kg) * taps() + tap;
  }
};

// What a session knows of a convolution before its inputs have shapes: how a kernel keeps the weights depends on no
// more.
struct FilterUse {
  Filter filter;
  Dims stride{1, 1, 1};
  DataType type = DataType::kFloat;
  Layouts layouts = Layout::kNCHW;
  Precision precision = Precision::kTF32;
};

// One call: Y[N, K, output] from X[N, C, input].
//   Conv:           y[o] += x[o * stride - pad + t * dilation] * w[t]
//   ConvTranspose:  y[i * stride - pad + t * dilation] += x[i] * w[t]
struct Problem {
  Filter filter;
  int64_t N = 1;
  Dims input{1, 1, 1}, output{1, 1, 1}, stride{1, 1, 1}, dilation{1, 1, 1},
      pad{0, 0, 0};         // pad: the one before the first element
  int64_t x2_channels = 0;  // the last of C are those of a tensor of their own, X2[N, x2_channels, input]
};

// What a call reads: X and, where the problem has one, X2.
struct InputTensors {
  InputTensors(const void* first, const void* second = nullptr) : x(first), x2(second) {}
  const void *x, *x2;
};

// A node's attributes as ONNX has them (empty: absent); spatial axes in the node's own rank.
struct Attributes {
  Operator op = Operator::kConv;
  std::string auto_pad = "NOTSET";
  std::vector<int64_t> kernel_shape, strides, dilations, pads, output_padding, output_shape;
  int64_t group = 1;
  bool ceil_mode = false;  // of a pool
};

// The filter that a weight tensor of this shape (ONNX layout) is. Throws Error where rank, group or kernel_shape do not
// fit.
Filter make_filter(const Attributes&, std::span<const int64_t> w_shape);
Dims make_stride(const Attributes&, size_t rank);  // rank: of X

// A pool's window over an input of this shape (N, spatial, C), as the filter of a convolution that keeps channels
// apart. Throws Error where kernel_shape is absent or does not fit.
Filter make_window(const Attributes&, std::span<const int64_t> x_shape);

// The problem for an input of this shape, in this layout. Follows ONNX Runtime's CPU provider for auto_pad,
// output_padding and output_shape. Throws Error, in words, for what ONNX forbids (channels that do not fit, an output
// extent that is not positive, output_padding >= max(stride, dilation), ...).
Problem make_problem(const Attributes&, const Filter&, std::span<const int64_t> x_shape, Layout);

// Whether each output pixel reads the input pixel at its own place, and no other: one tap, no stride and no padding.
bool is_pointwise(const Problem&);

// The same sums of a pointwise problem over one axis: pixels have no neighbours, and lie in memory as one row, of each
// image or, with both tensors in NHWC, of all of them. A row divides into tiles better than a map does. Any other
// problem, and one whose row 32 bits do not count, is returned as it is.
Problem joined_pixels(const Problem&, Layouts);

// Y's shape in its layout, with the rank of X.
std::vector<int64_t> output_shape(const Problem&, size_t rank, Layout);

// As output_shape, for shape inference: an unknown extent is -1, in and out. Empty where nothing can be said.
std::vector<int64_t> infer_output_shape(const Attributes&, std::span<const int64_t> x_shape,
                                        std::span<const int64_t> w_shape, Layouts);

}  // namespace cks
