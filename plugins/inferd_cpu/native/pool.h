// A fixed number of threads that work on one step together. The calling thread is thread 0.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace inferd {

class Pool {
 public:
  using Work = void (*)(void* context, int thread);

  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Runs work(context, thread) on every thread and returns when all have ended. Sleeps, not spins, between two runs.
  void run(Work work, void* context);

  // Inside a run: returns when all threads have come here. Spins for a moment, then sleeps.
  void meet();

 private:
  void serve(int thread);

  const int threads_;
  std::vector<std::thread> others_;
  Work work_ = nullptr;
  void* context_ = nullptr;
  bool stopping_ = false;
  alignas(64) std::atomic<uint32_t> runs_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> meetings_{0};
  alignas(64) std::atomic<int> sleeping_{0};
};

// The part of `count` that belongs to a thread when each gets an equal, whole share.
struct Share {
  int begin, end;
};
inline Share share_of(int count, int thread, int threads) {
  return {static_cast<int>(int64_t{count} * thread / threads), static_cast<int>(int64_t{count} * (thread + 1) / threads)};
}

}  // namespace inferd
