#include "pool.h"

#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <climits>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace inferd {
namespace {

constexpr std::chrono::microseconds kSpin{50};
constexpr int kLooks = 32;  // between two looks at the clock

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Sleeps while `word` is `value`; may return early.
void sleep_on(std::atomic<uint32_t>& word, uint32_t value) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
  if (word.load() == value) std::this_thread::sleep_for(kSpin);
#endif
}

void wake_all(std::atomic<uint32_t>& word) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
  (void)word;
#endif
}

}  // namespace

Pool::Pool(int threads) : threads_(threads) {
  sigset_t all, before;  // signals are for the program's own threads
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (int thread = 1; thread < threads; thread++) others_.emplace_back([this, thread] { serve(thread); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Pool::~Pool() {
  stopping_ = true;
  runs_.fetch_add(1);
  wake_all(runs_);
  for (std::thread& other : others_) other.join();
}

void Pool::run(Work work, void* context) {
  work_ = work;
  context_ = context;
  runs_.fetch_add(1);
  if (threads_ > 1) wake_all(runs_);
  work(context, 0);
  meet();
}

void Pool::serve(int thread) {
  for (uint32_t seen = 0;;) {
    while (runs_.load() == seen) sleep_on(runs_, seen);
    seen++;
    if (stopping_) return;
    work_(context_, thread);
    meet();
  }
}

void Pool::meet() {
  if (threads_ == 1) return;
  uint32_t meeting = meetings_.load();
  if (arrived_.fetch_add(1) == threads_ - 1) {
    arrived_.store(0);
    meetings_.store(meeting + 1);
    if (sleeping_.load() > 0) wake_all(meetings_);
    return;
  }
  auto begin = std::chrono::steady_clock::now();
  do {
    for (int look = 0; look < kLooks; look++) {
      if (meetings_.load() != meeting) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() - begin < kSpin);
  sleeping_.fetch_add(1);
  while (meetings_.load() == meeting) sleep_on(meetings_, meeting);
  sleeping_.fetch_sub(1);
}

}  // namespace inferd
