#include "plan/problem.h"

#include <algorithm>
#include <limits>

namespace cks {
namespace {

// Extents, and what attributes ask for, fit 32 bits: kernels count in them, and products of two of them fit 64.
constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

std::string text(std::span<const int64_t> shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + (shape[i] < 0 ? "?" : std::to_string(shape[i]));
  return s + "]";
}

// Puts the entries of a node's own rank at the end of a Dims; the leading ones keep `neutral`.
Dims widen(std::span<const int64_t> v, size_t rank, int64_t neutral, const char* attribute, int64_t least) {
  Dims d{neutral, neutral, neutral};
  if (v.empty()) return d;
  if (v.size() != rank) {
    throw Error(std::string(attribute) + " has " + std::to_string(v.size()) + " entries, but the input has " +
                std::to_string(rank) + " spatial axes");
  }
  for (size_t i = 0; i < rank; ++i) {
    if (v[i] < least) {
      throw Error(std::string(attribute) + " " + text(v) + " must not be under " + std::to_string(least));
    }
    if (v[i] > kMost) throw Error(std::string(attribute) + " " + text(v) + " must be under 2^31");
    d[3 - rank + i] = v[i];
  }
  return d;
}

struct Padding {
  int64_t begin, end;
};

bool is_same(const Attributes& a) { return a.auto_pad == "SAME_UPPER" || a.auto_pad == "SAME_LOWER"; }

// Where the total is odd, SAME_UPPER puts the larger half at the end; every other mode at the beginning (ONNX Runtime
// does so for an output_shape without auto_pad too).
Padding split(const Attributes& a, int64_t total) {
  return a.auto_pad == "SAME_UPPER" ? Padding{total / 2, total - total / 2} : Padding{total - total / 2, total / 2};
}

struct Axis {
  int64_t filter, stride, dilation, output_padding;
  Padding pad;             // from the attribute
  int64_t requested = -1;  // from output_shape
  int64_t reach() const { return (filter - 1) * dilation + 1; }
};

struct Resolved {
  int64_t output;
  Padding pad;
};

// One spatial axis, as ONNX Runtime's CPU provider computes it. Says nothing about whether the output is positive.
Resolved resolve(const Attributes& a, const Axis& x, int64_t input) {
  if (a.op == Operator::kConv) {
    Padding pad = x.pad;
    if (is_same(a)) {
      const int64_t output = (input + x.stride - 1) / x.stride;
      // With a filter smaller than its stride nothing is padded, and nothing is cut off.
      pad = split(a, std::max<int64_t>(0, (output - 1) * x.stride + x.reach() - input));
      return {output, pad};
    }
    const int64_t room = input + pad.begin + pad.end - x.reach();
    if (!a.ceil_mode) return {room < 0 ? 0 : room / x.stride + 1, pad};
    // A last window that begins behind the input would see nothing.
    const int64_t output = ceil_div(room, x.stride) + 1;
    return {(output - 1) * x.stride >= input + pad.begin ? output - 1 : output, pad};
  }
  const int64_t natural = (input - 1) * x.stride + x.output_padding + x.reach();
  if (x.requested >= 0) return {x.requested, split(a, std::max<int64_t>(0, natural - x.requested))};
  const Padding pad = is_same(a) ? split(a, std::max<int64_t>(0, natural - input * x.stride)) : x.pad;
  return {natural - pad.begin - pad.end, pad};
}

struct Axes {
  std::array<Axis, 3> axis;
  size_t rank;
};

Axes make_axes(const Attributes& a, const Dims& filter, size_t rank) {
  static constexpr const char* kModes[] = {"NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"};
  if (std::ranges::find(kModes, a.auto_pad) == std::end(kModes)) {
    throw Error("auto_pad '" + a.auto_pad + "' is none of NOTSET, VALID, SAME_UPPER, SAME_LOWER");
  }
  std::vector<int64_t> begin, end;
  if (!a.pads.empty() && a.auto_pad == "NOTSET") {
    if (a.pads.size() != 2 * rank) {
      throw Error("pads has " + std::to_string(a.pads.size()) + " entries, but " + std::to_string(rank) +
                  " spatial axes need " + std::to_string(2 * rank));
    }
    begin.assign(a.pads.begin(), a.pads.begin() + rank);
    end.assign(a.pads.begin() + rank, a.pads.end());
  }
  const Dims stride = make_stride(a, rank + 2), dilation = widen(a.dilations, rank, 1, "dilations", 1);
  const Dims pad_begin = widen(begin, rank, 0, "pads", 0), pad_end = widen(end, rank, 0, "pads", 0);
  const Dims extra = widen(a.output_padding, rank, 0, "output_padding", 0);
  const Dims requested = widen(a.output_shape, rank, a.output_shape.empty() ? -1 : 1, "output_shape", 0);
  Axes axes{.axis = {}, .rank = rank};
  for (int i = 0; i < 3; ++i) {
    axes.axis[i] = {filter[i], stride[i], dilation[i], extra[i], {pad_begin[i], pad_end[i]}, requested[i]};
    if (extra[i] > 0 && extra[i] >= std::max(stride[i], dilation[i])) {
      throw Error("output_padding " + text(a.output_padding) +
                  " must be less than the stride or the dilation of its axis");
    }
  }
  return axes;
}

size_t spatial_rank(std::span<const int64_t> shape, const char* name) {
  if (shape.size() < 3 || shape.size() > 5) {
    throw Error(std::string(name) + " has shape " + text(shape) +
                ": 1-D, 2-D and 3-D operators take tensors of rank 3 to 5");
  }
  return shape.size() - 2;
}

int64_t channels(std::span<const int64_t> x_shape, Layout layout) {
  return layout == Layout::kNCHW ? x_shape[1] : x_shape.back();
}

Dims spatial(std::span<const int64_t> x_shape, Layout layout) {
  return widen(x_shape.subspan(layout == Layout::kNCHW ? 2 : 1, x_shape.size() - 2), x_shape.size() - 2, 1, "X", 0);
}

}  // namespace

Filter make_filter(const Attributes& a, std::span<const int64_t> w_shape) {
  const size_t rank = spatial_rank(w_shape, "W");
  if (a.group < 1 || a.group > kMost) {
    throw Error("group is " + std::to_string(a.group) + ", but must be at least 1 and under 2^31");
  }
  if (std::max(w_shape[0], w_shape[1]) > kMost / a.group) {
    throw Error("W has shape " + text(w_shape) + ", which makes 2^31 channels or more in " + std::to_string(a.group) +
                " groups");
  }
  Filter f{.op = a.op, .groups = a.group, .extent = widen(w_shape.subspan(2), rank, 1, "W", 1)};
  const bool conv = a.op == Operator::kConv;
  f.K = conv ? w_shape[0] : w_shape[1] * a.group;
  f.C = conv ? w_shape[1] * a.group : w_shape[0];
  if (f.K < 1 || f.C < 1 || f.K % a.group || f.C % a.group) {
    throw Error("W has shape " + text(w_shape) + ", whose channels cannot be divided into " + std::to_string(a.group) +
                " groups");
  }
  if (!a.kernel_shape.empty() && !std::ranges::equal(a.kernel_shape, w_shape.subspan(2))) {
    throw Error("kernel_shape " + text(a.kernel_shape) + " does not fit W of shape " + text(w_shape));
  }
  return f;
}

Filter make_window(const Attributes& a, std::span<const int64_t> x_shape) {
  const size_t rank = spatial_rank(x_shape, "X");
  if (a.kernel_shape.empty()) throw Error("attribute kernel_shape is required");
  const int64_t C = x_shape.back();
  return {.C = C, .K = C, .groups = C, .extent = widen(a.kernel_shape, rank, 1, "kernel_shape", 1)};
}

Dims make_stride(const Attributes& a, size_t rank) { return widen(a.strides, rank - 2, 1, "strides", 1); }

Problem make_problem(const Attributes& a, const Filter& f, std::span<const int64_t> x_shape, Layout layout) {
  const Axes axes = make_axes(a, f.extent, spatial_rank(x_shape, "X"));
  if (channels(x_shape, layout) != f.C) {
    throw Error("X has shape " + text(x_shape) + " (" + (layout == Layout::kNCHW ? "NCHW" : "NHWC") +
                "), but W takes " + std::to_string(f.C) + " input channels");
  }
  Problem p{.filter = f, .N = x_shape[0], .input = spatial(x_shape, layout)};
  for (int i = 0; i < 3; ++i) {
    const Axis& x = axes.axis[i];
    const Resolved r = resolve(a, x, p.input[i]);
    const std::string where =
        " on axis " + std::to_string(i - 3 + int(axes.rank)) + " of X with shape " + text(x_shape);
    if (p.input[i] < 1 || r.output < 1) {
      throw Error("the filter's extent " + std::to_string(x.filter) + " (dilation " + std::to_string(x.dilation) +
                  ") leaves no output" + where);
    }
    if (x.requested >= 0 && a.op == Operator::kConvTranspose &&
        x.requested - ((p.input[i] - 1) * x.stride + x.output_padding + x.reach()) >= x.stride) {
      throw Error("output_shape " + text(a.output_shape) + " is too large for the stride and the filter" + where);
    }
    if (std::max({p.N, p.input[i] + r.pad.begin + r.pad.end + x.reach(), r.output + x.stride, f.C, f.K}) > kMost) {
      throw Error("with padding, stride or dilation an extent reaches 2^31" + where);
    }
    p.output[i] = r.output;
    p.stride[i] = x.stride;
    p.dilation[i] = x.dilation;
    p.pad[i] = r.pad.begin;
  }
  int64_t elements = std::max<int64_t>(p.N, 1) * f.K;
  for (const int64_t extent : p.output) {
    if (__builtin_mul_overflow(elements, extent, &elements)) throw Error("the output has more than 2^63 elements");
  }
  return p;
}

bool is_pointwise(const Problem& p) {
  constexpr Dims kOnes{1, 1, 1}, kZeros{0, 0, 0};
  return p.filter.taps() == 1 && p.stride == kOnes && p.pad == kZeros && p.input == p.output;
}

Problem joined_pixels(const Problem& p, Layouts layouts) {
  if (!is_pointwise(p)) return p;
  const bool all_images = layouts == Layout::kNHWC;
  const int64_t row = volume(p.output) * (all_images ? p.N : 1);
  if (row * std::max(p.filter.C, p.filter.K) > kMost) return p;
  Problem joined = p;
  joined.N = all_images ? 1 : p.N;
  joined.input = joined.output = {1, 1, row};
  return joined;
}

std::vector<int64_t> output_shape(const Problem& p, size_t rank, Layout layout) {
  std::vector<int64_t> y{p.N};
  if (layout == Layout::kNCHW) y.push_back(p.filter.K);
  y.insert(y.end(), p.output.begin() + (5 - rank), p.output.end());
  if (layout == Layout::kNHWC) y.push_back(p.filter.K);
  return y;
}

std::vector<int64_t> infer_output_shape(const Attributes& a, std::span<const int64_t> x_shape,
                                        std::span<const int64_t> w_shape, Layouts layouts) {
  try {
    const size_t rank = spatial_rank(x_shape, "X");
    if (w_shape.size() != x_shape.size() || a.group < 1 || a.group > kMost) return {};
    const bool x_nchw = layouts.x == Layout::kNCHW, y_nchw = layouts.y == Layout::kNCHW;
    const int64_t w_k = w_shape[a.op == Operator::kConv ? 0 : 1];
    std::vector<int64_t> y(x_shape.size(), -1);
    y[0] = x_shape[0];
    y[y_nchw ? 1 : rank + 1] = w_k < 0 ? -1 : a.op == Operator::kConv ? w_k : w_k * a.group;
    for (size_t i = 0; i < rank; ++i) {
      const int64_t input = x_shape[x_nchw ? 2 + i : 1 + i];
      const int64_t filter = a.kernel_shape.empty() ? w_shape[2 + i] : a.kernel_shape.at(i);
      const size_t slot = 3 - rank + i;
      Dims extent{1, 1, 1};
      extent[slot] = std::max<int64_t>(filter, 1);
      const Axis x = make_axes(a, extent, rank).axis[slot];
      int64_t& output = y[y_nchw ? 2 + i : 1 + i];
      if (x.requested >= 0) {
        output = x.requested;
      } else if (input > 0 && filter > 0) {
        output = std::max<int64_t>(resolve(a, x, input).output, -1);
      }
    }
    return y;
  } catch (const std::exception&) {
    return {};  // the kernel says what is wrong when it is created or run
  }
}

}  // namespace cks
