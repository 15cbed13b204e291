// The loops of `kernels.h`. Compiled once for each instruction set, with CANDLE_KERNELS set to the
// name of the function that gives them. Nothing but plain types may be included: what a header
// of the standard library defines inline would be shared with files for older CPUs.

#include "kernels.h"

#include "vectors.h"

namespace {

using candle::AdamValues;
using candle::ChainRows;
using candle::InputGradientRows;
using candle::MomentRows;

// Rows that are computed side by side, so that parameters and sums are loaded once for all.
constexpr int kRowsTogether = 4;

// Calls body<rows, part>(row, column, count) for all of a matrix.
template <typename Body>
inline void for_all(int64_t rows, int64_t width, Body body) {
  int64_t row = 0;
  for (; row + kRowsTogether <= rows; row += kRowsTogether) {
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) body.template run<kRowsTogether, false>(row, i, kLanes);
    if (i == width) continue;
    for (int r = 0; r < kRowsTogether; ++r) body.template run<1, true>(row + r, i, width - i);
  }
  for (; row < rows; ++row) {
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) body.template run<1, false>(row, i, kLanes);
    if (i < width) body.template run<1, true>(row, i, width - i);
  }
}

inline Floats floored(Floats x, float floor) {
  // Written so that what is not a number stays.
  return select(x < floor, filled(floor), x);
}

template <typename X>
struct Moments {
  const MomentRows& m;

  template <int kRows, bool kPart>
  inline void run(int64_t row, int64_t i, int64_t n) const {
    const Floats center = load<kPart>(m.center + i, n);
    Floats sum = load<kPart>(m.sum + i, n);
    Floats square = load<kPart>(m.square + i, n);
    const X* x = static_cast<const X*>(m.x) + row * m.width + i;
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Floats d = floored(load<kPart>(x + r * m.width, n), m.floor) - center;
      sum += d;
      square = madd(d, d, square);
    }
    store<kPart>(m.sum + i, sum, n);
    store<kPart>(m.square + i, square, n);
  }
};

void moments(const MomentRows& m) {
  if (m.x_type == candle::kFloat) {
    for_all(m.rows, m.width, Moments<float>{m});
  } else {
    for_all(m.rows, m.width, Moments<uint16_t>{m});
  }
}

// What forward and backward share: the value in front of the slope.
template <bool kShortcut, bool kPart>
inline Floats before_slope(const ChainRows& c, Floats distance, Floats a, Floats b, int64_t at,
                           int64_t n) {
  const Floats normal = madd(distance, a, b);
  return kShortcut ? normal + load<kPart>(c.shortcut + at, n) : normal;
}

template <typename X, typename S, bool kShortcut, bool kSign>
struct Forward {
  const ChainRows& c;

  template <int kRows, bool kPart>
  inline void run(int64_t row, int64_t i, int64_t n) const {
    const Floats a = load<kPart>(c.a + i, n), b = load<kPart>(c.b + i, n);
    const Floats mean = load<kPart>(c.mean + i, n), slope = load<kPart>(c.slope + i, n);
    const Floats shift_out = load<kPart>(c.shift_out + i, n);
    const Floats shift = kSign ? load<kPart>(c.shift + i, n) : Floats{};
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = (row + r) * c.width + i, to = (row + r) * c.y_stride + i;
      const Floats x = floored(load<kPart>(static_cast<const X*>(c.x) + at, n), c.floor);
      const Floats v = before_slope<kShortcut, kPart>(c, x - mean, a, b, at, n);
      const Floats y = select(v > 0.0f, v, v * slope) + shift_out;
      store<kPart>(c.y + to, y, n);
      if (kSign) {
        const Floats one = filled(1.0f);
        store<kPart>(static_cast<S*>(c.signs) + to, select(y + shift >= 0.0f, one, -one), n);
      }
    }
  }
};

template <typename X, typename S, bool kShortcut, candle::Sign kSign>
struct Backward {
  const ChainRows& c;

  static constexpr bool kSigned = kSign != candle::kNoSign;

  template <int kRows, bool kPart>
  inline void run(int64_t row, int64_t i, int64_t n) const {
    const Floats a = load<kPart>(c.a + i, n), b = load<kPart>(c.b + i, n);
    const Floats mean = load<kPart>(c.mean + i, n), slope = load<kPart>(c.slope + i, n);
    Floats sum_dv = load<kPart>(c.sum_dv + i, n), sum_dv_x = load<kPart>(c.sum_dv_x + i, n);
    Floats sum_slope = load<kPart>(c.sum_slope + i, n), sum_dy = load<kPart>(c.sum_dy + i, n);
    Floats shift_out = {}, shift = {}, sum_sign = {};
    if (kSigned) {
      shift_out = load<kPart>(c.shift_out + i, n);
      shift = load<kPart>(c.shift + i, n);
      sum_sign = load<kPart>(c.sum_sign + i, n);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = (row + r) * c.width + i, to = (row + r) * c.y_stride + i;
      const Floats distance =
          floored(load<kPart>(static_cast<const X*>(c.x) + at, n), c.floor) - mean;
      const Floats v = before_slope<kShortcut, kPart>(c, distance, a, b, at, n);
      Floats g = load<kPart>(c.dy + to, n);
      if (kSigned) {
        const Floats size = absolute(select(v > 0.0f, v, v * slope) + shift_out + shift);
        Floats ds = load<kPart>(static_cast<const S*>(c.d_sign) + to, n);
        if (kSign == candle::kQuadratic) {
          const Floats passed = 2.0f - 2.0f * size;
          ds *= select(passed < 0.0f, Floats{}, passed);
        } else {
          ds = select(size <= c.clip, ds, Floats{});
        }
        sum_sign += ds;
        g += ds;
      }
      sum_dy += g;
      const Floats negative = select(v > 0.0f, Floats{}, v);
      sum_slope = madd(g, negative, sum_slope);
      g = select(v > 0.0f, g, g * slope);
      sum_dv += g;
      sum_dv_x = madd(g, distance, sum_dv_x);
      store<kPart>(c.dv + to, g, n);
    }
    store<kPart>(c.sum_dv + i, sum_dv, n);
    store<kPart>(c.sum_dv_x + i, sum_dv_x, n);
    store<kPart>(c.sum_slope + i, sum_slope, n);
    store<kPart>(c.sum_dy + i, sum_dy, n);
    if (kSigned) store<kPart>(c.sum_sign + i, sum_sign, n);
  }
};

template <typename X, typename S, bool kShortcut>
void forward_of(const ChainRows& c) {
  if (c.sign == candle::kNoSign) {
    for_all(c.rows, c.width, Forward<X, S, kShortcut, false>{c});
  } else {
    for_all(c.rows, c.width, Forward<X, S, kShortcut, true>{c});
  }
}

template <typename X, typename S, bool kShortcut>
void backward_of(const ChainRows& c) {
  switch (c.sign) {
    case candle::kNoSign:
      return for_all(c.rows, c.width, Backward<X, S, kShortcut, candle::kNoSign>{c});
    case candle::kQuadratic:
      return for_all(c.rows, c.width, Backward<X, S, kShortcut, candle::kQuadratic>{c});
    case candle::kClipped:
      return for_all(c.rows, c.width, Backward<X, S, kShortcut, candle::kClipped>{c});
  }
}

template <bool kForward, typename X, typename S>
void chain_of(const ChainRows& c) {
  if constexpr (kForward) {
    c.shortcut ? forward_of<X, S, true>(c) : forward_of<X, S, false>(c);
  } else {
    c.shortcut ? backward_of<X, S, true>(c) : backward_of<X, S, false>(c);
  }
}

template <bool kForward>
void chain(const ChainRows& c) {
  if (c.x_type == candle::kBfloat16) {
    chain_of<kForward, uint16_t, uint16_t>(c);
  } else if (c.sign_type == candle::kBfloat16) {
    chain_of<kForward, float, uint16_t>(c);
  } else {
    chain_of<kForward, float, float>(c);
  }
}

template <typename X>
struct InputGradient {
  const InputGradientRows& g;

  template <int kRows, bool kPart>
  inline void run(int64_t row, int64_t i, int64_t n) const {
    const Floats a = load<kPart>(g.a + i, n), b = load<kPart>(g.b + i, n);
    const Floats c = load<kPart>(g.c + i, n), mean = load<kPart>(g.mean + i, n);
    // Without a ReLU nothing is cut off, minus infinity neither: no value is below what is no number.
    const float cut = g.floor == 0.0f ? 0.0f : __builtin_nanf("");
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = (row + r) * g.width + i;
      const Floats x = load<kPart>(static_cast<const X*>(g.x) + at, n);
      const Floats dv = load<kPart>(g.dv + (row + r) * g.dv_stride + i, n);
      const Floats dx = madd(a, dv, madd(b, floored(x, g.floor) - mean, c));
      store<kPart>(static_cast<X*>(g.dx) + at, select(x <= cut, Floats{}, dx), n);
    }
  }
};

void input_gradient(const InputGradientRows& g) {
  if (g.x_type == candle::kFloat) {
    for_all(g.rows, g.width, InputGradient<float>{g});
  } else {
    for_all(g.rows, g.width, InputGradient<uint16_t>{g});
  }
}

struct SumBranches {
  const float* x;
  float* y;
  int64_t width;
  int count;

  template <int kRows, bool kPart>
  inline void run(int64_t row, int64_t i, int64_t n) const {
    for (int r = 0; r < kRows; ++r) {
      const float* from = x + (row + r) * width * count + i;
      Floats sum = load<kPart>(from, n);
      for (int k = 1; k < count; ++k) sum += load<kPart>(from + k * width, n);
      store<kPart>(y + (row + r) * width + i, sum, n);
    }
  }
};

void sum_branches(const float* x, float* y, int64_t rows, int64_t width, int count) {
  for_all(rows, width, SumBranches{x, y, width, count});
}

template <typename T>
struct Signs {
  const candle::SignRows& s;

  template <int kRows, bool kPart>
  inline void run(int64_t row, int64_t i, int64_t n) const {
    const Floats half = filled(s.half);
    Floats sum = load<kPart>(s.sum + i, n);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = (row + r) * s.width + i;
      const Floats w = load<kPart>(s.weights + at, n);
      sum += absolute(w);
      store<kPart>(static_cast<T*>(s.values) + at, select(w >= 0.0f, half, -half), n);
    }
    store<kPart>(s.sum + i, sum, n);
  }
};

void signs(const candle::SignRows& s) {
  if (s.type == candle::kFloat) {
    for_all(s.rows, s.width, Signs<float>{s});
  } else {
    for_all(s.rows, s.width, Signs<uint16_t>{s});
  }
}

template <typename T, bool kMasked>
struct StraightThrough {
  const candle::StraightThroughRows& s;

  template <int kRows, bool kPart>
  inline void run(int64_t row, int64_t i, int64_t n) const {
    const Floats factor = load<kPart>(s.factor + i, n);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = (row + r) * s.width + i;
      Floats g = load<kPart>(static_cast<const T*>(s.gradient) + at, n) * factor;
      if (kMasked) g = select(absolute(load<kPart>(s.weights + at, n)) <= s.clip, g, Floats{});
      store<kPart>(s.result + at, g, n);
    }
  }
};

template <typename T>
void straight_through_of(const candle::StraightThroughRows& s) {
  if (s.clip == __builtin_inff()) {
    for_all(s.rows, s.width, StraightThrough<T, false>{s});
  } else {
    for_all(s.rows, s.width, StraightThrough<T, true>{s});
  }
}

void straight_through(const candle::StraightThroughRows& s) {
  if (s.type == candle::kFloat) {
    straight_through_of<float>(s);
  } else {
    straight_through_of<uint16_t>(s);
  }
}

template <typename G>
struct Adam {
  const AdamValues& a;

  template <int kRows, bool kPart>
  inline void run(int64_t, int64_t i, int64_t n) const {
    const Floats g = load<kPart>(static_cast<const G*>(a.gradient) + i, n);
    Floats w = load<kPart>(a.weights + i, n);
    Floats m = load<kPart>(a.m + i, n), v = load<kPart>(a.v + i, n);
    m = madd(g - m, filled(1.0f - a.beta_1), m);
    v = madd(madd(g, g, -v), filled(1.0f - a.beta_2), v);
    w = w - w * a.decay;
    w = w - a.rate * m / (root(v) + a.epsilon);
    // Written so that what is not a number stays.
    w = select(w > a.clip, filled(a.clip), w);
    w = select(w < -a.clip, filled(-a.clip), w);
    store<kPart>(a.weights + i, w, n);
    store<kPart>(a.m + i, m, n);
    store<kPart>(a.v + i, v, n);
  }
};

void adam(const AdamValues& a) {
  if (a.gradient_type == candle::kFloat) {
    for_all(1, a.count, Adam<float>{a});
  } else {
    for_all(1, a.count, Adam<uint16_t>{a});
  }
}

template <bool kPart>
inline void mean_of(const float* const* rows, int count, float factor, int64_t i, int64_t n,
                    float* y) {
  Floats sum = load<kPart>(rows[0] + i, n);
  for (int r = 1; r < count; ++r) sum += load<kPart>(rows[r] + i, n);
  store<kPart>(y + i, sum * factor, n);
}

void mean(const float* const* rows, int count, int64_t width, float* y) {
  const float factor = 1.0f / count;
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) mean_of<false>(rows, count, factor, i, kLanes, y);
  if (i < width) mean_of<true>(rows, count, factor, i, width - i, y);
}

template <bool kPart>
inline void spread_of(const float* x, int count, float factor, int64_t i, int64_t n,
                      float* const* to) {
  const Floats each = load<kPart>(x + i, n) * factor;
  for (int r = 0; r < count; ++r) store<kPart>(to[r] + i, each, n);
}

void spread(const float* x, int count, int64_t width, float* const* to) {
  const float factor = 1.0f / count;
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) spread_of<false>(x, count, factor, i, kLanes, to);
  if (i < width) spread_of<true>(x, count, factor, i, width - i, to);
}

void to_bfloat16(const float* x, uint16_t* y, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store<false>(y + i, load<false>(x + i, 0), 0);
  if (i < count) store<true>(y + i, load<true>(x + i, count - i), count - i);
}

// One axis of each of Winograd's transforms; see winograd.cc.
inline void window_axis(const Floats* d, int step, Floats* to, int to_step) {
  to[0] = d[0] - d[2 * step];
  to[to_step] = d[step] + d[2 * step];
  to[2 * to_step] = d[2 * step] - d[step];
  to[3 * to_step] = d[step] - d[3 * step];
}

inline void tile_axis(const Floats* d, int step, Floats* to, int to_step) {
  to[0] = d[0];
  to[to_step] = d[0] + d[step];
  to[2 * to_step] = d[0] - d[step];
  to[3 * to_step] = -d[step];
}

inline void pixels_axis(const Floats* m, int step, Floats* to, int to_step) {
  to[0] = m[0] + m[step] + m[2 * step];
  to[to_step] = m[step] - m[2 * step] - m[3 * step];
}

inline void kernel_axis(const Floats* g, int step, Floats* to, int to_step) {
  const Floats outer = g[0] + g[2 * step];
  to[0] = g[0];
  to[to_step] = 0.5f * (outer + g[step]);
  to[2 * to_step] = 0.5f * (outer - g[step]);
  to[3 * to_step] = g[2 * step];
}

inline void kernel_gradient_axis(const Floats* m, int step, Floats* to, int to_step) {
  const Floats half = 0.5f * (m[step] + m[2 * step]);
  to[0] = m[0] + half;
  to[to_step] = 0.5f * (m[step] - m[2 * step]);
  to[2 * to_step] = half + m[3 * step];
}

struct WindowTransform {
  static constexpr int kFrom = 4, kTo = 4;
  static inline void axis(const Floats* a, int s, Floats* b, int t) { window_axis(a, s, b, t); }
};
struct TileTransform {
  static constexpr int kFrom = 2, kTo = 4;
  static inline void axis(const Floats* a, int s, Floats* b, int t) { tile_axis(a, s, b, t); }
};
struct PixelsTransform {
  static constexpr int kFrom = 4, kTo = 2;
  static inline void axis(const Floats* a, int s, Floats* b, int t) { pixels_axis(a, s, b, t); }
};
struct KernelTransform {
  static constexpr int kFrom = 3, kTo = 4;
  static inline void axis(const Floats* a, int s, Floats* b, int t) { kernel_axis(a, s, b, t); }
};
struct KernelGradientTransform {
  static constexpr int kFrom = 4, kTo = 3;
  static inline void axis(const Floats* a, int s, Floats* b, int t) {
    kernel_gradient_axis(a, s, b, t);
  }
};

// Both axes: from kFrom^2 matrices' values to kTo^2.
template <typename Transform>
inline void both_axes(const Floats* from, Floats* to) {
  constexpr int kFrom = Transform::kFrom, kTo = Transform::kTo;
  Floats half[kTo * kFrom];
  for (int j = 0; j < kFrom; ++j) Transform::axis(from + j, kFrom, half + j, kFrom);
  for (int i = 0; i < kTo; ++i) Transform::axis(half + i * kFrom, 1, to + i * kTo, 1);
}

template <typename T, typename Transform, bool kPart>
inline void to_places(const candle::WinogradValues& w, int64_t i, int64_t n) {
  constexpr int kFrom = Transform::kFrom;
  Floats from[kFrom * kFrom], to[16];
  for (int p = 0; p < kFrom * kFrom; ++p) {
    from[p] = load<kPart>(static_cast<const T*>(w.pixels[p]) + i, n);
  }
  both_axes<Transform>(from, to);
  for (int p = 0; p < 16; ++p) store<kPart>(static_cast<T*>(w.places[p]) + i, to[p], n);
}

template <typename T, typename Transform, bool kPart>
inline void from_places(const candle::WinogradValues& w, void* const* pixels, int64_t i,
                        int64_t n) {
  constexpr int kTo = Transform::kTo;
  Floats from[16], to[kTo * kTo];
  for (int p = 0; p < 16; ++p) from[p] = load<kPart>(static_cast<const T*>(w.places[p]) + i, n);
  both_axes<Transform>(from, to);
  for (int p = 0; p < kTo * kTo; ++p) {
    if (pixels[p]) store<kPart>(static_cast<T*>(pixels[p]) + i, to[p], n);
  }
}

template <typename T, typename Transform>
void all_to_places(const candle::WinogradValues& w) {
  int64_t i = 0;
  for (; i + kLanes <= w.count; i += kLanes) to_places<T, Transform, false>(w, i, kLanes);
  if (i < w.count) to_places<T, Transform, true>(w, i, w.count - i);
}

template <typename T, typename Transform>
void all_from_places(const candle::WinogradValues& w, void* const* pixels) {
  int64_t i = 0;
  for (; i + kLanes <= w.count; i += kLanes) from_places<T, Transform, false>(w, pixels, i, kLanes);
  if (i < w.count) from_places<T, Transform, true>(w, pixels, i, w.count - i);
}

template <typename Transform>
void winograd_to(const candle::WinogradValues& w) {
  w.type == candle::kFloat ? all_to_places<float, Transform>(w)
                           : all_to_places<uint16_t, Transform>(w);
}

template <typename Transform>
void winograd_from(const candle::WinogradValues& w, void* const* pixels) {
  w.type == candle::kFloat ? all_from_places<float, Transform>(w, pixels)
                           : all_from_places<uint16_t, Transform>(w, pixels);
}

#define CANDLE_TEXT_OF(name) #name
#define CANDLE_TEXT(name) CANDLE_TEXT_OF(name)

}  // namespace

namespace candle {

const Kernels& CANDLE_KERNELS() {
  static constexpr Kernels kernels = {
      CANDLE_TEXT(CANDLE_KERNELS),
      moments,
      chain<true>,
      chain<false>,
      input_gradient,
      sum_branches,
      signs,
      straight_through,
      adam,
      to_bfloat16,
      mean,
      spread,
      winograd_to<WindowTransform>,
      winograd_to<TileTransform>,
      winograd_from<PixelsTransform>,
      winograd_to<KernelTransform>,
      winograd_from<KernelGradientTransform>,
  };
  return kernels;
}

}  // namespace candle
