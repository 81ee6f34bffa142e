// The one symbol that the library exports: ONNX Runtime calls it when a session's options name the library.
#include <deque>
#include <mutex>
#include <string>

#include "custom_ops/op.h"
#include "custom_ops/ort_api.h"

namespace cks::ort {
namespace {

// The operators for one copy of ONNX Runtime. Sessions keep pointers into it, and there is no telling when the last of
// them ends, so it lives as long as the process.
class Domain {
 public:
  explicit Domain(const OrtApi& api) : api_(api) {
    check(api_, api_.CreateCustomOpDomain("ort_cks", &domain_));
    for (OpKind kind :
         {OpKind::kConvV2, OpKind::kSkDilated, OpKind::kKSDeconv, OpKind::kSkDilatedWeightGrad, OpKind::kMaxPoolNhwc}) {
      for (DataType type : {DataType::kFloat, DataType::kHalf, DataType::kBFloat16}) {
        add(kind, type, ProviderKind::kCpu);
#ifdef ORT_CKS_CUDA
        add(kind, type, ProviderKind::kCuda);
#endif
      }
    }
  }
  const OrtApi& api() const { return api_; }
  OrtCustomOpDomain* get() const { return domain_; }

 private:
  void add(OpKind kind, DataType type, ProviderKind provider) {
    check(api_, api_.CustomOpDomain_Add(domain_, &ops_.emplace_back(api_, kind, type, provider)));
  }

  const OrtApi& api_;
  OrtCustomOpDomain* domain_ = nullptr;
  std::deque<Op> ops_;  // addresses must not change
};

OrtCustomOpDomain* domain_for(const OrtApi& api) {
  static std::mutex mutex;
  static std::deque<Domain>& domains = *new std::deque<Domain>;
  const std::lock_guard lock(mutex);
  for (const Domain& domain : domains) {
    if (&domain.api() == &api) return domain.get();
  }
  return domains.emplace_back(api).get();
}

// A session refuses options that hold a domain twice, and options cannot be asked for their domains, so a note is left
// in their free-form entries: registering again, through whatever API, is harmless.
void register_once(const OrtApi& api, OrtSessionOptions* options) {
  constexpr const char* kNote = "ort_cks.registered";
  int registered = 0;
  check(api, api.HasSessionConfigEntry(options, kNote, &registered));
  if (registered) return;
  check(api, api.AddCustomOpDomain(options, domain_for(api)));
  check(api, api.AddSessionConfigEntry(options, kNote, "1"));
}

}  // namespace
}  // namespace cks::ort

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  using namespace cks::ort;
  const OrtApi* api = base->GetApi(kApiVersion);
  if (!api) {
    const std::string message =
        std::string("ort_cks needs ONNX Runtime 1.18 or newer; this is ") + base->GetVersionString();
    return base->GetApi(1)->CreateStatus(ORT_NOT_IMPLEMENTED, message.c_str());
  }
  return guarded(*api, "ort_cks", [&] { register_once(*api, options); });
}
