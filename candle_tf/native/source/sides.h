// Sizes along one side of a "SAME" convolution, and the shape of its output.

#ifndef CANDLE_TF_NATIVE_SIDES_H_
#define CANDLE_TF_NATIVE_SIDES_H_

#include <algorithm>
#include <cstdint>

#include "tensorflow/core/framework/shape_inference.h"

namespace candle {

struct Side {
  int64_t input, window, stride, output, before;

  Side(int64_t input, int64_t window, int64_t stride)
      : input(input), window(window), stride(stride), output((input + stride - 1) / stride) {
    before = std::max<int64_t>(0, (output - 1) * stride + window - input) / 2;
  }
};

// Of an operator with inputs x [N, H, W, C] and kernel [k, k, C, C'] and an attribute "stride".
inline absl::Status same_output_shape(tensorflow::shape_inference::InferenceContext* c) {
  using tensorflow::shape_inference::DimensionHandle;
  using tensorflow::shape_inference::ShapeHandle;
  ShapeHandle x, kernel, y;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &x));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 4, &kernel));
  int64_t stride;
  TF_RETURN_IF_ERROR(c->GetAttr("stride", &stride));
  TF_RETURN_IF_ERROR(c->ReplaceDim(x, 3, c->Dim(kernel, 3), &y));
  for (int side : {1, 2}) {
    DimensionHandle size;
    TF_RETURN_IF_ERROR(c->Add(c->Dim(x, side), stride - 1, &size));
    TF_RETURN_IF_ERROR(c->Divide(size, stride, /*evenly_divisible=*/false, &size));
    TF_RETURN_IF_ERROR(c->ReplaceDim(y, side, size, &y));
  }
  c->set_output(0, y);
  return absl::OkStatus();
}

// Of an operator whose output has the shape of its third input.
inline absl::Status shape_of_third(tensorflow::shape_inference::InferenceContext* c) {
  c->set_output(0, c->input(2));
  return absl::OkStatus();
}

}  // namespace candle

#endif  // CANDLE_TF_NATIVE_SIDES_H_
