// What ONNX Runtime sees of an operator's kernel: made once for each node of a session, run many times, by many threads
// at once.
#pragma once
#include <memory>
#include <string>

#include "custom_ops/attributes.h"
#include "custom_ops/ort_api.h"
#include "custom_ops/tuning.h"

namespace cks::ort {

class Kernel {
 public:
  Kernel(const OrtApi& api, std::string subject) : api_(api), subject_(std::move(subject)) {}
  virtual ~Kernel() = default;
  virtual void run(OrtKernelContext*) = 0;
  const OrtApi& api() const { return api_; }
  const std::string& subject() const { return subject_; }  // the node, as errors name it

 protected:
  const OrtApi& api_;

 private:
  const std::string subject_;
};

struct KernelArguments {
  const OrtApi& api;
  const OrtKernelInfo* info;
  std::string subject;
  OpKind kind;
  DataType type;
  Tuning* tuning;  // null: nothing is searched
};

template <class Provider>
std::unique_ptr<Kernel> make_convolution_kernel(const KernelArguments&);
template <class Provider>
std::unique_ptr<Kernel> make_weight_gradient_kernel(const KernelArguments&);
template <class Provider>
std::unique_ptr<Kernel> make_max_pool_kernel(const KernelArguments&);
template <class Provider>
std::unique_ptr<Kernel> make_relu_each_kernel(const KernelArguments&);

}  // namespace cks::ort
