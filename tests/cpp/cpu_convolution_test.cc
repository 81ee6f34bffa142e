// The CPU kernels against the definition of a convolution in plan/problem.h, written out in double: random problems of
// every kind, every element of the result, every instruction set that this machine runs. Prints what fails; exit 1.
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "ops_cpu/convolution.h"
#include "ops_cpu/kernels.h"

namespace {

using namespace cks;
using Bytes = std::vector<std::byte>;

int failures = 0;
std::mt19937 rng(20231);

int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }
template <class T>
T one_of(std::initializer_list<T> list) {
  return list.begin()[pick(0, int64_t(list.size()) - 1)];
}

// Three threads that take indices as they come.
void parallel_for(int64_t count, const std::function<void(int64_t)>& body) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i; (i = next++) < count;) body(i);
  };
  std::thread a(work), b(work);
  work();
  a.join();
  b.join();
}

// --- Elements of the three data types, by the definition of the formats.

int mantissa_bits(DataType t) { return t == DataType::kFloat ? 23 : t == DataType::kHalf ? 10 : 7; }

double decode(DataType t, const std::byte* p) {
  if (t == DataType::kFloat) {
    float f;
    std::memcpy(&f, p, 4);
    return f;
  }
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  const int mantissa = mantissa_bits(t), exponent_mask = (1 << (15 - mantissa)) - 1, bias = exponent_mask / 2;
  const int exponent = bits >> mantissa & exponent_mask, fraction = bits & ((1 << mantissa) - 1);
  double v = exponent == exponent_mask ? (fraction ? NAN : INFINITY)
             : exponent == 0           ? std::ldexp(fraction, 1 - bias - mantissa)
                                       : std::ldexp((1 << mantissa) + fraction, exponent - bias - mantissa);
  return bits & 0x8000 ? -v : v;
}

// A multiple of 2^-6 below 2 in magnitude: exact in all three formats (7 significant bits at most).
void encode_exact(DataType t, int sixty_fourths, std::byte* p) {
  const float f = float(sixty_fourths) / 64;
  uint32_t bits = std::bit_cast<uint32_t>(f);
  if (t == DataType::kFloat) {
    std::memcpy(p, &bits, 4);
    return;
  }
  uint16_t half = uint16_t(bits >> 16);
  if (t == DataType::kHalf)
    half = uint16_t(bits >> 16 & 0x8000) |
           (f == 0 ? 0 : uint16_t(((bits >> 23 & 0xff) - 112) << 10 | (bits >> 13 & 0x3ff)));
  std::memcpy(p, &half, 2);
}

struct Tensor {
  DataType type;
  Bytes bytes;
  int64_t size() const { return int64_t(bytes.size() / size_of(type)); }
  double operator[](int64_t i) const { return decode(type, bytes.data() + i * int64_t(size_of(type))); }
};

Tensor random_tensor(DataType t, int64_t count) {
  Tensor r{t, Bytes(size_t(count) * size_of(t))};
  for (int64_t i = 0; i < count; ++i) encode_exact(t, int(pick(-127, 127)), r.bytes.data() + i * int64_t(size_of(t)));
  return r;
}
Tensor poisoned(DataType t, int64_t count) { return {t, Bytes(size_t(count) * size_of(t), std::byte{0xff})}; }  // NaN

// --- The definition.

int64_t index(Layout layout, int64_t n, int64_t c, int64_t C, int64_t pixel, int64_t pixels) {
  return layout == Layout::kNCHW ? (n * C + c) * pixels + pixel : (n * pixels + pixel) * C + c;
}

// Calls f(input pixel, output pixel, tap) for each triple that the definition joins.
template <class F>
void for_each_triple(const Problem& p, F f) {
  const auto unravel = [](int64_t i, const Dims& d) { return Dims{i / (d[1] * d[2]), i / d[2] % d[1], i % d[2]}; };
  const bool conv = p.filter.op == Operator::kConv;
  const Dims &from = conv ? p.output : p.input, &to = conv ? p.input : p.output;
  for (int64_t a = 0; a < volume(from); ++a)
    for (int64_t tap = 0; tap < p.filter.taps(); ++tap) {
      const Dims at = unravel(a, from), t = unravel(tap, p.filter.extent);
      int64_t b = 0;
      bool inside = true;
      for (int i = 0; i < 3; ++i) {
        const int64_t q = at[i] * p.stride[i] - p.pad[i] + t[i] * p.dilation[i];
        inside &= q >= 0 && q < to[i];
        b = b * to[i] + q;
      }
      if (inside) conv ? f(b, a, tap) : f(a, b, tap);
    }
}

double activate(const Activation& a, double x, int64_t k) {
  using enum ActivationKind;
  const auto clip = [](double v, double low, double high) { return std::min(std::max(v, low), high); };
  switch (a.kind) {
    case kNone:
      return x;
    case kRelu:
      return std::max(x, 0.0);
    case kLeakyRelu:
      return x < 0 ? a.alpha * x : x;
    case kClip:
      return clip(x, a.alpha, a.beta);
    case kSigmoid:
      return 1 / (1 + std::exp(-x));
    case kTanh:
      return std::tanh(x);
    case kHardSigmoid:
      return clip(a.alpha * x + a.beta, 0, 1);
    case kHardSwish:
      return x * clip(x / 6 + 0.5, 0, 1);
    case kSilu:
      return x / (1 + std::exp(-x));
    case kGelu:
      return x * std::erfc(-x / std::sqrt(2.0)) / 2;
    case kGeluTanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case kElu:
      return x < 0 ? a.alpha * std::expm1(x) : x;
    case kPRelu:
      return x < 0 ? a.slopes[k] * x : x;
  }
  return NAN;
}

// A sum, and the sum of its terms' magnitudes: what its rounding error is measured by.
struct Sum {
  double value = 0, magnitude = 0;
  void add(double term) { value += term, magnitude += std::abs(term); }
};

// --- One case.

struct Case {
  Problem problem;
  DataType type;
  Layouts layouts;
  Activation activation;
  bool bias, residual;
  float residual_alpha = 1;
};

void describe(const Case& c) {
  const auto print = [](const char* name, const Dims& d) {
    std::printf(" %s %ld,%ld,%ld", name, long(d[0]), long(d[1]), long(d[2]));
  };
  const Problem& p = c.problem;
  std::printf("[%s] %s type %d layouts %d %d N %ld C %ld K %ld groups %ld activation %d bias %d residual %d alpha %g",
              cpu::kernels().name, p.filter.op == Operator::kConv ? "Conv" : "ConvTranspose", int(c.type),
              int(c.layouts.x), int(c.layouts.y), long(p.N), long(p.filter.C), long(p.filter.K), long(p.filter.groups),
              int(c.activation.kind), c.bias, c.residual, double(c.residual_alpha));
  print("input", p.input), print("filter", p.filter.extent), print("output", p.output), print("stride", p.stride);
  print("dilation", p.dilation), print("pad", p.pad);
  std::printf(":");
}

bool close(DataType t, double got, double want, double magnitude) {
  const double rounding = std::abs(want) * std::ldexp(1.0, -mantissa_bits(t) - 1) * 1.001;
  const double tiny = t == DataType::kHalf ? std::ldexp(1.0, -25) : 0;  // half of the least denormal
  return std::abs(got - want) <= rounding + tiny + 1e-6 * magnitude + 1e-6;
}

void compare(const Case& c, const char* what, const Tensor& got, const std::vector<double>& want,
             const std::vector<Sum>& sums) {
  for (int64_t i = 0; i < got.size(); ++i)
    if (!close(got.type, got[i], want[i], sums[i].magnitude)) {
      describe(c);
      std::printf(" %s[%ld] is %.9g, not %.9g\n", what, long(i), got[i], want[i]);
      ++failures;
      return;
    }
}

void check_convolution(const Case& c) {
  const Problem& p = c.problem;
  const Filter& f = p.filter;
  const int64_t Cg = f.C / f.groups, Kg = f.K / f.groups, in = volume(p.input), out = volume(p.output);
  const Tensor x = random_tensor(c.type, p.N * f.C * in), w = random_tensor(c.type, f.elements());
  const Tensor bias = random_tensor(c.type, f.K), residual = random_tensor(c.type, p.N * f.K * out);

  std::vector<Sum> sums(size_t(p.N * f.K * out));
  for_each_triple(p, [&](int64_t i, int64_t o, int64_t tap) {
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t k = 0; k < f.K; ++k)
        for (int64_t channel = k / Kg * Cg; channel < (k / Kg + 1) * Cg; ++channel)
          sums[index(c.layouts.y, n, k, f.K, o, out)].add(x[index(c.layouts.x, n, channel, f.C, i, in)] *
                                                          w[f.onnx_offset(k, channel, tap)]);
  });
  std::vector<double> want(sums.size());
  for (int64_t i = 0; i < int64_t(sums.size()); ++i) {
    const int64_t k = c.layouts.y == Layout::kNCHW ? i / out % f.K : i % f.K;
    if (c.bias) sums[i].add(bias[k]);
    if (c.residual) sums[i].add(residual[i] < 0 ? residual[i] / c.residual_alpha : residual[i]);
    want[i] = activate(c.activation, sums[i].value, k);
  }

  const cpu::PackedFilter packed(f, c.type, w.bytes.data(), parallel_for);
  const cpu::Convolution convolution(p, c.type, c.layouts, c.activation, c.residual_alpha);
  Tensor y = poisoned(c.type, p.N * f.K * out);
  Bytes workspace(convolution.workspace_bytes() + 64, std::byte{0xff});
  void* aligned = workspace.data() + (64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64);
  convolution.run(x.bytes.data(), packed, c.bias ? bias.bytes.data() : nullptr,
                  c.residual ? residual.bytes.data() : nullptr, y.bytes.data(), aligned, parallel_for);
  compare(c, "y", y, want, sums);
}

void check_weight_gradient(const Case& c) {
  const Problem& p = c.problem;
  const Layout layout = c.layouts.x;
  const Filter& f = p.filter;
  const int64_t Cg = f.C / f.groups, Kg = f.K / f.groups, in = volume(p.input), out = volume(p.output);
  const Tensor x = random_tensor(c.type, p.N * f.C * in), dy = random_tensor(c.type, p.N * f.K * out);
  std::vector<Sum> sums(size_t(f.elements()));
  for_each_triple(p, [&](int64_t i, int64_t o, int64_t tap) {
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t k = 0; k < f.K; ++k)
        for (int64_t channel = k / Kg * Cg; channel < (k / Kg + 1) * Cg; ++channel)
          sums[f.onnx_offset(k, channel, tap)].add(x[index(layout, n, channel, f.C, i, in)] *
                                                   dy[index(layout, n, k, f.K, o, out)]);
  });
  std::vector<double> want;
  for (const Sum& s : sums) want.push_back(s.value);

  const cpu::WeightGradient gradient(p, c.type, layout);
  Tensor dw = poisoned(c.type, f.elements()), again = dw;
  Bytes workspace(gradient.workspace_bytes() + 64, std::byte{0xff});
  void* aligned = workspace.data() + (64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64);
  gradient.run(x.bytes.data(), dy.bytes.data(), dw.bytes.data(), aligned, parallel_for);
  compare(c, "dw", dw, want, sums);
  gradient.run(x.bytes.data(), dy.bytes.data(), again.bytes.data(), aligned, parallel_for);
  if (dw.bytes != again.bytes) {
    describe(c);
    std::printf(" two runs gave two gradients\n");
    ++failures;
  }
}

// --- Random cases.

struct Channels {
  int64_t groups, C, K;  // C and K of one group
};

Channels random_channels(int64_t kind) {
  switch (kind % 6) {
    case 0:
      return {1, pick(1, 20), pick(1, 70)};
    case 1:
      return {pick(2, 5), pick(1, 6), pick(1, 12)};
    case 2:
      return {pick(2, 70), 1, 1};
    case 3:
      return {pick(1, 2), pick(16, 50), pick(1, 4)};  // few out of many
    case 4:
      return {1, pick(0, 7) ? pick(64, 130) : 1024, pick(20, 40)};
    default:
      return {pick(2, 9), 1, pick(2, 3)};
  }
}

Case random_case(int64_t i) {
  const size_t rank = size_t(one_of({1, 2, 2, 2, 3}));
  const Channels channels = random_channels(i);
  Attributes a;
  a.op = pick(0, 1) ? Operator::kConv : Operator::kConvTranspose;
  a.group = channels.groups;
  const Layouts layouts{one_of({Layout::kNCHW, Layout::kNHWC}), one_of({Layout::kNCHW, Layout::kNHWC})};
  const int64_t N = pick(0, 15) ? pick(1, 5) : 0;
  const int64_t widest = channels.C > 1000 ? 4 : rank == 1 ? 40 : rank == 2 ? 11 : 5;
  std::vector<int64_t> x_shape{N}, w_shape{channels.K * channels.groups, channels.C};
  if (a.op == Operator::kConvTranspose) w_shape = {channels.C * channels.groups, channels.K};
  for (size_t j = 0; j < rank; ++j) {
    const int64_t F = pick(1, rank == 3 ? 3 : 5), stride = pick(1, 3), dilation = pick(1, rank == 3 ? 2 : 4);
    int64_t before = pick(0, F), after = pick(0, F);
    int64_t extent = pick(1, widest);
    const int64_t window = (F - 1) * dilation + 1;
    if (a.op == Operator::kConv) {
      extent = std::max(extent, window - before - after);
    } else {
      a.output_padding.push_back(pick(0, std::max(stride, dilation) - 1));
      const int64_t whole = (extent - 1) * stride + window + a.output_padding.back();
      while (whole - before - after < 1) before > after ? --before : --after;
    }
    x_shape.push_back(extent);
    w_shape.push_back(F);
    a.strides.push_back(stride), a.dilations.push_back(dilation);
    a.pads.insert(a.pads.begin() + long(j), before), a.pads.push_back(after);
  }
  x_shape.insert(layouts.x == Layout::kNCHW ? x_shape.begin() + 1 : x_shape.end(), channels.C * channels.groups);
  const Filter filter = make_filter(a, w_shape);
  Case c{.problem = make_problem(a, filter, x_shape, layouts.x),
         .type = one_of({DataType::kFloat, DataType::kFloat, DataType::kHalf, DataType::kBFloat16}),
         .layouts = layouts,
         .activation = {ActivationKind(i / 6 % 13), 0.2f, 0.4f},
         .bias = pick(0, 2) > 0,
         .residual = pick(0, 1) > 0,
         .residual_alpha = one_of({1.0f, 0.01f, 0.3f})};
  if (c.activation.kind == ActivationKind::kClip) c.activation = {ActivationKind::kClip, -0.5f, 6.0f};
  if (c.activation.kind == ActivationKind::kPRelu)
    for (int64_t k = 0; k < filter.K; ++k) c.activation.slopes.push_back(float(pick(-64, 96)) / 64);
  return c;
}

// Values that random sums of moderate size do not meet: what an activation does far out, and with infinities and NaN.
void check_activations() {
  constexpr float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> values{-inf,  -1e30f, -200,  -90, -20, -5, -1, -0.4f, -1e-3f, -1e-6f, 0,  1e-6f,
                                  1e-3f, 0.39f,  0.41f, 1,   5,   20, 90, 200,   1e30f,  inf,    NAN};
  Problem p;
  p.filter = {.op = Operator::kConv, .C = 1, .K = 1};
  p.input[2] = p.output[2] = int64_t(values.size());
  const float one = 1;
  for (int kind = 0; kind < 13; ++kind) {
    const Activation activation{ActivationKind(kind), kind == 3 ? -1.0f : 0.2f, 0.4f, {0.3f}};
    const Case c{p, DataType::kFloat, Layout::kNCHW, activation, false, false};
    const cpu::PackedFilter packed(p.filter, c.type, &one, parallel_for);
    const cpu::Convolution convolution(p, c.type, c.layouts, c.activation, 1);
    std::vector<float> y(values.size());
    std::vector<double> workspace(convolution.workspace_bytes() / 8 + 16);
    void* aligned = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace.data()) + 63) / 64 * 64);
    convolution.run(values.data(), packed, nullptr, nullptr, y.data(), aligned, parallel_for);
    for (size_t i = 0; i < values.size(); ++i) {
      const double want = activate(c.activation, values[i], 0);
      // HardSwish, Silu and Gelu of -inf are 0 * inf: NaN by the formula, and no model depends on it.
      if (std::isinf(values[i]) && std::isnan(want)) continue;
      const bool same =
          std::isnan(want) ? std::isnan(y[i]) : y[i] == want || std::abs(y[i] - want) <= 1e-6 * (1 + std::abs(want));
      if (!same) {
        describe(c);
        std::printf(" activation of %g is %.9g, not %.9g\n", values[i], y[i], want);
        ++failures;
      }
    }
  }
}

}  // namespace

int main() {
  for (const cpu::Kernels* kernels : cpu::runnable_kernels()) {
    cpu::use_kernels(*kernels);
    const int before = failures;
    check_activations();
    int convolutions = 0, gradients = 0;
    for (int64_t i = 0; i < 600; ++i) {
      const Case c = random_case(i);
      check_convolution(c);
      ++convolutions;
      if (c.problem.filter.op == Operator::kConv) check_weight_gradient(c), ++gradients;
    }
    std::printf("%s: %d convolutions and %d weight gradients, %d failures\n", kernels->name, convolutions, gradients,
                failures - before);
  }
  return failures ? 1 : 0;
}
