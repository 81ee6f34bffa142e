// ONNX Runtime's C API, pinned to version 18 (ONNX Runtime 1.18): statuses become exceptions, shapes plain values.
#pragma once
#include <onnxruntime_c_api.h>

#include <array>
#include <cstdint>
#include <exception>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "plan/problem.h"

namespace cks::ort {

inline constexpr uint32_t kApiVersion = 18;

// An OrtStatus that a call to ONNX Runtime came back with.
class StatusError : public std::exception {
 public:
  StatusError(const OrtApi& api, OrtStatus* status)
      : code_(api.GetErrorCode(status)), message_(api.GetErrorMessage(status)) {
    api.ReleaseStatus(status);
  }
  const char* what() const noexcept override { return message_.c_str(); }
  OrtErrorCode code() const { return code_; }

 private:
  OrtErrorCode code_;
  std::string message_;
};

inline void check(const OrtApi& api, OrtStatus* status) {
  if (status) throw StatusError(api, status);
}

// Runs `body` and turns whatever it throws into a status whose message begins with `subject`, the node.
template <class Body>
OrtStatus* guarded(const OrtApi& api, const std::string& subject, Body&& body) noexcept {
  const auto status = [&](OrtErrorCode code, const char* what) {
    try {
      return api.CreateStatus(code, (subject + ": " + what).c_str());
    } catch (const std::bad_alloc&) {
      return api.CreateStatus(code, what);
    }
  };
  try {
    body();
    return nullptr;
  } catch (const Error& e) {
    return status(ORT_INVALID_ARGUMENT, e.what());
  } catch (const StatusError& e) {
    return status(e.code(), e.what());
  } catch (const std::bad_alloc&) {
    return status(ORT_RUNTIME_EXCEPTION, "out of memory");
  } catch (const std::exception& e) {
    return status(ORT_RUNTIME_EXCEPTION, e.what());
  }
}

// A tensor's shape, held without an allocation: every run reads several.
struct Shape {
  static constexpr size_t kMaxRank = 8;
  std::array<int64_t, kMaxRank> dims{};  // entries from `rank` on stay 0
  size_t rank = 0;
  operator std::span<const int64_t>() const { return {dims.data(), rank}; }
  bool operator==(const Shape&) const = default;
};

Shape to_shape(std::span<const int64_t>);
int64_t elements(std::span<const int64_t> shape);
std::string to_string(std::span<const int64_t> shape);
Shape shape_of(const OrtApi&, const OrtTensorTypeAndShapeInfo*);
Shape shape_of(const OrtApi&, const OrtValue*);
std::vector<int64_t> dims_of(const OrtApi&, const OrtTensorTypeAndShapeInfo*);  // of any rank
std::vector<int64_t> dims_of(const OrtApi&, const OrtValue*);
const void* data_of(const OrtApi&, const OrtValue*);
bool is_in_cpu_memory(const OrtApi&, const OrtValue*);

// Of a node whose kernel is being made.
std::string node_name(const OrtApi&, const OrtKernelInfo*);
size_t input_count(const OrtApi&, const OrtKernelInfo*);
size_t output_count(const OrtApi&, const OrtKernelInfo*);
const OrtValue* constant_input(const OrtApi&, const OrtKernelInfo*, size_t index);  // null: not the same in every run

// Of a node that is running. An optional input that is absent is null.
const OrtValue* input(const OrtApi&, const OrtKernelContext*, size_t index);
void* allocate_output(const OrtApi&, OrtKernelContext*, std::span<const int64_t> shape, size_t index = 0);
void log_message(const OrtApi&, const OrtKernelContext*, OrtLoggingLevel, const std::string& message);

}  // namespace cks::ort
