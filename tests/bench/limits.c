// What this machine can do at most: `limits FIGURE THREADS SECONDS BYTES` prints a rate and the way it was reached.
// Rates are 1e9 bytes (memory_read) or 1e9 operations (gemm_*) in a second; a multiplication and an addition are two
// operations. The products stay in the cache of each core, so that nothing but the arithmetic counts.
//
// Of each figure there are several ways: which instructions, and how many results registers hold. They take turns in
// short windows that all threads begin together, and the best window of all counts, with the way that reached it.

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
enum { ROUNDS = 512, MOST_THREADS = 1024 };
static const double WINDOW_S = 0.02;

typedef struct {
    const char *figure, *way;
    double (*run)(uint8_t *data, size_t bytes);  // one round on a thread's own data; returns the work done
} Candidate;

static size_t data_bytes;  // of a thread
static int threads;
static double seconds;
static const Candidate *candidates;
static int candidate_count;
static double best_rate;
static const char *best_way;
static double window_work[MOST_THREADS], window_s[MOST_THREADS];
static pthread_barrier_t meeting;
static volatile float sink;  // keeps the compiler from dropping the arithmetic

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

// `streams` parts of the memory at once, four cache lines of each in turn; lines so far on are asked for, 0 for none.
static inline __attribute__((always_inline)) double read_lines(const uint8_t *data, size_t bytes, int streams,
                                                               int ahead) {
    enum { STEP = 256 };
    const size_t each = bytes / streams / STEP * STEP;
    uint64_t sums[32] = {0};
    for (size_t at = 0; at < each; at += STEP)
        for (int stream = 0; stream < streams; stream++) {
            const uint64_t *words = (const uint64_t *)(data + stream * each + at);
            for (int line = 0; ahead && line < STEP; line += 64)
                __builtin_prefetch((const uint8_t *)words + ahead + line);
            for (int lane = 0; lane < 32; lane++) sums[lane] ^= words[lane];
        }
    for (int lane = 1; lane < 32; lane++) sums[0] ^= sums[lane];
    sink = (float)sums[0];
    return (double)each * streams;
}
static double read_1(uint8_t *data, size_t bytes) { return read_lines(data, bytes, 1, 0); }
static double read_1_near(uint8_t *data, size_t bytes) { return read_lines(data, bytes, 1, 1024); }
static double read_1_far(uint8_t *data, size_t bytes) { return read_lines(data, bytes, 1, 4096); }
static double read_4(uint8_t *data, size_t bytes) { return read_lines(data, bytes, 4, 0); }
static double read_4_far(uint8_t *data, size_t bytes) { return read_lines(data, bytes, 4, 2048); }

// Products of R rows of the one factor with V vectors of columns of the other, whose results registers hold. MADE
// follows each FOLD steps of four bytes of inputs: what makes results of sums that would not hold more.
#define TILED(NAME, R, V, VECTOR, WIDTH, ZERO, LOAD, SPLAT, DOT, FOLD, MADE, ELEMENT_BYTES)                        \
    static double NAME(uint8_t *data, size_t bytes) {                                                              \
        const uint8_t *a = data, *b = data + ROWS * DEPTH_BYTES;                                                   \
        VECTOR all = ZERO();                                                                                       \
        (void)bytes;                                                                                               \
        for (int round = 0; round < ROUNDS; round++) {                                                             \
            __asm__ volatile("" ::: "memory"); /* each round is computed anew */                                   \
            for (int begin = 0; begin < DEPTH_BYTES / 4; begin += FOLD) {                                          \
                VECTOR c[R][V];                                                                                    \
                _Pragma("GCC unroll 32") for (int i = 0; i < R * V; i++) c[i / V][i % V] = ZERO();                 \
                for (int k = begin; k < begin + FOLD; k++) {                                                       \
                    VECTOR w[V];                                                                                   \
                    _Pragma("GCC unroll 8") for (int j = 0; j < V; j++)                                            \
                        w[j] = LOAD((const void *)(b + V * WIDTH * (k % (ROWS * DEPTH_BYTES / (V * WIDTH))) + WIDTH * j)); \
                    _Pragma("GCC unroll 16") for (int i = 0; i < R; i++) {                                         \
                        int32_t four;                                                                              \
                        memcpy(&four, a + i * DEPTH_BYTES + 4 * k, 4);                                             \
                        const VECTOR row = SPLAT(four);                                                            \
                        _Pragma("GCC unroll 8") for (int j = 0; j < V; j++) c[i][j] = DOT(c[i][j], row, w[j]);     \
                    }                                                                                              \
                }                                                                                                  \
                _Pragma("GCC unroll 32") for (int i = 0; i < R * V; i++) all = MADE(all, c[i / V][i % V]);         \
            }                                                                                                      \
        }                                                                                                          \
        int32_t first;                                                                                             \
        memcpy(&first, &all, 4);                                                                                   \
        sink = (float)first;                                                                                       \
        return (double)ROUNDS * 2 * R * V * (WIDTH / 4) * DEPTH_BYTES / ELEMENT_BYTES;                             \
    }
enum { WHOLE = DEPTH_BYTES / 4, BLOCK = 8 };  // steps after which sums are taken: at the end; of 32 bytes

#if defined(__AVX2__)
#define DOT_BYTES(c, row, w) \
    _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(w, row), _mm256_set1_epi16(1)))
#define DOT_NIBBLES(c, row, w) _mm256_add_epi16(c, _mm256_maddubs_epi16(w, row))
#define DOT_WORDS(c, row, w) _mm256_add_epi32(c, _mm256_madd_epi16(w, row))
#define MADE_WORDS(all, c) _mm256_add_epi32(all, _mm256_madd_epi16(c, _mm256_set1_epi16(1)))
#define TILED_256(NAME, R, V, DOT, FOLD, MADE, ELEMENT_BYTES)                                                   \
    TILED(NAME, R, V, __m256i, 32, _mm256_setzero_si256, _mm256_load_si256, _mm256_set1_epi32, DOT, FOLD, MADE, \
          ELEMENT_BYTES)
TILED_256(avx2_bytes_2x4, 2, 4, DOT_BYTES, WHOLE, _mm256_add_epi32, 1)
TILED_256(avx2_bytes_4x2, 4, 2, DOT_BYTES, WHOLE, _mm256_add_epi32, 1)
TILED_256(avx2_bytes_6x2, 6, 2, DOT_BYTES, WHOLE, _mm256_add_epi32, 1)
TILED_256(avx2_bytes_4x3, 4, 3, DOT_BYTES, WHOLE, _mm256_add_epi32, 1)
TILED_256(avx2_bytes_8x1, 8, 1, DOT_BYTES, WHOLE, _mm256_add_epi32, 1)
TILED_256(avx2_words_4x2, 4, 2, DOT_WORDS, WHOLE, _mm256_add_epi32, 2)
TILED_256(avx2_words_6x2, 6, 2, DOT_WORDS, WHOLE, _mm256_add_epi32, 2)
TILED_256(avx2_nibbles_2x4, 2, 4, DOT_NIBBLES, BLOCK, MADE_WORDS, 1)
TILED_256(avx2_nibbles_4x2, 4, 2, DOT_NIBBLES, BLOCK, MADE_WORDS, 1)
TILED_256(avx2_nibbles_6x2, 6, 2, DOT_NIBBLES, BLOCK, MADE_WORDS, 1)
TILED_256(avx2_nibbles_4x3, 4, 3, DOT_NIBBLES, BLOCK, MADE_WORDS, 1)
TILED_256(avx2_nibbles_8x1, 8, 1, DOT_NIBBLES, BLOCK, MADE_WORDS, 1)
#endif
#if defined(__AVXVNNI__)
#define DOT_FOURS(c, row, w) _mm256_dpbusd_avx_epi32(c, w, row)
TILED_256(vnni_2x4, 2, 4, DOT_FOURS, WHOLE, _mm256_add_epi32, 1)
TILED_256(vnni_4x2, 4, 2, DOT_FOURS, WHOLE, _mm256_add_epi32, 1)
TILED_256(vnni_6x2, 6, 2, DOT_FOURS, WHOLE, _mm256_add_epi32, 1)
TILED_256(vnni_4x3, 4, 3, DOT_FOURS, WHOLE, _mm256_add_epi32, 1)
#endif

#if defined(__AVX512VNNI__)
#define DOT_FOURS_512(c, row, w) _mm512_dpbusd_epi32(c, row, w)
#define TILED_512(NAME, R, V)                                                                                  \
    TILED(NAME, R, V, __m512i, 64, _mm512_setzero_si512, _mm512_load_si512, _mm512_set1_epi32, DOT_FOURS_512, \
          WHOLE, _mm512_add_epi32, 1)
TILED_512(avx512_int8_4x4, 4, 4)
TILED_512(avx512_int8_6x4, 6, 4)
TILED_512(avx512_int8_8x2, 8, 2)
TILED_512(avx512_int8_8x3, 8, 3)
TILED_512(avx512_int8_12x2, 12, 2)
#endif
#if defined(__AVX512BF16__)
#define LOAD_PS(at) ((__m512)_mm512_load_si512(at))
#define SPLAT_PS(four) ((__m512)_mm512_set1_epi32(four))
#define DOT_BF16(c, row, w) _mm512_dpbf16_ps(c, (__m512bh)(row), (__m512bh)(w))
#define TILED_BF16(NAME, R, V) \
    TILED(NAME, R, V, __m512, 64, _mm512_setzero_ps, LOAD_PS, SPLAT_PS, DOT_BF16, WHOLE, _mm512_add_ps, 2)
TILED_BF16(avx512_bf16_4x4, 4, 4)
TILED_BF16(avx512_bf16_6x4, 6, 4)
TILED_BF16(avx512_bf16_8x3, 8, 3)
TILED_BF16(avx512_bf16_12x2, 12, 2)
#endif

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
#define TILE_PRODUCT(NAME, DOT, ELEMENT_BYTES)                                      \
    static double NAME(uint8_t *data, size_t bytes) {                               \
        const uint8_t *a = data, *b = data + ROWS * DEPTH_BYTES;                    \
        (void)bytes;                                                                \
        configure_tiles();                                                          \
        for (int round = 0; round < ROUNDS; round++) {                              \
            __asm__ volatile("" ::: "memory"); /* each round is computed anew */    \
            _tile_zero(0);                                                          \
            _tile_zero(1);                                                          \
            _tile_zero(2);                                                          \
            _tile_zero(3);                                                          \
            for (int k = 0; k < DEPTH_BYTES; k += 64) {                             \
                _tile_loadd(4, a + k, DEPTH_BYTES);                                 \
                _tile_loadd(6, b + k * COLUMNS, 64);                                \
                _tile_loadd(7, b + k * COLUMNS + 1024, 64);                         \
                DOT(0, 4, 6);                                                       \
                DOT(1, 4, 7);                                                       \
                _tile_loadd(5, a + 16 * DEPTH_BYTES + k, DEPTH_BYTES);              \
                DOT(2, 5, 6);                                                       \
                DOT(3, 5, 7);                                                       \
            }                                                                       \
        }                                                                           \
        _tile_stored(0, data + 2 * ROWS * DEPTH_BYTES, 64);                         \
        _tile_release();                                                            \
        return (double)ROUNDS * 2 * ROWS * COLUMNS * DEPTH_BYTES / ELEMENT_BYTES;   \
    }
TILE_PRODUCT(tile_bf16, _tile_dpbf16ps, 2)
TILE_PRODUCT(tile_int8, _tile_dpbssd, 1)
#else
static int have_tiles(void) { return 0; }
#endif

// The compiler's own vectors: what is left on a processor with none of these.
#define PLAIN_PRODUCT(NAME, ELEMENT, RESULT, LOAD)                                                                  \
    static double NAME(uint8_t *data, size_t bytes) {                                                               \
        enum { DEPTH = DEPTH_BYTES / sizeof(ELEMENT) };                                                             \
        const ELEMENT *a = (const ELEMENT *)data, *b = a + ROWS * DEPTH;                                            \
        RESULT total = 0;                                                                                           \
        (void)bytes;                                                                                                \
        for (int round = 0; round < 64; round++) {                                                                  \
            __asm__ volatile("" ::: "memory"); /* each round is computed anew */                                    \
            RESULT c[4][COLUMNS] = {{0}};                                                                           \
            for (int k = 0; k < DEPTH; k++)                                                                         \
                for (int i = 0; i < 4; i++)                                                                         \
                    for (int j = 0; j < COLUMNS; j++) c[i][j] += LOAD(a[i * DEPTH + k]) * LOAD(b[k * COLUMNS + j]); \
            total += c[round % 4][round % COLUMNS];                                                                 \
        }                                                                                                           \
        sink = (float)total;                                                                                        \
        return 64.0 * 2 * 4 * COLUMNS * DEPTH;                                                                      \
    }

static inline float widen(uint16_t bf16) {
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
PLAIN_PRODUCT(plain_bf16, uint16_t, float, widen)
PLAIN_PRODUCT(plain_int8, int8_t, int32_t, (int32_t))

// gemm_int4: numbers of four bits, that lie in bytes, with those of eight. Only AVX2 has a quicker way for them.
#define BOTH(way, run) {"gemm_int8", way, run}, {"gemm_int4", way, run}
static const Candidate kCandidates[] = {
    {"memory_read", "one stream", read_1},
    {"memory_read", "one stream, asked for 1 KiB ahead", read_1_near},
    {"memory_read", "one stream, asked for 4 KiB ahead", read_1_far},
    {"memory_read", "four streams", read_4},
    {"memory_read", "four streams, asked for 2 KiB ahead", read_4_far},
    BOTH("compiler's vectors", plain_int8),
    {"gemm_bf16", "compiler's vectors", plain_bf16},
#if defined(__AVX2__)
    BOTH("AVX2 vpmaddubsw and vpmaddwd, 2 rows x 4 vectors", avx2_bytes_2x4),
    BOTH("AVX2 vpmaddubsw and vpmaddwd, 4 rows x 2 vectors", avx2_bytes_4x2),
    BOTH("AVX2 vpmaddubsw and vpmaddwd, 6 rows x 2 vectors", avx2_bytes_6x2),
    BOTH("AVX2 vpmaddubsw and vpmaddwd, 4 rows x 3 vectors", avx2_bytes_4x3),
    BOTH("AVX2 vpmaddubsw and vpmaddwd, 8 rows x 1 vector", avx2_bytes_8x1),
    BOTH("AVX2 vpmaddwd of 16 bits, 4 rows x 2 vectors", avx2_words_4x2),
    BOTH("AVX2 vpmaddwd of 16 bits, 6 rows x 2 vectors", avx2_words_6x2),
    {"gemm_int4", "AVX2 vpmaddubsw summed in 16 bits, 2 rows x 4 vectors", avx2_nibbles_2x4},
    {"gemm_int4", "AVX2 vpmaddubsw summed in 16 bits, 4 rows x 2 vectors", avx2_nibbles_4x2},
    {"gemm_int4", "AVX2 vpmaddubsw summed in 16 bits, 6 rows x 2 vectors", avx2_nibbles_6x2},
    {"gemm_int4", "AVX2 vpmaddubsw summed in 16 bits, 4 rows x 3 vectors", avx2_nibbles_4x3},
    {"gemm_int4", "AVX2 vpmaddubsw summed in 16 bits, 8 rows x 1 vector", avx2_nibbles_8x1},
#endif
#if defined(__AVXVNNI__)
    BOTH("AVX-VNNI, 2 rows x 4 vectors", vnni_2x4),
    BOTH("AVX-VNNI, 4 rows x 2 vectors", vnni_4x2),
    BOTH("AVX-VNNI, 6 rows x 2 vectors", vnni_6x2),
    BOTH("AVX-VNNI, 4 rows x 3 vectors", vnni_4x3),
#endif
#if defined(__AVX512VNNI__)
    BOTH("AVX512-VNNI, 4 rows x 4 vectors", avx512_int8_4x4),
    BOTH("AVX512-VNNI, 6 rows x 4 vectors", avx512_int8_6x4),
    BOTH("AVX512-VNNI, 8 rows x 2 vectors", avx512_int8_8x2),
    BOTH("AVX512-VNNI, 8 rows x 3 vectors", avx512_int8_8x3),
    BOTH("AVX512-VNNI, 12 rows x 2 vectors", avx512_int8_12x2),
#endif
#if defined(__AVX512BF16__)
    {"gemm_bf16", "AVX512-BF16, 4 rows x 4 vectors", avx512_bf16_4x4},
    {"gemm_bf16", "AVX512-BF16, 6 rows x 4 vectors", avx512_bf16_6x4},
    {"gemm_bf16", "AVX512-BF16, 8 rows x 3 vectors", avx512_bf16_8x3},
    {"gemm_bf16", "AVX512-BF16, 12 rows x 2 vectors", avx512_bf16_12x2},
#endif
};
static const Candidate kTiles[] = {  // nothing else comes near them
#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__)
    BOTH("AMX-INT8, 2 x 2 tiles", tile_int8),
    {"gemm_bf16", "AMX-BF16, 2 x 2 tiles", tile_bf16},
#endif
    {"", "", NULL},
};

// The candidates of a figure; all of them in `chosen`.
static int choose(const char *figure, Candidate *chosen) {
    const Candidate *from = kCandidates;
    int all = sizeof kCandidates / sizeof *kCandidates, count = 0;
    if (strncmp(figure, "gemm", 4) == 0 && have_tiles()) from = kTiles, all = sizeof kTiles / sizeof *kTiles;
    for (int i = 0; i < all; i++)
        if (strcmp(from[i].figure, figure) == 0) chosen[count++] = from[i];
    return count;
}

// One thread takes the sum of a window's rates.
static void take_window(const Candidate *candidate) {
    double work = 0, longest_s = 0;
    for (int i = 0; i < threads; i++) {
        work += window_work[i];
        if (window_s[i] > longest_s) longest_s = window_s[i];
    }
    if (work / longest_s > best_rate) best_rate = work / longest_s, best_way = candidate->way;
}

static void *work(void *argument) {
    const int thread = (int)(intptr_t)argument;
    const size_t pages = (data_bytes + 0x3fffff) & ~(size_t)0x1fffff;
    uint8_t *data = mmap(NULL, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) perror("mmap"), exit(1);
    madvise(data, pages, MADV_HUGEPAGE);
    memset(data, 1, pages);
    static double until;
    for (int turn = 0;; turn++) {
        const Candidate *candidate = &candidates[turn % candidate_count];
        if (turn == 0 && thread == 0) until = now() + seconds;
        if (pthread_barrier_wait(&meeting) == PTHREAD_BARRIER_SERIAL_THREAD && turn > 0)
            take_window(&candidates[(turn - 1) % candidate_count]);
        static int over;
        if (thread == 0) over = turn >= candidate_count && now() > until;  // each has had its turn
        pthread_barrier_wait(&meeting);
        if (over) return NULL;
        const double begin = now();
        window_work[thread] = 0;
        do window_work[thread] += candidate->run(data, data_bytes);
        while ((window_s[thread] = now() - begin) < WINDOW_S);
    }
}

int main(int count, char **arguments) {
    if (count != 5) return fprintf(stderr, "limits FIGURE THREADS SECONDS BYTES\n"), 2;
    static Candidate chosen[sizeof kCandidates / sizeof *kCandidates];
    threads = atoi(arguments[2]);
    seconds = atof(arguments[3]);
    candidates = chosen;
    candidate_count = choose(arguments[1], chosen);
    if (candidate_count == 0) return fprintf(stderr, "there is no figure %s\n", arguments[1]), 2;
    if (threads < 1 || threads > MOST_THREADS) return fprintf(stderr, "%d threads\n", threads), 2;
    data_bytes = 2 * ROWS * DEPTH_BYTES + 1024;
    if (strcmp(arguments[1], "memory_read") == 0) data_bytes = strtoull(arguments[4], NULL, 10) / threads;
    pthread_t *ids = calloc(threads, sizeof *ids);
    pthread_barrier_init(&meeting, NULL, threads);
    for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, work, (void *)(intptr_t)i);
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    printf("%.3f %s, best of %d ways\n", best_rate / 1e9, best_way, candidate_count);
    return 0;
}
