// The mean over squares of 2x2 pixels, as TensorFlow's AvgPool with a stride of 2 and "SAME": of an
// odd side's last squares only what lies inside counts.
//
//   CandleMeanPool       x [N, H, W, C] -> [N, ceil(H / 2), ceil(W / 2), C]
//   CandleMeanPoolGrad   the gradient of x, from that of the means and x, of which the shape is read

#include "kernels.h"
#include "sides.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "work.h"

namespace candle {
namespace pool {

using tensorflow::OpKernel;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("CandleMeanPool")
    .Input("x: float")
    .Output("means: float")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle x, means;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &x));
      means = x;
      for (int side : {1, 2}) {
        DimensionHandle size;
        TF_RETURN_IF_ERROR(c->Add(c->Dim(x, side), 1, &size));
        TF_RETURN_IF_ERROR(c->Divide(size, 2, /*evenly_divisible=*/false, &size));
        TF_RETURN_IF_ERROR(c->ReplaceDim(means, side, size, &means));
      }
      c->set_output(0, means);
      return absl::OkStatus();
    });

REGISTER_OP("CandleMeanPoolGrad")
    .Input("d_means: float")
    .Input("x: float")
    .Output("dx: float")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->input(1));
      return absl::OkStatus();
    });

// Calls square(first value of its mean, first values of its pixels, how many these are).
template <typename Square>
void for_each_square(OpKernelContext* context, const TensorShape& shape, Square square) {
  const int64_t height = shape.dim_size(1), width = shape.dim_size(2), channels = shape.dim_size(3);
  const int64_t down = parts(height, 2), across = parts(width, 2);
  run_all(context, shape.dim_size(0) * down, width * channels, [&](int64_t row) {
    const int64_t image = row / down, top = row % down * 2;
    for (int64_t column = 0; column < across; ++column) {
      int64_t pixels[4];
      int count = 0;
      for (int64_t h = top; h < std::min(top + 2, height); ++h) {
        for (int64_t w = column * 2; w < std::min(column * 2 + 2, width); ++w) {
          pixels[count++] = ((image * height + h) * width + w) * channels;
        }
      }
      square((row * across + column) * channels, pixels, count);
    }
  });
}

class MeanPoolOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    OP_REQUIRES(context, x.dims() == 4, InvalidArgument("a map has rank 4"));
    TensorShape shape = x.shape();
    for (int side : {1, 2}) shape.set_dim(side, parts(shape.dim_size(side), 2));
    Tensor* means;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &means));
    if (means->NumElements() == 0) return;
    const int64_t channels = x.dim_size(3);
    const float* from = x.flat<float>().data();
    float* to = means->flat<float>().data();
    for_each_square(context, x.shape(), [&](int64_t mean, const int64_t* pixels, int count) {
      const float* rows[4];
      for (int i = 0; i < count; ++i) rows[i] = from + pixels[i];
      kernels().mean(rows, count, channels, to + mean);
    });
  }
};

class MeanPoolGradOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor &d_means = context->input(0), &x = context->input(1);
    OP_REQUIRES(context, x.dims() == 4, InvalidArgument("a map has rank 4"));
    TensorShape shape = x.shape();
    for (int side : {1, 2}) shape.set_dim(side, parts(shape.dim_size(side), 2));
    OP_REQUIRES(context, d_means.shape() == shape,
                InvalidArgument("the gradient must have the means' shape"));
    Tensor* dx;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &dx));
    if (dx->NumElements() == 0) return;
    const int64_t channels = x.dim_size(3);
    const float* from = d_means.flat<float>().data();
    float* to = dx->flat<float>().data();
    for_each_square(context, x.shape(), [&](int64_t mean, const int64_t* pixels, int count) {
      float* rows[4];
      for (int i = 0; i < count; ++i) rows[i] = to + pixels[i];
      kernels().spread(from + mean, count, channels, rows);
    });
  }
};

REGISTER_KERNEL_BUILDER(Name("CandleMeanPool").Device(tensorflow::DEVICE_CPU), MeanPoolOp);
REGISTER_KERNEL_BUILDER(Name("CandleMeanPoolGrad").Device(tensorflow::DEVICE_CPU), MeanPoolGradOp);

}  // namespace pool
}  // namespace candle
