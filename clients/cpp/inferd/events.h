// What a task tells, one event after the other.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include <grpcpp/grpcpp.h>

#include "inferd/patience.h"
#include "inferd_api/v1/task.pb.h"

namespace inferd {

class Client;

// A stream of responses that carry events. Of the layer itself.
class EventStream {
 public:
  virtual ~EventStream() = default;
  // Appends those of the next response; false at the end.
  virtual bool read(std::deque<v1::TaskEvent>& into) = 0;
  virtual grpc::Status finish() = 0;
};

// The events of a task; read by one thread, and cancelled by any. Where they end before the last one, the call is
// cancelled, and with it a task that was run.
class Events {
 public:
  // Opens the call behind a sequence number.
  using Open = std::function<std::unique_ptr<EventStream>(grpc::ClientContext&, std::uint64_t after)>;

  Events(Client& client, Open open, bool goes_on, std::uint64_t after);
  ~Events();
  Events(Events&&) noexcept;
  Events& operator=(Events&&) = delete;

  // Waits for the next event; false behind the last one. Throws `Error`.
  bool next();
  // The one that `next` has found; `Finished` is the last one.
  const v1::TaskEvent& event() const;
  // Ends the call, from any thread: `next` throws `Error` with CANCELLED.
  void cancel();

  class Iterator {
   public:
    explicit Iterator(Events* of) : of_(of) { ++*this; }
    const v1::TaskEvent& operator*() const { return of_->event(); }
    const v1::TaskEvent* operator->() const { return &of_->event(); }
    Iterator& operator++() {
      if (of_ != nullptr && !of_->next()) of_ = nullptr;
      return *this;
    }
    bool operator!=(const Iterator& other) const { return of_ != other.of_; }

   private:
    Events* of_;
  };
  Iterator begin() { return Iterator(this); }
  Iterator end() { return Iterator(nullptr); }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace inferd
