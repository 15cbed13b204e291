// Sizes along one side of a "SAME" convolution.

#ifndef CANDLE_TF_NATIVE_SIDES_H_
#define CANDLE_TF_NATIVE_SIDES_H_

#include <algorithm>
#include <cstdint>

namespace candle {

struct Side {
  int64_t input, window, stride, output, before;

  Side(int64_t input, int64_t window, int64_t stride)
      : input(input), window(window), stride(stride), output((input + stride - 1) / stride) {
    before = std::max<int64_t>(0, (output - 1) * stride + window - input) / 2;
  }
};

}  // namespace candle

#endif  // CANDLE_TF_NATIVE_SIDES_H_
