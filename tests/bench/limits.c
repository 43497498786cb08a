// What this machine can do at most: `limits FIGURE THREADS SECONDS BYTES` prints a rate and the instructions it was
// reached with. Rates are 1e9 bytes (memory_read) or 1e9 operations (gemm_bf16, gemm_int8) in a second; a
// multiplication and an addition are two operations. The products stay in the cache of each core, so that nothing but
// the arithmetic counts.

#define _GNU_SOURCE
#ifdef __x86_64__
#include <immintrin.h>
#endif
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROWS = 32, DEPTH_BYTES = 512, COLUMNS = 32 };  // of one product: 16 KiB for each factor

typedef struct {
    const char *instructions;
    double (*run)(uint8_t *data, size_t bytes);  // one round on a thread's own data; returns the work done
    size_t bytes;                                // data of a thread
} Figure;

typedef struct {
    const Figure *figure;
    uint8_t *data;
    double seconds, work, elapsed;
} Worker;

static pthread_barrier_t start;
static volatile float sink;  // keeps the compiler from dropping the arithmetic

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static double read_memory(uint8_t *data, size_t bytes) {
    const uint64_t *words = (const uint64_t *)data;
    uint64_t sums[32] = {0};
    for (size_t i = 0; i + 32 <= bytes / 8; i += 32)
        for (int lane = 0; lane < 32; lane++) sums[lane] ^= words[i + lane];
    for (int lane = 1; lane < 32; lane++) sums[0] ^= sums[lane];
    sink = (float)sums[0];
    return (double)bytes;
}

#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__)
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

static int have_tiles(void) { return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0; }

static void configure_tiles(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) config.row_bytes[tile] = 64, config.rows[tile] = 16;
    _tile_loadconfig(&config);
}

// Two by two tiles of results: each tile of a factor that is loaded is used twice.
#define TILE_PRODUCT(NAME, DOT, ELEMENT_BYTES)                                                 \
    static double NAME(uint8_t *data, size_t bytes) {                                          \
        const uint8_t *a = data, *b = data + ROWS * DEPTH_BYTES;                               \
        (void)bytes;                                                                           \
        configure_tiles();                                                                     \
        for (int round = 0; round < 4096; round++) {                                           \
            __asm__ volatile("" ::: "memory");  /* each round is computed anew */              \
            _tile_zero(0);                                                                     \
            _tile_zero(1);                                                                     \
            _tile_zero(2);                                                                     \
            _tile_zero(3);                                                                     \
            for (int k = 0; k < DEPTH_BYTES; k += 64) {                                        \
                _tile_loadd(4, a + k, DEPTH_BYTES);                                            \
                _tile_loadd(6, b + k * COLUMNS, 64);                                           \
                _tile_loadd(7, b + k * COLUMNS + 1024, 64);                                    \
                DOT(0, 4, 6);                                                                  \
                DOT(1, 4, 7);                                                                  \
                _tile_loadd(5, a + 16 * DEPTH_BYTES + k, DEPTH_BYTES);                         \
                DOT(2, 5, 6);                                                                  \
                DOT(3, 5, 7);                                                                  \
            }                                                                                  \
        }                                                                                      \
        _tile_stored(0, data + 2 * ROWS * DEPTH_BYTES, 64);                                    \
        _tile_release();                                                                       \
        return 4096.0 * 2 * ROWS * COLUMNS * DEPTH_BYTES / ELEMENT_BYTES;                      \
    }
TILE_PRODUCT(tile_bf16, _tile_dpbf16ps, 2)
TILE_PRODUCT(tile_int8, _tile_dpbssd, 1)
#endif

// Six rows by four vectors of results: 24 of the 32 registers.
#define VECTOR_PRODUCT(NAME, VECTOR, ZERO, DOT, CAST, SUM, ELEMENT_BYTES)                      \
    static double NAME(uint8_t *data, size_t bytes) {                                          \
        const uint8_t *a = data, *b = data + ROWS * DEPTH_BYTES;                               \
        float total = 0;                                                                       \
        (void)bytes;                                                                           \
        for (int round = 0; round < 4096; round++) {                                           \
            __asm__ volatile("" ::: "memory");  /* each round is computed anew */              \
            VECTOR c[6][4];                                                                    \
            _Pragma("GCC unroll 24") for (int i = 0; i < 24; i++) c[i / 4][i % 4] = ZERO();    \
            for (int k = 0; k < DEPTH_BYTES / 4; k++) {                                        \
                _Pragma("GCC unroll 6") for (int i = 0; i < 6; i++) {                          \
                    int32_t four;                                                              \
                    memcpy(&four, a + i * DEPTH_BYTES + 4 * k, 4);                             \
                    __m512i row = _mm512_set1_epi32(four);                                     \
                    _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++)                        \
                        c[i][j] = DOT(c[i][j], CAST(row), CAST(_mm512_load_si512(b + 256 * (k % 64) + 64 * j))); \
                }                                                                              \
            }                                                                                  \
            _Pragma("GCC unroll 24") for (int i = 0; i < 24; i++) total += SUM(c[i / 4][i % 4]); \
        }                                                                                      \
        sink = total;                                                                          \
        return 4096.0 * 2 * 6 * 64 * DEPTH_BYTES / ELEMENT_BYTES;                              \
    }
#ifdef __AVX512BF16__
VECTOR_PRODUCT(vector_bf16, __m512, _mm512_setzero_ps, _mm512_dpbf16_ps, (__m512bh), _mm512_reduce_add_ps, 2)
#endif
#ifdef __AVX512VNNI__
VECTOR_PRODUCT(vector_int8, __m512i, _mm512_setzero_si512, _mm512_dpbusd_epi32, (__m512i), _mm512_reduce_add_epi32, 1)
#endif

// The compiler's own vectors: what is left on a processor with neither.
#define PLAIN_PRODUCT(NAME, ELEMENT, RESULT, LOAD)                                             \
    static double NAME(uint8_t *data, size_t bytes) {                                          \
        enum { DEPTH = DEPTH_BYTES / sizeof(ELEMENT) };                                        \
        const ELEMENT *a = (const ELEMENT *)data, *b = a + ROWS * DEPTH;                       \
        RESULT total = 0;                                                                      \
        (void)bytes;                                                                           \
        for (int round = 0; round < 256; round++) {                                            \
            __asm__ volatile("" ::: "memory");  /* each round is computed anew */              \
            RESULT c[4][COLUMNS] = {{0}};                                                      \
            for (int k = 0; k < DEPTH; k++)                                                    \
                for (int i = 0; i < 4; i++)                                                    \
                    for (int j = 0; j < COLUMNS; j++) c[i][j] += LOAD(a[i * DEPTH + k]) * LOAD(b[k * COLUMNS + j]); \
            total += c[round % 4][round % COLUMNS];                                            \
        }                                                                                      \
        sink = (float)total;                                                                   \
        return 256.0 * 2 * 4 * COLUMNS * DEPTH;                                                \
    }

static inline float widen(uint16_t bf16) {
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
PLAIN_PRODUCT(plain_bf16, uint16_t, float, widen)
PLAIN_PRODUCT(plain_int8, int8_t, int32_t, (int32_t))

static Figure choose(const char *name, size_t bytes) {
    size_t product = 2 * ROWS * DEPTH_BYTES + 1024;
    int bf16 = !strcmp(name, "gemm_bf16");
    if (!strcmp(name, "memory_read")) return (Figure){"compiler's vectors", read_memory, bytes};
#ifdef __AMX_TILE__
    if (have_tiles()) return bf16 ? (Figure){"AMX-BF16", tile_bf16, product} : (Figure){"AMX-INT8", tile_int8, product};
#endif
#ifdef __AVX512BF16__
    if (bf16) return (Figure){"AVX512-BF16", vector_bf16, product};
#endif
#ifdef __AVX512VNNI__
    if (!bf16) return (Figure){"AVX512-VNNI", vector_int8, product};
#endif
    return (Figure){"compiler's vectors", bf16 ? plain_bf16 : plain_int8, product};
}

static void *work(void *argument) {
    Worker *w = argument;
    size_t pages = (w->figure->bytes + 0x3fffff) & ~(size_t)0x1fffff;
    w->data = mmap(NULL, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w->data == MAP_FAILED) perror("mmap"), exit(1);
    madvise(w->data, pages, MADV_HUGEPAGE);
    memset(w->data, 1, pages);
    w->figure->run(w->data, w->figure->bytes);
    pthread_barrier_wait(&start);
    double begin = now();
    do w->work += w->figure->run(w->data, w->figure->bytes);
    while ((w->elapsed = now() - begin) < w->seconds);
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 5) return fprintf(stderr, "limits FIGURE THREADS SECONDS BYTES\n"), 2;
    int threads = atoi(arguments[2]);
    Figure figure = choose(arguments[1], strtoull(arguments[4], NULL, 10) / threads);
    pthread_t *ids = calloc(threads, sizeof *ids);
    Worker *workers = calloc(threads, sizeof *workers);
    double rate = 0;
    pthread_barrier_init(&start, NULL, threads);
    for (int i = 0; i < threads; i++) {
        workers[i] = (Worker){.figure = &figure, .seconds = atof(arguments[3])};
        pthread_create(&ids[i], NULL, work, &workers[i]);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        rate += workers[i].work / workers[i].elapsed;
    }
    printf("%.3f %s\n", rate / 1e9, figure.instructions);
    return 0;
}
