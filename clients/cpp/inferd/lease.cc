#include "inferd/lease.h"

#include <algorithm>

#include "inferd/client.h"

namespace inferd {
namespace {

constexpr int kRenewals = 3;  // keep-alives in a TTL: two may be lost
constexpr std::chrono::milliseconds kPause{200};
constexpr std::size_t kTroubleBytes = 200;

std::chrono::milliseconds length_of(const google::protobuf::Duration& length) {
  return std::chrono::milliseconds(length.seconds() * 1000 + length.nanos() / 1000000);
}

}  // namespace

Lease::Lease(Client& client, const v1::Lease& lease, Clock::time_point sent, std::function<void(const Error&)> on_lost)
    : client_(client),
      id_(lease.lease_id()),
      ttl_(length_of(lease.spec().ttl())),
      on_lost_(std::move(on_lost)),
      token_(lease.fencing_token()),
      confirmed_(sent),
      keeper_([this] { keep(); }) {}

Lease::~Lease() {
  release();
  keeper_.join();
}

void Lease::grant(const v1::Lease& lease) {
  if (lease.state() != v1::LEASE_STATE_ACTIVE) {
    if (lease.has_error()) throw Error(lease.error());
    throw Error("lease " + id_ + " is " + v1::LeaseState_Name(lease.state()) + " before it was granted", kLeaseLost,
                grpc::StatusCode::FAILED_PRECONDITION, {{"lease_id", id_}});
  }
  const std::lock_guard<std::mutex> guard(lock_);
  token_ = lease.fencing_token();
}

std::uint64_t Lease::fencing_token() const {
  const std::lock_guard<std::mutex> guard(lock_);
  return token_;
}

void Lease::check() {
  const std::lock_guard<std::mutex> guard(lock_);
  if (released_) {
    throw Error("lease " + id_ + " was released", kLeaseLost, grpc::StatusCode::FAILED_PRECONDITION, {{"lease_id", id_}});
  }
  if (!lost_ && Clock::now() >= confirmed_ + ttl_) lose("the kernel has not confirmed it for its TTL", {});
  if (lost_) throw *lost_;
}

void Lease::release() {
  {
    const std::lock_guard<std::mutex> guard(lock_);
    if (released_) return;
    released_ = true;
    changed_.notify_all();
    if (lost_) return;
  }
  try {
    client_.release(id_);
  } catch (const Error&) {  // it ends by itself
  }
}

void Lease::lose(const std::string& why, Error::Facts facts) {
  facts.emplace("lease_id", id_);
  lost_.emplace("lease " + id_ + " is lost: " + why + (trouble_.empty() ? "" : " (" + trouble_ + ")"), kLeaseLost,
                grpc::StatusCode::FAILED_PRECONDITION, std::move(facts));
  changed_.notify_all();
}

void Lease::keep() {
  std::unique_lock<std::mutex> guard(lock_);
  while (!released_ && !lost_) {
    const auto due = std::max(confirmed_ + ttl_ / kRenewals, trouble_.empty() ? confirmed_ : Clock::now() + kPause);
    const auto end = confirmed_ + ttl_;
    if (changed_.wait_until(guard, std::min(due, end), [this] { return released_ || lost_; })) break;
    if (Clock::now() >= end) {
      lose("the kernel has not confirmed it for its TTL", {});
    } else {
      renew(guard);
    }
  }
  if (lost_ && !released_ && on_lost_) {
    const Error error = *lost_;
    guard.unlock();
    on_lost_(error);
  }
}

void Lease::renew(std::unique_lock<std::mutex>& guard) {
  const auto sent = Clock::now();
  guard.unlock();
  v1::LeaseRenewal renewal;
  std::string trouble;
  try {
    renewal = client_.renew(id_, ttl_ / kRenewals);
  } catch (const Error& error) {
    trouble = std::string(error.what()).substr(0, kTroubleBytes);
  }
  guard.lock();
  trouble_ = trouble;
  if (!trouble.empty() || released_) return;
  if (renewal.has_error()) {
    const Error ended(renewal.error());
    lose(ended.what(), ended.metadata());
  } else if (Clock::now() < confirmed_ + ttl_) {
    confirmed_ = sent;
    token_ = renewal.fencing_token();
  }
}

}  // namespace inferd
