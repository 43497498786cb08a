#include "inferd/error.h"

#include <algorithm>
#include <cctype>

#include "google/rpc/error_details.pb.h"

namespace inferd {
namespace {

constexpr char kPrefix[] = "ERROR_REASON_";
constexpr char kUnconnected[] = "failed to connect to all addresses";
constexpr char kRefused[] = "Connection refused";

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

bool is_handshake(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char each) { return std::tolower(each); });
  return contains(text, "certificate") || contains(text, "ssl_error") || contains(text, "hostname verification");
}

const char* name_of(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {
      "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
      "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
      "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"};
  return code >= 0 && code <= 16 ? kNames[code] : "UNKNOWN";
}

}  // namespace

Error::Error(const std::string& message, std::string reason, grpc::StatusCode code, Facts metadata)
    : std::runtime_error(message), reason_(std::move(reason)), code_(code), metadata_(std::move(metadata)) {}

Error::Error(const google::rpc::Status& status)
    : std::runtime_error(status.message()), code_(static_cast<grpc::StatusCode>(status.code())) {
  google::rpc::ErrorInfo info;
  google::rpc::RetryInfo retry;
  google::rpc::BadRequest bad;
  for (const auto& detail : status.details()) {
    if (detail.UnpackTo(&info) && info.domain() == "inferd") {
      reason_ = info.reason();
      metadata_.insert(info.metadata().begin(), info.metadata().end());
    } else if (detail.UnpackTo(&retry)) {
      const auto& delay = retry.retry_delay();
      retry_after_ = std::chrono::milliseconds(delay.seconds() * 1000 + delay.nanos() / 1000000);
    } else if (detail.UnpackTo(&bad) && bad.field_violations_size() > 0) {
      field_ = bad.field_violations(0).field();
    }
  }
}

Error Error::from(const grpc::Status& status, const std::string& address) {
  google::rpc::Status told;
  if (told.ParseFromString(status.error_details()) && told.details_size() > 0) return Error(told);
  const std::string& words = status.error_message();
  if (status.error_code() != grpc::StatusCode::UNAVAILABLE) {
    return Error("the call to " + address + " ended with " + name_of(status.error_code()) + ": " + words, "",
                 status.error_code());
  }
  const bool unsent = contains(words, kUnconnected) || contains(words, kRefused);
  if (unsent && is_handshake(words)) {
    Error failed("no connection with TLS to " + address + " (" + words +
                     "): name the authority of its certificate (ca_file, $INFERD_CA_FILE)",
                 kTlsFailed, status.error_code());
    failed.unsent_ = true;
    return failed;
  }
  Error failed("no kernel answers at " + address + " (" + words + "); start one with: inferd serve",
               kKernelUnreachable, status.error_code());
  failed.unsent_ = unsent;
  return failed;
}

bool Error::is(v1::ErrorReason reason) const { return kPrefix + reason_ == v1::ErrorReason_Name(reason); }

}  // namespace inferd
