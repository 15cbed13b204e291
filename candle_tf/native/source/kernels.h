// The loops over memory, compiled once for each instruction set; `kernels()` gives the best one.
//
// This header is included by files that are compiled for different instruction sets: it holds
// plain structures and declarations only. Types are told by number: 0 is float32, 1 is bfloat16.
//
// Maps are matrices here: `rows` rows of `width` values. A row is a pixel, or where there are few
// channels several pixels, whose parameters are then repeated along the row.

#ifndef CANDLE_TF_NATIVE_KERNELS_H_
#define CANDLE_TF_NATIVE_KERNELS_H_

#include <cstdint>

namespace candle {

enum Type : int { kFloat = 0, kBfloat16 = 1 };
enum Sign : int { kNoSign = 0, kQuadratic = 1, kClipped = 2 };

// One branch of a chain: x' = max(x, floor), v = a (x' - mean) + b + shortcut,
// y = (v > 0 ? v : slope v) + shift_out, sign(y + shift). bfloat16 x only goes with bfloat16 signs.
struct ChainRows {
  Type x_type;
  Type sign_type;
  Sign sign;
  int64_t rows, width;
  int64_t y_stride;         // values from one row of y, dy, sign, d_sign and dv to the next
  const void* x;            // [rows, width]
  const float* shortcut;    // [rows, width], or null
  float* y;                 // forward
  void* signs;              // forward
  const float* dy;          // backward
  const void* d_sign;       // backward
  float* dv;                // backward
  float floor;              // 0 for a ReLU before the normalisation, else -infinity
  float clip;               // of kClipped: the gradient passes where |y + shift| <= clip
  const float *a, *b;       // [width]; b holds the shift in front of the slope too
  const float* slope;       // [width]; 1 without an activation
  const float *shift_out, *shift;   // [width]
  const float* mean;        // [width] of x'
  // Sums over the rows, [width] each; backward. They are added to what is there.
  float *sum_dv, *sum_dv_x, *sum_slope, *sum_dy, *sum_sign;
};

// dx = a dv + b (x' - mean) + c, 0 below the floor.
struct InputGradientRows {
  Type x_type;
  int64_t rows, width;
  int64_t dv_stride;
  const void* x;
  const float* dv;
  void* dx;                 // of x's type, [rows, width]
  float floor;
  const float *a, *b, *c, *mean;   // [width]
};

struct MomentRows {
  Type x_type;
  int64_t rows, width;
  const void* x;
  float floor;
  const float* center;      // [width]
  float *sum, *square;      // [width]: of x' - center and of its square, added to what is there
};

struct SignRows {
  Type type;                // of the values
  int64_t rows, width;
  const float* weights;
  void* values;             // weight >= 0 ? half : -half
  float half;
  float* sum;               // [width]: of |weight|, added to what is there
};

// gradient * factor where |weight| <= clip, else 0; for an infinite clip weights are not read.
struct StraightThroughRows {
  Type type;                // of the gradient
  int64_t rows, width;
  const void* gradient;
  const float* weights;
  float* result;
  const float* factor;      // [width]
  float clip;
};

struct AdamValues {
  int64_t count;
  float *weights, *m, *v;
  const void* gradient;
  Type gradient_type;
  float rate, beta_1, beta_2, epsilon;
  float decay;              // the weights are multiplied by 1 - decay first
  float clip;               // bound of the weights after the update; infinity for none
};

// One tile of Winograd's F(2x2, 3x3): `count` values at each of several places.
struct WinogradValues {
  Type type;
  int64_t count;
  const void* const* pixels;   // read: 16 of a window, 4 of a tile, 9 of a kernel
  void* const* places;         // 16
};

struct Kernels {
  const char* name;
  void (*moments)(const MomentRows&);
  void (*chain_forward)(const ChainRows&);
  void (*chain_backward)(const ChainRows&);
  void (*input_gradient)(const InputGradientRows&);
  // y[r, i] = sum of k = 0..count-1 of x[r, k * width + i]
  void (*sum_branches)(const float* x, float* y, int64_t rows, int64_t width, int count);
  void (*signs)(const SignRows&);
  void (*straight_through)(const StraightThroughRows&);
  void (*adam)(const AdamValues&);
  void (*to_bfloat16)(const float* x, uint16_t* y, int64_t count);
  // y[i] = the mean of `count` rows; to[r][i] = x[i] / count for each of them.
  void (*mean)(const float* const* rows, int count, int64_t width, float* y);
  void (*spread)(const float* x, int count, int64_t width, float* const* to);
  void (*winograd_window)(const WinogradValues&);   // B d B^T
  void (*winograd_tile)(const WinogradValues&);     // A d A^T
  void (*winograd_pixels)(const WinogradValues&, void* const* pixels);   // A^T m A; null: left out
  void (*winograd_kernel)(const WinogradValues&);   // G g G^T
  void (*winograd_kernel_gradient)(const WinogradValues&, void* const* taps);   // G^T m G
};

// The best of what the CPU can do. CANDLE_TF_INSTRUCTIONS, one of baseline, avx2, avx512,
// avx512popcnt and avx512bf16, takes none beyond it.
const Kernels& kernels();

const Kernels& baseline_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();

}  // namespace candle

#endif  // CANDLE_TF_NATIVE_KERNELS_H_
