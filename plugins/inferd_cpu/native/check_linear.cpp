// Checks the products of every instruction set that runs here against each other and fp64, and times them:
//     check_linear                     checks
//     check_linear time [isa] [w8|w4|w4m|iq4|fp4|nvfp4] [threads]  least times of the layers of a small model
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <sys/mman.h>

#include "flush.h"
#include "ggml_blocks.h"
#include "linear.h"

namespace {

using inferd::Kernels;
using inferd::Matrix;
using inferd::Rows;
using inferd::Weight;

constexpr Weight kFormats[] = {Weight::w8, Weight::w4, Weight::w4m, Weight::iq4, Weight::fp4, Weight::nvfp4};
constexpr const char* kFormatNames[] = {"w8", "w4", "w4m", "iq4", "fp4", "nvfp4"};
constexpr const char* kNames[] = {"plain", "avx2", "avx512", "amx", "neon"};

// Memory of its own pages, huge where the system gives them.
class Pages {
 public:
  explicit Pages(size_t bytes) : bytes_((bytes + kHuge) / kHuge * kHuge + kHuge) {
    raw_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw_ == MAP_FAILED) std::abort();
    data_ = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(raw_) + kHuge - 1) / kHuge * kHuge);
    if (std::getenv("SMALL_PAGES") == nullptr) madvise(data_, bytes_ - kHuge, MADV_HUGEPAGE);
  }
  Pages(const Pages&) = delete;
  ~Pages() { munmap(raw_, bytes_); }
  uint8_t* data() { return data_; }

 private:
  static constexpr size_t kHuge = 2u << 20;
  size_t bytes_;
  void* raw_;
  uint8_t* data_;
};

std::vector<float> random_floats(size_t count, unsigned seed, float size) {
  std::mt19937 source(seed);
  std::normal_distribution<float> normal(0.0f, size);
  std::vector<float> out(count);
  for (float& one : out) one = normal(source);
  return out;
}

// Weights as a file has them: floats, but for formats of codes blocks of their type.
struct Stored {
  int type;
  std::vector<uint8_t> raw;
};

int stored_type(Weight format) {
  if (format <= Weight::w4m) return inferd::f32;
  return format == Weight::iq4 ? inferd::iq4_nl : format == Weight::fp4 ? inferd::mxfp4 : inferd::nvfp4;
}

Stored random_stored(Weight format, size_t count, unsigned seed) {
  if (format <= Weight::w4m) {
    const std::vector<float> floats = random_floats(count, seed, 0.05f);
    Stored stored{inferd::f32, std::vector<uint8_t>(count * sizeof(float))};
    std::memcpy(stored.raw.data(), floats.data(), stored.raw.size());
    return stored;
  }
  Stored stored{stored_type(format), {}};
  const size_t size = inferd::find_format(stored.type)->bytes;
  stored.raw.resize(count / inferd::find_format(stored.type)->elements * size);
  std::mt19937 source(seed);
  for (uint8_t& byte : stored.raw) byte = static_cast<uint8_t>(source());
  for (size_t at = 0; at < stored.raw.size(); at += size) {  // scales of about a thousandth
    const uint32_t drawn = source();
    if (format == Weight::fp4) stored.raw[at] = static_cast<uint8_t>(115 + drawn % 4);
    for (size_t i = 0; format == Weight::nvfp4 && i < 4; ++i) stored.raw[at + i] = 1 + drawn / (1 << 8 * i) % 4;
    if (format == Weight::iq4) stored.raw[at + 1] = static_cast<uint8_t>(0x10 + drawn / 256 % 4 + drawn / 4096 % 2 * 128);
  }
  return stored;
}

struct Packed {
  Packed(const Kernels& kernels, Weight format, int n, int k, const std::vector<float>& weights)
      : Packed(kernels, format, n, k, inferd::f32, weights.data()) {}
  Packed(const Kernels& kernels, Weight format, int n, int k, const Stored& stored)
      : Packed(kernels, format, n, k, stored.type, stored.raw.data()) {}
  Packed(const Kernels& kernels, Weight format, int n, int k, int type, const void* weights)
      : pages(kernels.packed_bytes(format, n, k)),
        factors(n, 1.0f),
        matrix{format, n, k, kernels.packed_bytes(format, n, k), pages.data(), factors.data()} {
    const int error =
        kernels.pack(format, type, weights, 0, n, nullptr, nullptr, n, k, pages.data(), factors.data());
    if (error != 0) std::printf("%s\n", inferd::pack_message(error)), std::abort();
  }
  Pages pages;
  std::vector<float> factors;
  Matrix matrix;
};

std::vector<float> multiply(const Kernels& kernels, const Matrix& w, const std::vector<float>& x, int rows) {
  Pages memory(kernels.rows_bytes(rows, w.k)), scratch(kernels.scratch_bytes(rows, w.k));
  Rows placed;
  kernels.place_rows(&placed, memory.data(), rows, w.k);
  kernels.quantize(x.data(), w.k, 0, rows, &placed);
  std::vector<float> out(static_cast<size_t>(rows) * w.n, NAN);
  const int panels = (w.n + kernels.panel_outputs - 1) / kernels.panel_outputs;
  kernels.multiply(w, placed, out.data(), w.n, 0, panels, scratch.data());
  return out;
}

// The largest error against fp64 relative to the size of the terms.
double error_of(const Kernels& kernels, const Matrix& w, const std::vector<float>& x, const std::vector<float>& out,
                int rows) {
  double worst = 0;
  std::vector<float> weights(w.k);
  for (int n = 0; n < w.n; n += 7) {
    kernels.unpack_row(w, n, weights.data());
    for (int row = 0; row < rows; ++row) {
      double sum = 0, size = 0;
      for (int i = 0; i < w.k; ++i) {
        const double term = static_cast<double>(weights[i]) * x[static_cast<size_t>(row) * w.k + i];
        sum += term;
        size += term * term;
      }
      worst = std::max(worst, std::fabs(out[static_cast<size_t>(row) * w.n + n] - sum) / std::sqrt(size + 1e-60));
    }
  }
  return worst;
}

// The error of the packed weights themselves, relative to their size.
double loss_of(const Kernels& kernels, const Matrix& w, const std::vector<float>& expected) {
  double errors = 0, squares = 0;
  std::vector<float> weights(w.k);
  for (int n = 0; n < w.n; ++n) {
    kernels.unpack_row(w, n, weights.data());
    for (int i = 0; i < w.k; ++i) {
      const double wanted = expected[static_cast<size_t>(n) * w.k + i], off = weights[i] - wanted;
      errors += off * off;
      squares += wanted * wanted;
    }
  }
  return std::sqrt(errors / squares);
}

// Weights far smaller and larger than the fp16 of packed scales, in the mode in which steps are computed.
int check_sizes() {
  int failures = 0;
  const inferd::FlushSmall flush;
  for (const float size : {1e-20f, 1e-9f, 2e-7f, 3e5f, 1e15f}) {
    const int n = 40, k = 256;
    const std::vector<float> weights = random_floats(n * k, 3, size), x = random_floats(9 * k, 4, 1.0f);
    for (const Weight format : {Weight::w8, Weight::w4, Weight::w4m}) {
      for (const char* name : kNames) {
        const Kernels* kernels = inferd::choose_kernels(name, nullptr);
        if (kernels == nullptr) continue;
        const Packed packed(*kernels, format, n, k, weights);
        const double loss = loss_of(*kernels, packed.matrix, weights);
        const double error = error_of(*kernels, packed.matrix, x, multiply(*kernels, packed.matrix, x, 9), 9);
        if (!(loss < (format == Weight::w8 ? 0.01 : 0.1)) || !(error < 0.1)) {
          std::printf("%s format %d size %g: loss %g, error %g\n", name, static_cast<int>(format), size, loss, error);
          ++failures;
        }
      }
    }
  }
  return failures;
}

int check() {
  int failures = check_sizes();
  const int shapes[][2] = {{96, 64}, {33, 32}, {5, 160}, {64, 576}, {80, 1536}, {17, 2048}};
  for (const auto& shape : shapes) {
    const int n = shape[0], k = shape[1];
    const std::vector<float> x = random_floats(static_cast<size_t>(70) * k, 2, 1.0f);
    for (const Weight format : kFormats) {
      if (k % inferd::find_format(stored_type(format))->elements != 0) continue;
      const Stored weights = random_stored(format, static_cast<size_t>(n) * k, 1);
      std::vector<float> first;
      for (const char* name : kNames) {
        const Kernels* kernels = inferd::choose_kernels(name, nullptr);
        if (kernels == nullptr) continue;
        const Packed packed(*kernels, format, n, k, weights);
        const std::vector<float> all = multiply(*kernels, packed.matrix, x, 70);
        const double error = error_of(*kernels, packed.matrix, x, all, 70);
        bool same = true;
        if (std::strcmp(name, "amx") != 0) {  // its activations are bf16, those of all others int8
          if (first.empty()) first = all;
          same = std::memcmp(all.data(), first.data(), all.size() * sizeof(float)) == 0;
        }
        for (int rows = 1; rows < 40; ++rows) {
          const std::vector<float> few = multiply(*kernels, packed.matrix, x, rows);
          same = same && std::memcmp(few.data(), all.data(), few.size() * sizeof(float)) == 0;
        }
        if (error > 0.1 || !(error == error) || !same) {
          std::printf("%s %d x %d format %d: error %g, bits %s\n", name, n, k, static_cast<int>(format), error,
                      same ? "equal" : "differ");
          ++failures;
        }
      }
    }
  }
  for (const char* name : kNames) {
    if (inferd::choose_kernels(name, nullptr) != nullptr) std::printf("%s ", name);
  }
  std::printf(failures ? "- %d failures\n" : "all right\n", failures);
  return failures != 0;
}

// Threads that wait spinning for their part.
class Crew {
 public:
  explicit Crew(int threads) : threads_(threads) {
    for (int i = 1; i < threads; ++i) others_.emplace_back([this, i] { wait(i); });
  }
  ~Crew() {
    stop_ = true;
    ++round_;
    for (std::thread& one : others_) one.join();
  }
  template <typename Part>
  void run(const Part& part) {
    call_ = [](const void* what, int i) { (*static_cast<const Part*>(what))(i); };
    what_ = &part;
    left_ = threads_ - 1;
    ++round_;
    part(0);
    for (int spins = 0; left_ > 0; ++spins) {
      if (spins > kSpins) std::this_thread::yield();
    }
  }
  int threads() const { return threads_; }

 private:
  void wait(int i) {
    for (int seen = 0;;) {
      for (int spins = 0; round_ == seen; ++spins) {
        if (spins > kSpins) std::this_thread::yield();
      }
      seen = round_;
      if (stop_) return;
      call_(what_, i);
      --left_;
    }
  }
  static constexpr int kSpins = 20000;
  int threads_;
  std::vector<std::thread> others_;
  std::atomic<int> round_{0}, left_{0};
  std::atomic<bool> stop_{false};
  void (*call_)(const void*, int) = nullptr;
  const void* what_ = nullptr;
};

struct Layer {
  const char* name;
  int n, k, count;
};

constexpr Layer kLayers[] = {
    {"qkv", 960, 576, 30}, {"o", 576, 576, 30}, {"gate_up", 3072, 576, 30}, {"down", 576, 1536, 30}, {"head", 49152, 576, 1}};

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void time_layers(const Kernels& kernels, Weight format, int threads) {
  Crew crew(threads);
  size_t bytes = 0;
  for (const Layer& layer : kLayers) bytes += layer.count * kernels.packed_bytes(format, layer.n, layer.k);
  Pages pages(bytes);
  std::vector<std::vector<Matrix>> matrices;
  size_t at = 0;
  for (const Layer& layer : kLayers) {
    const size_t size = kernels.packed_bytes(format, layer.n, layer.k);
    matrices.emplace_back();
    const Stored weights = random_stored(format, static_cast<size_t>(64) * layer.k, 1);
    std::vector<int> order(layer.n);
    std::vector<float> factors(layer.n);
    for (int i = 0; i < layer.n; ++i) order[i] = i % 64;
    for (int i = 0; i < layer.count; ++i, at += size) {
      if (i == 0) {
        kernels.pack(format, weights.type, weights.raw.data(), 0, layer.n, order.data(), nullptr, layer.n, layer.k,
                     pages.data() + at, factors.data());
      } else {
        std::memcpy(pages.data() + at, matrices.back()[0].data, size);
      }
      matrices.back().push_back({format, layer.n, layer.k, size, pages.data() + at, nullptr});
    }
  }
  std::printf("%s, %s, %d threads, %.1f MB\nrows ", kernels.description, kFormatNames[static_cast<int>(format)], threads,
              bytes / 1e6);
  for (const Layer& layer : kLayers) std::printf("| %-7s ms GOP/s  GB/s ", layer.name);
  std::printf("|  all ms  tok/s  GB/s | quantize ms\n");
  const char* only = std::getenv("ROWS");
  for (const int rows : {1, 2, 4, 8, 12, 16, 32, 64, 256, 512}) {
    if (only != nullptr && std::atoi(only) != rows) continue;
    const std::vector<float> x = random_floats(static_cast<size_t>(rows) * 1536, 3, 1.0f);
    Pages results((static_cast<size_t>(std::min(rows, 64)) * 49152 + static_cast<size_t>(rows) * 3072) * sizeof(float));
    auto* out = reinterpret_cast<float*>(results.data());
    Pages memory(kernels.rows_bytes(rows, 1536));
    std::vector<std::unique_ptr<Pages>> scratch;
    for (int i = 0; i < threads; ++i) scratch.push_back(std::make_unique<Pages>(kernels.scratch_bytes(rows, 1536)));
    constexpr int kParts = sizeof kLayers / sizeof kLayers[0];
    double best[kParts], best_quantize[kParts];
    std::fill(best, best + kParts, 1e9);
    std::fill(best_quantize, best_quantize + kParts, 1e9);
    const double until = seconds() + (std::getenv("SECONDS_EACH") ? std::atof(std::getenv("SECONDS_EACH")) : 0.6);
    while (seconds() < until) {
      for (int part = 0; part < kParts; ++part) {
        const Layer& layer = kLayers[part];
        const int live = part == kParts - 1 ? std::min(rows, 64) : rows;  // of a long prompt the head sees few rows
        Rows placed;
        kernels.place_rows(&placed, memory.data(), live, layer.k);
        double start = seconds();
        crew.run([&](int i) {
          const int first = live * i / threads, end = live * (i + 1) / threads;
          kernels.quantize(x.data() + static_cast<size_t>(first) * layer.k, layer.k, first, end - first, &placed);
        });
        best_quantize[part] = std::min(best_quantize[part], seconds() - start);
        const int panels = layer.n / kernels.panel_outputs;
        start = seconds();
        for (const Matrix& matrix : matrices[part]) {
          crew.run([&](int i) {
            kernels.multiply(matrix, placed, out, layer.n, panels * i / threads, panels * (i + 1) / threads,
                             scratch[i]->data());
          });
        }
        best[part] = std::min(best[part], seconds() - start);
      }
    }
    double best_all = 0;
    for (const double one : best) best_all += one;
    std::printf("%4d ", rows);
    double quantize = 0;
    for (int part = 0; part < kParts; ++part) {
      const Layer& layer = kLayers[part];
      const int live = part == kParts - 1 ? std::min(rows, 64) : rows;
      const double products = 2e-9 * layer.count * layer.n * layer.k * live;
      std::printf("|   %7.3f %6.0f %5.1f  ", best[part] * 1e3, products / best[part],
                  layer.count * matrices[part][0].size_bytes / best[part] / 1e9);
      quantize += best_quantize[part] * layer.count;
    }
    std::printf("| %7.3f %6.0f %5.1f | %7.3f\n", best_all * 1e3, rows / best_all, bytes / best_all / 1e9,
                quantize * 1e3);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || std::strcmp(arguments[1], "time") != 0) return check();
  const char* why = nullptr;
  const Kernels* kernels = inferd::choose_kernels(count > 2 ? arguments[2] : nullptr, &why);
  if (kernels == nullptr) return std::printf("%s\n", why), 1;
  const char* format = count > 3 ? arguments[3] : "w8";
  const auto* found = std::find_if(std::begin(kFormatNames), std::end(kFormatNames),
                                   [format](const char* name) { return std::strcmp(name, format) == 0; });
  if (found == std::end(kFormatNames)) return std::printf("unknown format %s\n", format), 1;
  time_layers(*kernels, kFormats[found - kFormatNames], count > 4 ? std::atoi(arguments[4]) : 2);
  return 0;
}
