// How long a kernel that is away is waited for.
#pragma once

#include <chrono>
#include <optional>
#include <thread>

#include "inferd/error.h"

namespace inferd {

// Asked after each failure whether to try again.
class Patience {
 public:
  explicit Patience(bool waits = false) : waits_(waits) {}

  // The kernel has said something.
  void heard() {
    waits_ = true;
    lost_at_.reset();
  }

  // Pauses before another try; throws the error where another one is no use, or they have gone on for long.
  void again(const Error& error) {
    const auto now = std::chrono::steady_clock::now();
    if (!lost_at_) lost_at_ = now;
    const bool passes = error.reason() == kKernelUnreachable || error.is(v1::ERROR_REASON_NOT_LEADER) ||
                        error.is(v1::ERROR_REASON_SHUTTING_DOWN);
    if (!waits_ || !passes || now - *lost_at_ > std::chrono::seconds(30)) throw error;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }

 private:
  bool waits_;
  std::optional<std::chrono::steady_clock::time_point> lost_at_;
};

}  // namespace inferd
