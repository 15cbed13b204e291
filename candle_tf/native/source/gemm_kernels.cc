// The loops of `gemm.h`. Compiled once for each instruction set, with CANDLE_KERNELS set to the name
// of the function that gives them.

#include "gemm.h"

#include "vectors.h"

namespace {

using candle::kRowStep;
using candle::Segment;
using candle::Type;

// A tile's sums, two vectors of each row, and what they are made of stay in registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
constexpr int kColumns = 2 * kLanes;
// Units of a right panel that are fetched before they are needed.
constexpr int kAhead = 12;

#if defined(__AVX512BF16__)
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif

template <bool kPairs>
inline Floats product(uint32_t left, Floats right, Floats sum) {
#if defined(__AVX512BF16__)
  if constexpr (kPairs) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(left),
                                    (__m512bh)right);
  }
#endif
  float value;
  __builtin_memcpy(&value, &left, sizeof(value));
  return madd(filled(value), right, sum);
}

template <bool kPairs, bool kByRows>
void multiply_as(const Segment* segments, int64_t count, int64_t left_step, float* y,
                 int64_t y_step, bool add) {
  Floats sums[kRows][2];
  // Unrolled, so that the sums are never in memory.
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      sums[r][v] = add ? load<false>(y + r * y_step + v * kLanes, 0) : Floats{};
    }
  }
  for (int64_t s = 0; s < count; ++s) {
    const uint32_t* left = segments[s].left;
    const float* right = reinterpret_cast<const float*>(segments[s].right);
    for (int64_t u = 0; u < segments[s].units; ++u, right += kColumns) {
      __builtin_prefetch(right + kAhead * kColumns);
      __builtin_prefetch(right + kAhead * kColumns + kLanes);
      const Floats first = load<false>(right, 0), second = load<false>(right + kLanes, 0);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const uint32_t value = left[kByRows ? r * kRowStep : r];
        sums[r][0] = product<kPairs>(value, first, sums[r][0]);
        sums[r][1] = product<kPairs>(value, second, sums[r][1]);
      }
      left += kByRows ? 1 : left_step;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) store<false>(y + r * y_step + v * kLanes, sums[r][v], 0);
  }
}

template <bool kPairs>
void multiply_of(const Segment* segments, int64_t count, int64_t left_step, float* y,
                 int64_t y_step, bool add) {
  left_step == 0 ? multiply_as<kPairs, true>(segments, count, left_step, y, y_step, add)
                 : multiply_as<kPairs, false>(segments, count, left_step, y, y_step, add);
}

void multiply(Type type, const Segment* segments, int64_t count, int64_t left_step, float* y,
              int64_t y_step, bool add) {
  if (kHasPairs && type == candle::kBfloat16) {
    multiply_of<kHasPairs>(segments, count, left_step, y, y_step, add);
  } else {
    multiply_of<false>(segments, count, left_step, y, y_step, add);
  }
}

void interleave(Type type, const void* const* rows, int64_t units, int64_t width, int64_t step,
                uint32_t* to) {
  for (int64_t u = 0; u < units; ++u, to += step) {
    if (type == candle::kFloat) {
      __builtin_memcpy(to, rows[u], width * sizeof(float));
    } else {
      const uint16_t* low = static_cast<const uint16_t*>(rows[2 * u]);
      const uint16_t* high = static_cast<const uint16_t*>(rows[2 * u + 1]);
      int64_t i = 0;
      for (; i + kLanes <= width; i += kLanes) {
        Halves a, b;
        __builtin_memcpy(&a, low + i, sizeof(a));
        __builtin_memcpy(&b, high + i, sizeof(b));
        const Words both = __builtin_convertvector(a, Words) | __builtin_convertvector(b, Words) << 16;
        __builtin_memcpy(to + i, &both, sizeof(both));
      }
      for (; i < width; ++i) to[i] = low[i] | uint32_t(high[i]) << 16;
    }
    for (int64_t i = width; i < step; ++i) to[i] = 0;
  }
}

void transpose(Type type, const void* from, int64_t width, int64_t values, int64_t step,
               uint32_t* to) {
  const int64_t pair = type == candle::kFloat ? 1 : 2;
  const int64_t whole = values / pair, units = (values + pair - 1) / pair;
  const char* bytes = static_cast<const char*>(from);
  const int64_t row = values * (type == candle::kFloat ? 4 : 2);
  for (int64_t u = 0; u < whole; ++u) {
    for (int64_t i = 0; i < width; ++i) {
      __builtin_memcpy(to + u * step + i, bytes + i * row + u * 4, sizeof(uint32_t));
    }
  }
  for (int64_t u = whole; u < units; ++u) {
    for (int64_t i = 0; i < width; ++i) {
      uint16_t last;
      __builtin_memcpy(&last, bytes + i * row + u * 4, sizeof(last));
      to[u * step + i] = last;
    }
  }
  for (int64_t u = 0; u < units; ++u) {
    for (int64_t i = width; i < step; ++i) to[u * step + i] = 0;
  }
}

#define CANDLE_TEXT_OF(name) #name
#define CANDLE_TEXT(name) CANDLE_TEXT_OF(name)

}  // namespace

namespace candle {

const GemmKernels& CANDLE_KERNELS() {
  static constexpr GemmKernels kernels = {CANDLE_TEXT(CANDLE_KERNELS), kRows,      kColumns, kHasPairs,
                                          multiply,                    interleave, transpose};
  return kernels;
}

}  // namespace candle
