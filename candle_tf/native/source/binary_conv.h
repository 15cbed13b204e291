// Products of signs: what is packed 64 to a word is multiplied by exclusive or and counted.

#ifndef CANDLE_TF_NATIVE_BINARY_CONV_H_
#define CANDLE_TF_NATIVE_BINARY_CONV_H_

#include <cstdint>

#include "kernels.h"

namespace candle {

// A matrix of signs [depth, columns] is kept in blocks of columns: bit b of word [d, n] of a block
// is set where value [64 d + b, n] is negative.
constexpr int kBlock = 32;

struct BinaryKernels {
  const char* name;
  // Signs of `count` values as bits of 64-bit words; bits after the last value are 0.
  void (*pack)(const void* values, Type type, int64_t count, uint64_t* words);
  // Sets bit `bit` of a word of each of `columns` columns to a value's sign. Words of one block
  // stand side by side, those of the next one `stride` words further on.
  void (*set_bits)(const void* values, Type type, int64_t columns, int bit, int64_t stride,
                   uint64_t* words);
  // y[m, n] = magnitude * (sizes[m] - 2 * (bits that differ)), of rows a [rows, words] and one
  // block b [words, kBlock]; `columns` of the block are written, y_stride values apart from row to
  // row. Of the bits, only those in masks [rows, words] count; null for all.
  void (*multiply)(const uint64_t* a, const uint64_t* masks, const int32_t* sizes,
                   const uint64_t* b, int64_t rows, int64_t words, int64_t columns,
                   float magnitude, void* y, Type type, int64_t y_stride);
};

const BinaryKernels& binary_kernels();

const BinaryKernels& baseline_binary_kernels();
const BinaryKernels& avx2_binary_kernels();
const BinaryKernels& avx512_binary_kernels();
const BinaryKernels& avx512popcnt_binary_kernels();

}  // namespace candle

#endif  // CANDLE_TF_NATIVE_BINARY_CONV_H_
