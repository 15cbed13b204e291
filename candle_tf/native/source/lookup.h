// Products of real values and signs by lookup tables: the loops, compiled once for each instruction
// set.
//
// Five values have 32 sums with all combinations of their signs. A table of them is one vector of
// 16-bit integers, so that one permutation of it by 32 numbers of 5 bits gives 160 products (the
// "method of four Russians"). A word holds the numbers of three tables: 15 signs.

#ifndef CANDLE_TF_NATIVE_LOOKUP_H_
#define CANDLE_TF_NATIVE_LOOKUP_H_

#include <cstdint>

#include "kernels.h"

namespace candle {

// Values in a table, tables for a word of signs, sums in a table and columns that it is read for.
constexpr int kTableValues = 5;
constexpr int kWordTables = 3;
constexpr int kWordSigns = kTableValues * kWordTables;
constexpr int kTableSize = 32;
// Rows of tables that are read together, and blocks of columns.
constexpr int kTableRows = 4;
constexpr int kColumnBlocks = 4;
// Columns of a right operand that are worked on at once: a line of a cache of bfloat16.
constexpr int64_t kFilters = 32;
// Sums of magnitudes are scaled to this, so that no sum leaves 16 bits.
constexpr float kTableSum = 32700.0f;

// Words [words, step] and tables [tables, kTableRows, kTableSize] that belong together.
struct TablePiece {
  const uint16_t* words;
  const int16_t* tables;
};

struct LookupKernels {
  const char* name;
  // to[r, c] += scales[r] * (the sum over all pieces and their tables), of `blocks` blocks of
  // kTableSize columns. Sums are 16-bit integers.
  void (*multiply)(const TablePiece* pieces, int64_t count, int64_t tables, int64_t step,
                   int blocks, const float* scales, float* to, int64_t to_step);
  // `count` tables of kTableValues values, `step` values apart: entry i subtracts those whose bit
  // is set in i. The next table's values are `next_values` further on, itself `next_table`.
  void (*fill)(const int16_t* values, int64_t step, int64_t count, int64_t next_values,
               int64_t next_table, int16_t* tables);
  // The sum of |x[i]|.
  float (*magnitude)(const void* x, Type type, int64_t count);
  // to[i] = factor * x[i], rounded.
  void (*scale)(const void* x, Type type, int64_t count, float factor, int16_t* to);
  // Of `rows` rows of up to kFilters values: magnitudes[f] += |x[r, f]|, sums[f] += x[r, f], and
  // to[r, f] = factors[f] * x[r, f], rounded. Rows of x are `step` values apart, of `to` kFilters.
  void (*add_columns)(const void* x, Type type, int64_t rows, int64_t step, int64_t count,
                      float* magnitudes, float* sums);
  void (*scale_columns)(const void* x, Type type, int64_t rows, int64_t step, int64_t count,
                        const float* factors, int16_t* to);
  // words[i] |= (x[i] is negative) << bit.
  void (*set_signs)(const void* x, Type type, int64_t count, int bit, uint16_t* words);
  // to[i, f] = from[f, i] + offsets[f] in `to`'s type, of from [filters, height].
  void (*transpose)(const float* from, int64_t from_step, int64_t filters, int64_t height,
                    const float* offsets, void* to, Type type, int64_t to_step);
  // to[i] = factor * x[i].
  void (*store)(const float* x, int64_t count, float factor, void* to, Type type);
};

const LookupKernels& lookup_kernels();

const LookupKernels& baseline_lookup_kernels();
const LookupKernels& avx2_lookup_kernels();
const LookupKernels& avx512_lookup_kernels();

}  // namespace candle

#endif  // CANDLE_TF_NATIVE_LOOKUP_H_
