// The one symbol that the library exports: ONNX Runtime calls it when a session's options name the library.
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>

#include "custom_ops/op.h"
#include "custom_ops/ort_api.h"
#include "custom_ops/tuning.h"

namespace cks::ort {
namespace {

// What a session's configuration says of tiles: whether they are searched by measurement, and in which file what was
// found is kept. A kernel cannot ask its session in ONNX Runtime before 1.24, but a session chooses its operators.
struct TuningRequest {
  bool search = false;
  std::string file;  // absolute; empty: none
  bool operator==(const TuningRequest&) const = default;
};

std::optional<std::string> config_entry(const OrtApi& api, const OrtSessionOptions* options, const char* key) {
  int is_set = 0;
  check(api, api.HasSessionConfigEntry(options, key, &is_set));
  if (!is_set) return {};
  size_t size = 0;
  check(api, api.GetSessionConfigEntry(options, key, nullptr, &size));
  std::string value(size, '\0');
  check(api, api.GetSessionConfigEntry(options, key, value.data(), &size));
  value.resize(size - 1);  // size counts the closing NUL
  return value;
}

TuningRequest read_request(const OrtApi& api, const OrtSessionOptions* options) {
  const std::string tune = config_entry(api, options, "ort_cks.tune").value_or("0");
  if (tune != "0" && tune != "1")
    throw Error("the session config entry ort_cks.tune is '" + tune + "'; it must be 0 or 1");
  const std::string file = config_entry(api, options, "ort_cks.tune_cache").value_or("");
  if (file.empty()) return {tune == "1", file};
  return {true, std::filesystem::absolute(file).string()};
}

FoundTiles& found_tiles() {
  static FoundTiles& found = *new FoundTiles;
  return found;
}

// The operators for one copy of ONNX Runtime and one request. Sessions keep pointers into it, and there is no telling
// when the last of them ends, so it lives as long as the process.
class Domain {
 public:
  Domain(const OrtApi& api, const TuningRequest& request) : api_(api), request_(request) {
    if (request.search) tuning_.emplace(found_tiles(), request.file);
    check(api_, api_.CreateCustomOpDomain("ort_cks", &domain_));
    for (OpKind kind : {OpKind::kConvV2, OpKind::kSkDilated, OpKind::kKSDeconv, OpKind::kSkDilatedWeightGrad,
                        OpKind::kMaxPoolNhwc, OpKind::kReluEach}) {
      for (DataType type : {DataType::kFloat, DataType::kHalf, DataType::kBFloat16}) {
        add(kind, type, ProviderKind::kCpu);
#ifdef ORT_CKS_CUDA
        add(kind, type, ProviderKind::kCuda);
#endif
      }
    }
  }
  const OrtApi& api() const { return api_; }
  const TuningRequest& request() const { return request_; }
  OrtCustomOpDomain* get() const { return domain_; }

 private:
  void add(OpKind kind, DataType type, ProviderKind provider) {
    check(api_, api_.CustomOpDomain_Add(domain_,
                                        &ops_.emplace_back(api_, kind, type, provider, tuning_ ? &*tuning_ : nullptr)));
  }

  const OrtApi& api_;
  const TuningRequest request_;
  std::optional<Tuning> tuning_;
  OrtCustomOpDomain* domain_ = nullptr;
  std::deque<Op> ops_;  // addresses must not change
};

OrtCustomOpDomain* domain_for(const OrtApi& api, const TuningRequest& request) {
  static std::mutex mutex;
  static std::deque<Domain>& domains = *new std::deque<Domain>;
  const std::lock_guard lock(mutex);
  for (const Domain& domain : domains) {
    if (&domain.api() == &api && domain.request() == request) return domain.get();
  }
  return domains.emplace_back(api, request).get();
}

// A session refuses options that hold a domain twice, and options cannot be asked for their domains, so a note is left
// in their free-form entries: registering again, through whatever API, is harmless.
void register_once(const OrtApi& api, OrtSessionOptions* options) {
  constexpr const char* kNote = "ort_cks.registered";
  const TuningRequest request = read_request(api, options);
  const std::string note = request.search ? "with tuning " + request.file : "1";
  if (const std::optional<std::string> earlier = config_entry(api, options, kNote)) {
    if (*earlier == note) return;
    throw Error(
        "the session config entries ort_cks.tune and ort_cks.tune_cache have changed since the library was registered "
        "on these options; set them before, or take new options");
  }
  check(api, api.AddCustomOpDomain(options, domain_for(api, request)));
  check(api, api.AddSessionConfigEntry(options, kNote, note.c_str()));
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
