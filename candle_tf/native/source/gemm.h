// Products of matrices of real values: the loops, compiled once for each instruction set.
//
// Both operands are packed in units of 32 bits: a float32, or two bfloat16 that are neighbours along
// what is summed over. A right panel is [units, columns]. A left panel is [units, step], of which
// `rows` are taken, or row by row, [rows, kRowStep].

#ifndef CANDLE_TF_NATIVE_GEMM_H_
#define CANDLE_TF_NATIVE_GEMM_H_

#include <cstdint>

#include "kernels.h"

namespace candle {

// Most units of a row of a left panel, so that a right panel of as many stays in the first cache; and from one row to the next: at a power of two they would
// share the sets of a cache.
constexpr int64_t kRowUnits = 160;
constexpr int64_t kRowStep = kRowUnits + 8;

// A part of what is summed over.
struct Segment {
  const uint32_t* left;
  const uint32_t* right;
  int64_t units;
};

struct GemmKernels {
  const char* name;
  int rows, columns;   // of a tile of the result
  bool pairs;          // whether bfloat16 is multiplied; else float32 alone
  // y[r, c] = (add ? y[r, c] : 0) + the sum over all segments, for a tile. left_step is 0 for left
  // panels that are kept row by row. Sums are float32, in the order of the segments.
  void (*multiply)(Type type, const Segment* segments, int64_t count, int64_t left_step, float* y,
                   int64_t y_step, bool add);
  // to[u, i] = rows[u][i], or both rows[2 u][i] and rows[2 u + 1][i]; 0 for width <= i < step.
  void (*interleave)(Type type, const void* const* rows, int64_t units, int64_t width, int64_t step,
                     uint32_t* to);
  // to[u, i] = from[i, u], or both from[i, 2 u] and from[i, 2 u + 1], of from [width, values];
  // 0 behind the last value, and for width <= i < step.
  void (*transpose)(Type type, const void* from, int64_t width, int64_t values, int64_t step,
                    uint32_t* to);
};

const GemmKernels& gemm_kernels();

const GemmKernels& baseline_gemm_kernels();
const GemmKernels& avx2_gemm_kernels();
const GemmKernels& avx512_gemm_kernels();
const GemmKernels& avx512bf16_gemm_kernels();

}  // namespace candle

#endif  // CANDLE_TF_NATIVE_GEMM_H_
