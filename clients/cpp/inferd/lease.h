// Capacity that is held for as long as an object lives.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "inferd/error.h"
#include "inferd_api/v1/lease.pb.h"

namespace inferd {

class Client;

// As in `v1::LeaseSpec`.
struct LeaseOptions {
  // How long it holds unless it is kept alive; default the kernel's.
  std::chrono::milliseconds ttl{0};
  // Wait when there is no room now; default: refuse with LEASE_UNAVAILABLE.
  bool wait = false;
  // Longest wait; default: without end.
  std::chrono::milliseconds wait_timeout{0};
  std::map<std::string, std::string> labels;
  // Called, by a thread of the lease, when it does not hold any more.
  std::function<void(const Error&)> on_lost;
};

// A lease that this program keeps alive, by a thread, and gives back at the end of the object. The kernel counts its time
// from when it takes a keep-alive, and this client from when it was sent, which is earlier, on its own clock: it never
// believes in one that the kernel has given to another. Safe to use from several threads.
class Lease {
 public:
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  const std::string& id() const { return id_; }
  // How long it holds from each keep-alive.
  std::chrono::milliseconds ttl() const { return ttl_; }
  // Rises with every grant of the kernel.
  std::uint64_t fencing_token() const;
  // Throws LEASE_LOST where it does not hold any more, or nobody can tell.
  void check();
  // Gives it back. One that the kernel cannot be told of ends by itself.
  void release();

 private:
  friend class Client;
  using Clock = std::chrono::steady_clock;

  Lease(Client& client, const v1::Lease& lease, Clock::time_point sent, std::function<void(const Error&)> on_lost);
  void grant(const v1::Lease& lease);
  void keep();
  void renew(std::unique_lock<std::mutex>& guard);
  void lose(const std::string& why, Error::Facts facts);

  Client& client_;
  const std::string id_;
  const std::chrono::milliseconds ttl_;
  const std::function<void(const Error&)> on_lost_;
  mutable std::mutex lock_;  // of all below
  std::condition_variable changed_;
  std::uint64_t token_;
  Clock::time_point confirmed_;
  std::string trouble_;
  std::optional<Error> lost_;
  bool released_ = false;
  std::thread keeper_;
};

}  // namespace inferd
