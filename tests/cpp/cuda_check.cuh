// What the checks of the CUDA kernels share: poisoned buffers with guards around them, random elements, and reports of
// what differs from a reference.
#pragma once
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <vector>

#include "tests/cpp/cuda_reference.cuh"

namespace cks::test {

inline void must(cudaError_t status) {
  if (status == cudaSuccess) return;
  std::printf("CUDA: %s\n", cudaGetErrorString(status));
  std::exit(1);
}

// Device memory between two guards. All bytes start as 0xff: NaN in every type, so what is read before it is written,
// or from outside, shows in the results.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    must(cudaMalloc(&base_, bytes + 2 * kGuard));
    poison();
  }
  ~Buffer() { cudaFree(base_); }
  Buffer(const Buffer&) = delete;
  char* data() const { return base_ + kGuard; }
  size_t bytes() const { return bytes_; }
  void poison() { must(cudaMemset(base_, 0xff, bytes_ + 2 * kGuard)); }
  void write(const std::vector<unsigned char>& v) const {
    must(cudaMemcpy(data(), v.data(), bytes_, cudaMemcpyHostToDevice));
  }
  std::vector<unsigned char> read() const {
    std::vector<unsigned char> v(bytes_);
    must(cudaMemcpy(v.data(), data(), bytes_, cudaMemcpyDeviceToHost));
    return v;
  }
  bool guards_intact() const {
    std::vector<unsigned char> v(bytes_ + 2 * kGuard);
    must(cudaMemcpy(v.data(), base_, v.size(), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < v.size(); ++i)
      if ((i < kGuard || i >= kGuard + bytes_) && v[i] != 0xff) return false;
    return true;
  }

 private:
  static constexpr size_t kGuard = 4096;
  char* base_ = nullptr;
  size_t bytes_;
};

// What one element may differ from the reference by: rounding of the result, then of products and sums, in units of the
// sum of magnitudes.
struct Tolerance {
  double result, sum, subnormal;
};

struct Report {
  unsigned long long failures, first;
  double got, want, bound;
};

__device__ inline void judge(Report* report, int64_t i, double got, double want, double bound) {
  if (fabs(got - want) <= bound) return;  // false for NaN
  if (atomicAdd(&report->failures, 1ull) == 0) {
    report->first = i, report->got = got, report->want = want, report->bound = bound;
  }
}

inline const char* type_name(float*) { return "float"; }
inline const char* type_name(__half*) { return "float16"; }
inline const char* type_name(__nv_bfloat16*) { return "bfloat16"; }

inline DataType data_type(float*) { return DataType::kFloat; }
inline DataType data_type(__half*) { return DataType::kHalf; }
inline DataType data_type(__nv_bfloat16*) { return DataType::kBFloat16; }

template <class T>
Tolerance tolerance_of(Precision precision, bool coarse) {
  const bool is_float = sizeof(T) == 4;
  const double sum = is_float && precision == Precision::kTF32 && !coarse ? 0x1p-10 : 2e-6;
  if (is_float) return {0x1p-24, sum, 0};
  return std::is_same_v<T, __half> ? Tolerance{0x1p-11, sum, 0x1p-25} : Tolerance{0x1p-8, sum, 0};
}

// Random elements. Coarse ones are multiples of 1/8 in [-1, 1]: exact in every type and in tf32, so that only sums and
// the result round.
template <class T>
void fill(const Buffer& buffer, bool coarse, std::mt19937& random) {
  std::vector<T> v(buffer.bytes() / sizeof(T));
  std::uniform_int_distribution<int> eighths(-8, 8);
  std::normal_distribution<float> normal(0, 0.5f);
  for (T& e : v) e = T(coarse ? float(eighths(random)) / 8 : normal(random));
  must(cudaMemcpy(buffer.data(), v.data(), buffer.bytes(), cudaMemcpyHostToDevice));
}

inline void describe(const Problem& p, Layouts layouts, Precision precision, const char* type, const char* what,
                     const char* kernel) {
  const auto dims = [](const char* name, const Dims& v) {
    std::printf(" %s %lldx%lldx%lld", name, (long long)v[0], (long long)v[1], (long long)v[2]);
  };
  const auto name_of = [](Layout layout) { return layout == Layout::kNHWC ? "NHWC" : "NCHW"; };
  std::printf("%s %s [%s] %s to %s %s: N %lld C %lld K %lld groups %lld x2 %lld", what, type, kernel,
              name_of(layouts.x), name_of(layouts.y), precision == Precision::kTF32 ? "tf32" : "fp32", (long long)p.N,
              (long long)p.filter.C, (long long)p.filter.K, (long long)p.filter.groups, (long long)p.x2_channels);
  dims("filter", p.filter.extent), dims("input", p.input), dims("output", p.output), dims("stride", p.stride);
  dims("dilation", p.dilation), dims("pad", p.pad);
}

// A report on the device, cleared; read back after the check.
class DeviceReport {
 public:
  DeviceReport() {
    must(cudaMalloc(&device_, sizeof(Report)));
    must(cudaMemset(device_, 0, sizeof(Report)));
  }
  ~DeviceReport() { cudaFree(device_); }
  Report* device() const { return device_; }

  bool passed(bool guards, bool repeatable) const {
    Report r;
    must(cudaMemcpy(&r, device_, sizeof(Report), cudaMemcpyDeviceToHost));
    if (r.failures == 0 && guards && repeatable) return true;
    std::printf("FAILED: %llu wrong, one at %llu: %.9g, not %.9g +- %.3g; guards %s; second run %s\n  ", r.failures,
                r.first, r.got, r.want, r.bound, guards ? "intact" : "OVERWRITTEN", repeatable ? "equal" : "DIFFERENT");
    return false;
  }

 private:
  Report* device_ = nullptr;
};

// The body of a program of checks: counts them, says what came out, and is its exit status; 77 where there is no GPU,
// or nothing to check on it. checks(done, failed) adds to both.
template <class F>
int run_checks(const F& checks) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no GPU\n");
    return 77;
  }
  int done = 0, failed = 0;
  try {
    checks(done, failed);
  } catch (const std::exception& e) {
    std::printf("FAILED: %s\n", e.what());
    ++failed;
  }
  std::printf("%d checks, %d failed\n", done, failed);
  return failed ? 1 : done ? 0 : 77;
}

}  // namespace cks::test
