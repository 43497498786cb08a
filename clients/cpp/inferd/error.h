// Why a call or a task failed.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>

#include <grpcpp/grpcpp.h>

#include "google/rpc/status.pb.h"
#include "inferd_api/v1/errors.pb.h"

namespace inferd {

// Reasons that the kernel cannot say itself. All others are names of `v1::ErrorReason`.
inline constexpr char kKernelUnreachable[] = "KERNEL_UNREACHABLE";
inline constexpr char kTlsFailed[] = "TLS_FAILED";
inline constexpr char kLeaseLost[] = "LEASE_LOST";

// Branch on `reason()`, or with `is()`; `what()` is for people.
class Error : public std::runtime_error {
 public:
  using Facts = std::map<std::string, std::string>;

  Error(const std::string& message, std::string reason, grpc::StatusCode code, Facts metadata = {});
  // Of a status that is part of a message, as `Finished.error`.
  explicit Error(const google::rpc::Status& status);
  // Of a call to `address` that failed.
  static Error from(const grpc::Status& status, const std::string& address);

  // A name of `v1::ErrorReason` without its prefix, one of the constants above, or "" for a status of the transport.
  const std::string& reason() const { return reason_; }
  bool is(v1::ErrorReason reason) const;
  grpc::StatusCode code() const { return code_; }
  // Facts by name; `v1::ErrorReason` lists them.
  const Facts& metadata() const { return metadata_; }
  // Path of the request's field that is wrong, else "".
  const std::string& field() const { return field_; }
  // When trying again makes sense.
  std::optional<std::chrono::milliseconds> retry_after() const { return retry_after_; }
  // Whether no kernel can have seen the call.
  bool unsent() const { return unsent_; }

 private:
  std::string reason_;
  grpc::StatusCode code_;
  Facts metadata_;
  std::string field_;
  std::optional<std::chrono::milliseconds> retry_after_;
  bool unsent_ = false;
};

}  // namespace inferd
