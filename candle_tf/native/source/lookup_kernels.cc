// The loops of `lookup.h`. Compiled once for each instruction set, with CANDLE_KERNELS set to the
// name of the function that gives them.

#include "lookup.h"

#include "vectors.h"

namespace {

using candle::kColumnBlocks;
using candle::kFilters;
using candle::kTableRows;
using candle::kTableSize;
using candle::kTableValues;
using candle::kWordTables;
using candle::TablePiece;
using candle::Type;

typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));
typedef int16_t ShortIntegers __attribute__((vector_size(kLanes * 2)));

#if defined(__AVX512BW__)

// 32 values of 16 bits.
typedef __m512i Sums;
// In the low bits of each word is what a table is read by.
typedef __m512i Numbers;

inline Sums plus(Sums a, Sums b) { return _mm512_add_epi16(a, b); }
inline Sums next_words(Sums words) { return _mm512_srli_epi16(words, kTableValues); }
inline Sums read(const void* from) { return _mm512_loadu_si512(from); }
inline Numbers numbers_of(Sums words) { return words; }
inline Sums looked_up(Numbers numbers, const int16_t* table) {
  return _mm512_permutexvar_epi16(numbers, read(table));
}

inline void add_to(float* to, Sums sums, float scale) {
  const __m512i halves[2] = {_mm512_cvtepi16_epi32(_mm512_castsi512_si256(sums)),
                             _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(sums, 1))};
  for (int i = 0; i < 2; ++i) {
    const __m512 before = _mm512_loadu_ps(to + 16 * i);
    const __m512 values = _mm512_cvtepi32_ps(halves[i]);
    _mm512_storeu_ps(to + 16 * i, _mm512_fmadd_ps(values, _mm512_set1_ps(scale), before));
  }
}

#elif defined(__AVX2__)

// An instruction permutes 16 bytes, so a table is read twice: for the lower and for the upper
// bytes. Only its first half is stored, first all lower bytes, then all upper ones: the second half
// is the first one backwards, with the other sign.

struct Sums {
  __m256i low, high;
};

// Places in the half of a table, a byte each, and the signs of what is there.
struct Numbers {
  __m256i places;
  Sums signs;
};

inline Sums plus(const Sums& a, const Sums& b) {
  return {_mm256_add_epi16(a.low, b.low), _mm256_add_epi16(a.high, b.high)};
}

inline Sums next_words(const Sums& words) {
  return {_mm256_srli_epi16(words.low, kTableValues), _mm256_srli_epi16(words.high, kTableValues)};
}

inline Sums read(const void* from) {
  const __m256i* halves = static_cast<const __m256i*>(from);
  return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}

inline Numbers numbers_of(const Sums& words) {
  static_assert(kTableValues == 5);
  const __m256i last = _mm256_set1_epi16(kTableSize - 1), half = _mm256_set1_epi8(15);
  // What `looked_up` unpacks is in the order of columns again.
  const __m256i numbers = _mm256_packus_epi16(_mm256_and_si256(words.low, last),
                                              _mm256_and_si256(words.high, last));
  const __m256i beyond = _mm256_cmpgt_epi8(numbers, half);
  // Bit 4 to the sign, and nothing is 0.
  const __m256i one = _mm256_set1_epi16(1);
  return {_mm256_and_si256(_mm256_xor_si256(numbers, beyond), half),
          {_mm256_or_si256(_mm256_slli_epi16(words.low, 11), one),
           _mm256_or_si256(_mm256_slli_epi16(words.high, 11), one)}};
}

inline Sums looked_up(const Numbers& numbers, const int16_t* table) {
  const __m128i* bytes = reinterpret_cast<const __m128i*>(table);
  const __m256i lower = _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes));
  const __m256i upper = _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes + 1));
  const __m256i low = _mm256_shuffle_epi8(lower, numbers.places);
  const __m256i high = _mm256_shuffle_epi8(upper, numbers.places);
  return {_mm256_sign_epi16(_mm256_unpacklo_epi8(low, high), numbers.signs.low),
          _mm256_sign_epi16(_mm256_unpackhi_epi8(low, high), numbers.signs.high)};
}

inline void add_to(float* to, const Sums& sums, float scale) {
  const __m128i parts[4] = {
      _mm256_castsi256_si128(sums.low), _mm256_extracti128_si256(sums.low, 1),
      _mm256_castsi256_si128(sums.high), _mm256_extracti128_si256(sums.high, 1)};
  for (int i = 0; i < 4; ++i) {
    const __m256 before = _mm256_loadu_ps(to + 8 * i);
    const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(parts[i]));
    _mm256_storeu_ps(to + 8 * i, _mm256_fmadd_ps(values, _mm256_set1_ps(scale), before));
  }
}

#else

struct Sums {
  int16_t values[kTableSize];
};
typedef Sums Numbers;

inline Sums read(const void* from) {
  Sums sums;
  __builtin_memcpy(&sums, from, sizeof(sums));
  return sums;
}

inline Numbers numbers_of(const Sums& words) { return words; }

inline Sums looked_up(const Numbers& numbers, const int16_t* table) {
  Sums sums;
  for (int i = 0; i < kTableSize; ++i) {
    sums.values[i] = table[numbers.values[i] & (kTableSize - 1)];
  }
  return sums;
}

inline Sums plus(const Sums& a, const Sums& b) {
  Sums sums;
  for (int i = 0; i < kTableSize; ++i) sums.values[i] = a.values[i] + b.values[i];
  return sums;
}

inline Sums next_words(const Sums& words) {
  Sums sums;
  for (int i = 0; i < kTableSize; ++i) sums.values[i] = uint16_t(words.values[i]) >> kTableValues;
  return sums;
}

inline void add_to(float* to, const Sums& sums, float scale) {
  for (int i = 0; i < kTableSize; ++i) to[i] += scale * float(sums.values[i]);
}

#endif

// Adds what `kTables` tables of each row give for the numbers of a word.
template <int kBlocks, int kTables>
inline void look_up(const uint16_t* words, const int16_t* tables,
                    Sums (&sums)[kTableRows][kBlocks]) {
  Sums left[kBlocks];
#pragma GCC unroll 4
  for (int b = 0; b < kBlocks; ++b) left[b] = read(words + b * kTableSize);
#pragma GCC unroll 3
  for (int t = 0; t < kTables; ++t) {
    Numbers numbers[kBlocks];
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; ++b) numbers[b] = numbers_of(left[b]);
#pragma GCC unroll 4
    for (int r = 0; r < kTableRows; ++r, tables += kTableSize) {
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b) {
        sums[r][b] = plus(sums[r][b], looked_up(numbers[b], tables));
      }
    }
    if (t + 1 < kTables) {
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b) left[b] = next_words(left[b]);
    }
  }
}

// The columns of the words from `column` on.
template <int kBlocks>
void multiply_blocks(const TablePiece* pieces, int64_t count, int64_t tables, int64_t step,
                     int64_t column, const float* scales, float* to, int64_t to_step) {
  constexpr int64_t kTableRoom = kTableRows * kTableSize;
  Sums sums[kTableRows][kBlocks] = {};
  for (int64_t p = 0; p < count; ++p) {
    const uint16_t* words = pieces[p].words + column;
    const int16_t* from = pieces[p].tables;
    int64_t left = tables;
    for (; left >= kWordTables; left -= kWordTables, words += step) {
      look_up<kBlocks, kWordTables>(words, from, sums);
      from += kWordTables * kTableRoom;
    }
    if (left == 2) look_up<kBlocks, 2>(words, from, sums);
    if (left == 1) look_up<kBlocks, 1>(words, from, sums);
  }
  for (int r = 0; r < kTableRows; ++r) {
    for (int b = 0; b < kBlocks; ++b) {
      add_to(to + r * to_step + b * kTableSize, sums[r][b], scales[r]);
    }
  }
}

void multiply(const TablePiece* pieces, int64_t count, int64_t tables, int64_t step, int blocks,
              const float* scales, float* to, int64_t to_step) {
#if defined(__AVX2__) && !defined(__AVX512BW__)
  // The sums of one block fill half of the registers.
  for (int b = 0; b < blocks; ++b) {
    const int64_t column = b * kTableSize;
    multiply_blocks<1>(pieces, count, tables, step, column, scales, to + column, to_step);
  }
#else
  static_assert(kColumnBlocks == 4);
  switch (blocks) {
    case 1: return multiply_blocks<1>(pieces, count, tables, step, 0, scales, to, to_step);
    case 2: return multiply_blocks<2>(pieces, count, tables, step, 0, scales, to, to_step);
    case 3: return multiply_blocks<3>(pieces, count, tables, step, 0, scales, to, to_step);
    default: return multiply_blocks<4>(pieces, count, tables, step, 0, scales, to, to_step);
  }
#endif
}

void fill(const int16_t* values, int64_t step, int64_t count, int64_t next_values,
          int64_t next_table, int16_t* tables) {
  for (int64_t t = 0; t < count; ++t, values += next_values, tables += next_table) {
#if defined(__AVX512BW__)
    // Bit i of a mask is the value's bit of i.
    constexpr uint32_t kMasks[kTableValues] = {0xaaaaaaaau, 0xccccccccu, 0xf0f0f0f0u, 0xff00ff00u,
                                               0xffff0000u};
    __m512i sums = _mm512_setzero_si512();
#pragma GCC unroll 5
    for (int v = 0; v < kTableValues; ++v) {
      const __m512i value = _mm512_set1_epi16(values[v * step]);
      sums = _mm512_mask_sub_epi16(_mm512_add_epi16(sums, value), kMasks[v], sums, value);
    }
    _mm512_storeu_si512(tables, sums);
#elif defined(__AVX2__)
    // Entry i of the first half subtracts value v where bit v of i is set; bit 4 is not.
    const __m256i places = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m256i sums = _mm256_set1_epi16(values[4 * step]);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __m256i sign = _mm256_or_si256(_mm256_slli_epi16(places, 15 - v), _mm256_set1_epi16(1));
      sums = _mm256_add_epi16(sums, _mm256_sign_epi16(_mm256_set1_epi16(values[v * step]), sign));
    }
    const __m128i first = _mm256_castsi256_si128(sums), second = _mm256_extracti128_si256(sums, 1);
    const __m128i byte = _mm_set1_epi16(255);
    __m128i* to = reinterpret_cast<__m128i*>(tables);
    _mm_storeu_si128(to, _mm_packus_epi16(_mm_and_si128(first, byte), _mm_and_si128(second, byte)));
    _mm_storeu_si128(to + 1, _mm_packus_epi16(_mm_srli_epi16(first, 8), _mm_srli_epi16(second, 8)));
#else
    for (int i = 0; i < kTableSize; ++i) {
      int16_t sum = 0;
      for (int v = 0; v < kTableValues; ++v) {
        sum += i >> v & 1 ? -values[v * step] : values[v * step];
      }
      tables[i] = sum;
    }
#endif
  }
}

template <typename T>
float magnitude_as(const T* x, int64_t count) {
  Floats sums = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sums += absolute(load<false>(x + i, 0));
  if (i < count) sums += absolute(load<true>(x + i, count - i));
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return sum;
}

float magnitude(const void* x, Type type, int64_t count) {
  return type == candle::kFloat ? magnitude_as(static_cast<const float*>(x), count)
                                : magnitude_as(static_cast<const uint16_t*>(x), count);
}

// To the nearest whole number, ties to even, of magnitudes below 2^22.
inline Integers rounded(Floats x) {
  const Floats shift = filled(12582912.0f);
  return (Integers)(x + shift) - (Integers)shift;
}

template <bool kPart>
inline void store_rounded(int16_t* to, Floats x, int64_t count) {
  const ShortIntegers narrow = __builtin_convertvector(rounded(x), ShortIntegers);
  __builtin_memcpy(to, &narrow, kPart ? count * sizeof(int16_t) : sizeof(narrow));
}

template <typename T>
void scale_as(const T* x, int64_t count, float factor, int16_t* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store_rounded<false>(to + i, load<false>(x + i, 0) * factor, 0);
  }
  if (i < count) store_rounded<true>(to + i, load<true>(x + i, count - i) * factor, count - i);
}

void scale(const void* x, Type type, int64_t count, float factor, int16_t* to) {
  type == candle::kFloat ? scale_as(static_cast<const float*>(x), count, factor, to)
                         : scale_as(static_cast<const uint16_t*>(x), count, factor, to);
}

// `count` columns of a vector's width, of which kPart says whether they are fewer.
template <typename T, bool kPart>
void add_column(const T* x, int64_t rows, int64_t step, int64_t count, float* magnitudes,
                float* sums) {
  Floats magnitude = load<kPart>(magnitudes, count), sum = load<kPart>(sums, count);
  for (int64_t r = 0; r < rows; ++r) {
    const Floats values = load<kPart>(x + r * step, count);
    magnitude += absolute(values);
    sum += values;
  }
  store<kPart>(magnitudes, magnitude, count);
  store<kPart>(sums, sum, count);
}

template <typename T>
void add_columns_as(const T* x, int64_t rows, int64_t step, int64_t count, float* magnitudes,
                    float* sums) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    add_column<T, false>(x + i, rows, step, 0, magnitudes + i, sums + i);
  }
  if (i < count) add_column<T, true>(x + i, rows, step, count - i, magnitudes + i, sums + i);
}

void add_columns(const void* x, Type type, int64_t rows, int64_t step, int64_t count,
                 float* magnitudes, float* sums) {
  type == candle::kFloat
      ? add_columns_as(static_cast<const float*>(x), rows, step, count, magnitudes, sums)
      : add_columns_as(static_cast<const uint16_t*>(x), rows, step, count, magnitudes, sums);
}

template <typename T, bool kPart>
void scale_column(const T* x, int64_t rows, int64_t step, int64_t count, const float* factors,
                  int16_t* to) {
  const Floats factor = load<kPart>(factors, count);
  for (int64_t r = 0; r < rows; ++r) {
    store_rounded<kPart>(to + r * kFilters, load<kPart>(x + r * step, count) * factor, count);
  }
}

template <typename T>
void scale_columns_as(const T* x, int64_t rows, int64_t step, int64_t count, const float* factors,
                      int16_t* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    scale_column<T, false>(x + i, rows, step, 0, factors + i, to + i);
  }
  if (i < count) scale_column<T, true>(x + i, rows, step, count - i, factors + i, to + i);
}

void scale_columns(const void* x, Type type, int64_t rows, int64_t step, int64_t count,
                   const float* factors, int16_t* to) {
  type == candle::kFloat
      ? scale_columns_as(static_cast<const float*>(x), rows, step, count, factors, to)
      : scale_columns_as(static_cast<const uint16_t*>(x), rows, step, count, factors, to);
}

// The upper halves of 32-bit values.
inline Halves upper(const uint32_t* from) {
  Words bits;
  __builtin_memcpy(&bits, from, sizeof(bits));
  return __builtin_convertvector(bits >> 16, Halves);
}

inline Halves upper(const uint16_t* from) {
  Halves bits;
  __builtin_memcpy(&bits, from, sizeof(bits));
  return bits;
}

template <typename T>
void set_signs_as(const T* x, int64_t count, int bit, uint16_t* words) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Halves before;
    __builtin_memcpy(&before, words + i, sizeof(before));
    const Halves after = before | (upper(x + i) >> 15) << bit;
    __builtin_memcpy(words + i, &after, sizeof(after));
  }
  for (; i < count; ++i) words[i] |= uint16_t(x[i] >> (sizeof(T) * 8 - 1)) << bit;
}

void set_signs(const void* x, Type type, int64_t count, int bit, uint16_t* words) {
  type == candle::kFloat ? set_signs_as(static_cast<const uint32_t*>(x), count, bit, words)
                         : set_signs_as(static_cast<const uint16_t*>(x), count, bit, words);
}

template <typename T>
void store_as(const float* x, int64_t count, float factor, T* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store<false>(to + i, load<false>(x + i, 0) * factor, 0);
  }
  if (i < count) store<true>(to + i, load<true>(x + i, count - i) * factor, count - i);
}

void store_values(const float* x, int64_t count, float factor, void* to, Type type) {
  type == candle::kFloat ? store_as(x, count, factor, static_cast<float*>(to))
                         : store_as(x, count, factor, static_cast<uint16_t*>(to));
}

#if defined(__AVX512F__)

// A square of 16 x 16 values: pairs of rows, of pairs, of fours and of eights change places.
inline void transpose_square(const float* from, int64_t from_step, float* to) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(from + i * from_step);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m512d low = _mm512_castps_pd(b[i + j]), high = _mm512_castps_pd(b[i + j + 2]);
      a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  }
  // Now lane l of row 4 i + j holds column 4 l + j of rows 4 i ... 4 i + 3.
  for (int j = 0; j < 4; ++j) {
    const __m512 low = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x44);
    const __m512 high = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xee);
    const __m512 low_2 = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x44);
    const __m512 high_2 = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xee);
    _mm512_storeu_ps(to + 16 * j, _mm512_shuffle_f32x4(low, low_2, 0x88));
    _mm512_storeu_ps(to + 16 * (4 + j), _mm512_shuffle_f32x4(low, low_2, 0xdd));
    _mm512_storeu_ps(to + 16 * (8 + j), _mm512_shuffle_f32x4(high, high_2, 0x88));
    _mm512_storeu_ps(to + 16 * (12 + j), _mm512_shuffle_f32x4(high, high_2, 0xdd));
  }
}

#elif defined(__AVX2__)

// A square of 8 x 8 values: pairs of rows, of pairs and of fours change places.
inline void transpose_square(const float* from, int64_t from_step, float* to) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(from + i * from_step);
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
      a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xee);
    }
  }
  // Now lane l of row 4 i + j holds column 4 l + j of rows 4 i ... 4 i + 3.
  for (int j = 0; j < 4; ++j) {
    _mm256_storeu_ps(to + 8 * j, _mm256_permute2f128_ps(a[j], a[4 + j], 0x20));
    _mm256_storeu_ps(to + 8 * (4 + j), _mm256_permute2f128_ps(a[j], a[4 + j], 0x31));
  }
}

#endif

template <typename T>
void transpose_as(const float* from, int64_t from_step, int64_t filters, int64_t height,
                  const float* offsets, T* to, int64_t to_step) {
  int64_t begin = 0;
#if defined(__AVX2__)
  constexpr int kSquares = kFilters / kLanes;
  for (; filters == kFilters && begin + kLanes <= height; begin += kLanes) {
    float squares[kSquares][kLanes * kLanes];
    for (int s = 0; s < kSquares; ++s) {
      transpose_square(from + s * kLanes * from_step + begin, from_step, squares[s]);
    }
    for (int i = 0; i < kLanes; ++i) {
      T* row = to + (begin + i) * to_step;
      for (int s = 0; s < kSquares; ++s) {
        const Floats offset = load<false>(offsets + s * kLanes, 0);
        store<false>(row + s * kLanes, load<false>(squares[s] + kLanes * i, 0) + offset, 0);
      }
    }
  }
#endif
  for (; begin < height; ++begin) {
    for (int64_t f = 0; f < filters; ++f) {
      const float value[1] = {from[f * from_step + begin] + offsets[f]};
      store<true>(to + begin * to_step + f, load<true>(value, 1), 1);
    }
  }
}

void transpose(const float* from, int64_t from_step, int64_t filters, int64_t height,
               const float* offsets, void* to, Type type, int64_t to_step) {
  type == candle::kFloat ? transpose_as(from, from_step, filters, height, offsets,
                                        static_cast<float*>(to), to_step)
                         : transpose_as(from, from_step, filters, height, offsets,
                                        static_cast<uint16_t*>(to), to_step);
}

#define CANDLE_TEXT_OF(name) #name
#define CANDLE_TEXT(name) CANDLE_TEXT_OF(name)

}  // namespace

namespace candle {

const LookupKernels& CANDLE_KERNELS() {
  static constexpr LookupKernels kernels = {CANDLE_TEXT(CANDLE_KERNELS),
                                            multiply,
                                            fill,
                                            magnitude,
                                            scale,
                                            add_columns,
                                            scale_columns,
                                            set_signs,
                                            transpose,
                                            store_values};
  return kernels;
}

}  // namespace candle
