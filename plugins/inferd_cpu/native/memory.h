// Memory straight from the operating system: zero, aligned to pages, and not there before it is touched.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

namespace inferd {

class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (data_) munmap(data_, size_);
  }

  // Takes memory; false when there is none. `huge` asks for large pages: fewer look-ups of addresses while streaming.
  bool take(size_t bytes, bool huge = false) {
    size_ = bytes ? bytes : 1;
    void* data = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    data_ = data == MAP_FAILED ? nullptr : static_cast<uint8_t*>(data);
#if defined(MADV_HUGEPAGE)
    if (data_ && huge) madvise(data_, size_, MADV_HUGEPAGE);
#else
    (void)huge;
#endif
    return data_ != nullptr;
  }

  // Maps so much of a file that has it, for reading and writing: its pages come and go as memory is short. False when
  // the file is smaller or cannot be mapped; with 0 bytes there is nothing to map.
  bool map(int file, size_t bytes) {
    if (!bytes) return true;
    struct stat found;
    if (fstat(file, &found) || found.st_size < 0 || static_cast<size_t>(found.st_size) < bytes) return false;
    size_ = bytes;
    void* data = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    data_ = data == MAP_FAILED ? nullptr : static_cast<uint8_t*>(data);
    return data_ != nullptr;
  }

  uint8_t* data() const { return data_; }
  size_t size_bytes() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Has the operating system put pages behind memory: what touches one first waits until it is zero, and where the
// processor is a virtual one often for its host, too; milliseconds for a large page. Memory keeps what is in it.
class Filling {
 public:
  Filling() = default;
  Filling(const Filling&) = delete;
  Filling& operator=(const Filling&) = delete;
  ~Filling() {
    {
      std::lock_guard<std::mutex> hold(mutex_);
      ending_ = true;
    }
    ends_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

  // Fills a little at once and the rest in the background, where the first task has its first tokens by then: hundreds
  // of milliseconds of a core. The memory outlives this object.
  void start(const Memory& memory) {
    const size_t first = fill(memory, 0, 16 << 20);
    if (first == memory.size_bytes()) return;
    sigset_t all, before;  // signals are for the program's own threads
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      thread_ = std::thread([this, &memory, first] {
        std::unique_lock<std::mutex> hold(mutex_);
        bool ends = ends_.wait_for(hold, std::chrono::seconds(1), [this] { return ending_; });
        for (size_t at = first; at < memory.size_bytes() && !ends;) {
          hold.unlock();
          at = fill(memory, at, 2 << 20);
          hold.lock();
          ends = ending_;
        }
      });
    } catch (const std::system_error&) {  // no thread: steps wait as they need pages
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

 private:
  // Fills some bytes from `begin` on; gives their end, or the end of all where it cannot be done.
  static size_t fill(const Memory& memory, size_t begin, size_t bytes) {
    if (bytes > memory.size_bytes() - begin) bytes = memory.size_bytes() - begin;
#if defined(MADV_POPULATE_WRITE)
    if (madvise(memory.data() + begin, bytes, MADV_POPULATE_WRITE) == 0) return begin + bytes;
#endif
    return memory.size_bytes();
  }

  std::mutex mutex_;
  std::condition_variable ends_;
  bool ending_ = false;  // by mutex_
  std::thread thread_;
};

// Divides a piece of memory into arrays, each aligned to a cache line. Without memory it only counts.
class Division {
 public:
  explicit Division(uint8_t* memory = nullptr) : memory_(memory) {}

  template <class T>
  T* take(size_t count) {
    T* array = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return array;
  }
  size_t used_bytes() const { return used_; }

 private:
  uint8_t* memory_;
  size_t used_ = 0;
};

}  // namespace inferd
