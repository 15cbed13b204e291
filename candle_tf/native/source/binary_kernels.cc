// The loops of `binary_conv.h`. Compiled once for each instruction set, with CANDLE_KERNELS set to
// the name of the function that gives them.

#include "binary_conv.h"

#include "vectors.h"

namespace {

using candle::kBlock;
using candle::Type;

#if defined(__AVX512F__)
constexpr int kWords = 8;
#elif defined(__AVX2__)
constexpr int kWords = 4;
#else
constexpr int kWords = 2;
#endif

typedef uint64_t Longs __attribute__((vector_size(kWords * 8)));
typedef float Counted __attribute__((vector_size(kWords * 4)));
typedef uint32_t CountedBits __attribute__((vector_size(kWords * 4)));
typedef uint16_t CountedHalves __attribute__((vector_size(kWords * 2)));

inline Longs bits_set(Longs x) {
#if defined(__AVX512VPOPCNTDQ__)
  return (Longs)_mm512_popcnt_epi64((__m512i)x);
#elif defined(__AVX512BW__)
  const __m512i table = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i low = _mm512_set1_epi8(15);
  const __m512i a = _mm512_and_si512((__m512i)x, low);
  const __m512i b = _mm512_and_si512(_mm512_srli_epi16((__m512i)x, 4), low);
  const __m512i counts =
      _mm512_add_epi8(_mm512_shuffle_epi8(table, a), _mm512_shuffle_epi8(table, b));
  return (Longs)_mm512_sad_epu8(counts, _mm512_setzero_si512());
#elif defined(__AVX2__)
  const __m256i table = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i a = _mm256_and_si256((__m256i)x, low);
  const __m256i b = _mm256_and_si256(_mm256_srli_epi16((__m256i)x, 4), low);
  const __m256i counts =
      _mm256_add_epi8(_mm256_shuffle_epi8(table, a), _mm256_shuffle_epi8(table, b));
  return (Longs)_mm256_sad_epu8(counts, _mm256_setzero_si256());
#elif defined(__aarch64__)
  return (Longs)vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(vcntq_u8((uint8x16_t)x))));
#else
  x = x - ((x >> 1) & 0x5555555555555555u);
  x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  x = x + (x >> 8);
  x = x + (x >> 16);
  return (x + (x >> 32)) & 0x7fu;
#endif
}

template <typename T>
inline void pack_as(const T* values, int64_t count, uint64_t* words) {
  constexpr int kTop = sizeof(T) * 8 - 1;
  int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    uint64_t word = 0;
#if defined(__AVX512BW__) && defined(__AVX512DQ__)
    if constexpr (sizeof(T) == 2) {
      word = _mm512_movepi16_mask(_mm512_loadu_si512(values + i)) |
             uint64_t(_mm512_movepi16_mask(_mm512_loadu_si512(values + i + 32))) << 32;
    } else {
      for (int j = 0; j < 4; ++j) {
        word |= uint64_t(_mm512_movepi32_mask(_mm512_loadu_si512(values + i + 16 * j))) << 16 * j;
      }
    }
#else
    for (int j = 0; j < 64; ++j) word |= uint64_t(values[i + j] >> kTop) << j;
#endif
    words[i / 64] = word;
  }
  if (i < count) {
    uint64_t word = 0;
    for (int j = 0; i + j < count; ++j) word |= uint64_t(values[i + j] >> kTop) << j;
    words[i / 64] = word;
  }
}

void pack(const void* values, Type type, int64_t count, uint64_t* words) {
  if (type == candle::kFloat) {
    pack_as(static_cast<const uint32_t*>(values), count, words);
  } else {
    pack_as(static_cast<const uint16_t*>(values), count, words);
  }
}

template <typename T>
inline void set_bits_as(const T* values, int64_t columns, int bit, int64_t stride,
                        uint64_t* words) {
  constexpr int kTop = sizeof(T) * 8 - 1;
  for (; columns >= kBlock; columns -= kBlock, values += kBlock, words += stride) {
    for (int n = 0; n < kBlock; ++n) words[n] |= uint64_t(values[n] >> kTop) << bit;
  }
  for (int n = 0; n < columns; ++n) words[n] |= uint64_t(values[n] >> kTop) << bit;
}

void set_bits(const void* values, Type type, int64_t columns, int bit, int64_t stride,
              uint64_t* words) {
  if (type == candle::kFloat) {
    set_bits_as(static_cast<const uint32_t*>(values), columns, bit, stride, words);
  } else {
    set_bits_as(static_cast<const uint16_t*>(values), columns, bit, stride, words);
  }
}

inline void put(float* to, Counted y) { __builtin_memcpy(to, &y, sizeof(y)); }

// Whole numbers below 2^24: rounding to nearest, ties to even.
inline void put(uint16_t* to, Counted y) {
  const CountedBits bits = (CountedBits)y;
  const CountedBits rounded = (bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16;
  const CountedHalves halves = __builtin_convertvector(rounded, CountedHalves);
  __builtin_memcpy(to, &halves, sizeof(halves));
}

// Rows and vectors of columns whose counts are kept in registers.
constexpr int kRowsTogether = kWords == 8 ? 6 : 2;
constexpr int kVectorsTogether = kWords == 8 ? 4 : 2;

// Rows of the left operand, and what counts of them.
struct Left {
  const uint64_t* bits;
  const uint64_t* masks;
  const int32_t* sizes;
};

template <int kRows, bool kMasked, typename T>
inline void tile(const Left& a, const uint64_t* b, int64_t words, int64_t columns, float magnitude,
                 T* y, int64_t y_stride) {
  for (int first = 0; first < kBlock; first += kVectorsTogether * kWords) {
    if (first >= columns) return;
    Longs counts[kRows][kVectorsTogether] = {};
    const uint64_t* from = b + first;
    for (int64_t p = 0; p < words; ++p, from += kBlock) {
      Longs right[kVectorsTogether];
      for (int v = 0; v < kVectorsTogether; ++v) {
        __builtin_memcpy(&right[v], from + v * kWords, sizeof(Longs));
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Longs left = a.bits[r * words + p] - Longs{};
        const Longs mask = (kMasked ? a.masks[r * words + p] : ~uint64_t(0)) - Longs{};
#pragma GCC unroll 4
        for (int v = 0; v < kVectorsTogether; ++v) {
          counts[r][v] += bits_set(kMasked ? (left ^ right[v]) & mask : left ^ right[v]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectorsTogether; ++v) {
        const int column = first + v * kWords;
        if (column >= columns) break;
        const Counted y_values =
            (float(a.sizes[r]) - 2.0f * __builtin_convertvector(counts[r][v], Counted)) *
            magnitude;
        T* to = y + r * y_stride + column;
        if (column + kWords <= columns) {
          put(to, y_values);
        } else {
          T some[kWords];
          put(some, y_values);
          __builtin_memcpy(to, some, (columns - column) * sizeof(T));
        }
      }
    }
  }
}

template <bool kMasked, typename T>
inline void multiply_as(Left a, const uint64_t* b, int64_t rows, int64_t words, int64_t columns,
                        float magnitude, T* y, int64_t y_stride) {
  const auto next = [&](int64_t count) {
    a.bits += count * words;
    if (kMasked) a.masks += count * words;
    a.sizes += count;
    y += count * y_stride;
    rows -= count;
  };
  for (; rows >= kRowsTogether; next(kRowsTogether)) {
    tile<kRowsTogether, kMasked>(a, b, words, columns, magnitude, y, y_stride);
  }
  for (; rows > 0; next(1)) tile<1, kMasked>(a, b, words, columns, magnitude, y, y_stride);
}

template <typename T>
inline void multiply_of(const Left& a, const uint64_t* b, int64_t rows, int64_t words,
                        int64_t columns, float magnitude, T* y, int64_t y_stride) {
  a.masks ? multiply_as<true>(a, b, rows, words, columns, magnitude, y, y_stride)
          : multiply_as<false>(a, b, rows, words, columns, magnitude, y, y_stride);
}

void multiply(const uint64_t* a, const uint64_t* masks, const int32_t* sizes, const uint64_t* b,
              int64_t rows, int64_t words, int64_t columns, float magnitude, void* y, Type type,
              int64_t y_stride) {
  const Left left = {a, masks, sizes};
  if (type == candle::kFloat) {
    multiply_of(left, b, rows, words, columns, magnitude, static_cast<float*>(y), y_stride);
  } else {
    multiply_of(left, b, rows, words, columns, magnitude, static_cast<uint16_t*>(y), y_stride);
  }
}

#define CANDLE_TEXT_OF(name) #name
#define CANDLE_TEXT(name) CANDLE_TEXT_OF(name)

}  // namespace

namespace candle {

const BinaryKernels& CANDLE_KERNELS() {
  static constexpr BinaryKernels kernels = {CANDLE_TEXT(CANDLE_KERNELS), pack, set_bits, multiply};
  return kernels;
}

}  // namespace candle
