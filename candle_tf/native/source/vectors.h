// Vectors of floats in the width of the instruction set that a file is compiled for.
//
// Compiler vectors, so that one text serves AVX-512, AVX2, SSE2 and NEON. Products and sums are
// fused only where it is written (`madd`): the files are compiled with -ffp-contract=off, so that
// full vectors, their remainders and repeated computations round alike.

#ifndef CANDLE_TF_NATIVE_VECTORS_H_
#define CANDLE_TF_NATIVE_VECTORS_H_

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Every file that includes this is compiled several times, for different instructions: nothing
// here may be shared between object files, so all of it is in an unnamed namespace.
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef int32_t Masks __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));

inline Floats filled(float value) { return value - Floats{}; }

// a * b + c, rounded once where the instruction set can.
inline Floats madd(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

inline Floats select(Masks mask, Floats a, Floats b) { return mask ? a : b; }

inline Floats absolute(Floats x) { return (Floats)((Words)x & 0x7fffffffu); }

inline Floats root(Floats x) {
#if defined(__AVX512F__)
  return (Floats)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (Floats)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
  return (Floats)_mm_sqrt_ps((__m128)x);
#elif defined(__aarch64__)
  return (Floats)vsqrtq_f32((float32x4_t)x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// bfloat16 is the upper half of a float.
inline Floats from_halves(Halves x) { return (Floats)(__builtin_convertvector(x, Words) << 16); }

// Rounds to the nearest bfloat16, to even where two are as near; what is not a number stays so.
inline Halves to_halves(Floats x) {
  const Words bits = (Words)x;
  const Words rounded = (bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16;
  const Words quiet = (bits >> 16) | 0x40u;
  return __builtin_convertvector(x == x ? rounded : quiet, Halves);
}

// The first `count` values where kPart, else a whole vector. `count` is below kLanes.
template <bool kPart>
inline Floats load(const float* from, int64_t count) {
  Floats x = {};
  __builtin_memcpy(&x, from, kPart ? count * sizeof(float) : sizeof(x));
  return x;
}

template <bool kPart>
inline Floats load(const uint16_t* from, int64_t count) {
  Halves x = {};
  __builtin_memcpy(&x, from, kPart ? count * sizeof(uint16_t) : sizeof(x));
  return from_halves(x);
}

template <bool kPart>
inline void store(float* to, Floats x, int64_t count) {
  __builtin_memcpy(to, &x, kPart ? count * sizeof(float) : sizeof(x));
}

template <bool kPart>
inline void store(uint16_t* to, Floats x, int64_t count) {
  const Halves halves = to_halves(x);
  __builtin_memcpy(to, &halves, kPart ? count * sizeof(uint16_t) : sizeof(halves));
}

}  // namespace

#endif  // CANDLE_TF_NATIVE_VECTORS_H_
