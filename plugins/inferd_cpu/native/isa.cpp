#include "isa.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace inferd {
namespace {

#if defined(__x86_64__)

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned part = 0) {
  Registers r;
  __get_cpuid_count(leaf, part, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool has(unsigned word, unsigned bits) { return (word & bits) == bits; }

// The registers that the operating system keeps between threads.
uint64_t kept_registers() {
  if (!has(cpuid(1).ecx, 1u << 27)) return 0;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

const char* avx2_missing() {
  if (!has(cpuid(1).ecx, 1u << 12 | 1u << 28 | 1u << 29)) return "the processor has no AVX, FMA or F16C";
  if (!has(cpuid(7).ebx, 1u << 5)) return "the processor has no AVX2";
  return (kept_registers() & 0x6) == 0x6 ? nullptr : "the operating system does not keep AVX registers";
}

const char* avx512_missing() {
  if (const char* why = avx2_missing()) return why;
  if (!has(cpuid(7).ebx, 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31)) return "the processor has no AVX-512 F, DQ, BW and VL";
  if (!has(cpuid(7).ecx, 1u << 11)) return "the processor has no AVX-512 VNNI";
  return (kept_registers() & 0xe6) == 0xe6 ? nullptr : "the operating system does not keep AVX-512 registers";
}

const char* amx_missing() {
  if (const char* why = avx512_missing()) return why;
  if (!has(cpuid(7, 1).eax, 1u << 5)) return "the processor has no AVX-512 BF16";
  if (!has(cpuid(7).ecx, 1u << 1)) return "the processor has no AVX-512 VBMI";
  if (!has(cpuid(7).edx, 1u << 22 | 1u << 24 | 1u << 25)) return "the processor has no AMX with bf16 and int8";
  if ((kept_registers() & 0x60000) != 0x60000) return "the operating system does not keep AMX tiles";
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM of asm/prctl.h
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return "the operating system refuses AMX tiles";
  return nullptr;
#else
  return "AMX tiles are asked for on Linux only";
#endif
}

#endif

}  // namespace

const char* isa_missing(const char* name) {
  if (std::strcmp(name, "plain") == 0) return nullptr;
#if defined(__x86_64__)
  if (std::strcmp(name, "avx2") == 0) return avx2_missing();
  if (std::strcmp(name, "avx512") == 0) return avx512_missing();
  if (std::strcmp(name, "amx") == 0) return amx_missing();
#elif defined(__aarch64__)
  if (std::strcmp(name, "neon") == 0) {
#if defined(__linux__)
    constexpr unsigned long kDotProducts = 1ul << 20, kHalves = 1ul << 10;  // HWCAP_ASIMDDP, HWCAP_ASIMDHP
    const unsigned long found = getauxval(AT_HWCAP);
    return (found & kDotProducts) && (found & kHalves) ? nullptr : "the processor has no dot products or fp16 of NEON";
#else
    return nullptr;  // every processor of Apple's with this architecture has them
#endif
  }
#endif
  return "it belongs to another kind of processor, or its name is not one of plain, avx2, avx512, amx, neon";
}

}  // namespace inferd
