// What a client on a shared socket says who it is by.
#pragma once

#include <chrono>
#include <mutex>
#include <string>

namespace inferd {

// Tickets, taken from the socket beside that of the kernel, and renewed in time. Safe to use from several threads.
class Tickets {
 public:
  // For the socket at `path`.
  explicit Tickets(const std::string& path) : path_(path + ".id") {}

  // The ticket; "" where the socket is its owner's alone and needs none, or where no kernel is there. Throws `Error`.
  std::string current();

 private:
  std::string ask() const;
  std::string stamp() const;

  const std::string path_;
  std::mutex lock_;  // of all below
  std::string ticket_;
  std::string from_;
  std::chrono::steady_clock::time_point renew_at_;
};

}  // namespace inferd
