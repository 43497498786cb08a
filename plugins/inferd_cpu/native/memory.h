// Memory straight from the operating system: zero, aligned to pages, and not there before it is touched.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

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

  uint8_t* data() const { return data_; }
  size_t size_bytes() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
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
