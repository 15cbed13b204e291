// The kernel of a binary convolution from its latent weights, and its straight-through gradient.
//
//   scale_c = 2 max(mean |w_c|, floor)       of each output channel c, or 1
//   values  = w >= 0 ? 1/2 : -1/2            without a scale: 1 and -1
//
// so that scale * values is the quantized kernel. The gradient passes where |w| <= clip.

#include <limits>

#include "kernels.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "work.h"

namespace candle {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::InferenceContext;

REGISTER_OP("CandleBinarize")
    .Input("weights: float")
    .Output("values: T")
    .Output("scale: float")
    .Attr("T: {float, bfloat16}")
    .Attr("scaled: bool")
    .Attr("floor: float")
    .Attr("clip: float")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->input(0));
      c->set_output(1, c->RankKnown(c->input(0)) ? c->Vector(c->Dim(c->input(0), -1))
                                                 : c->Vector(c->UnknownDim()));
      return absl::OkStatus();
    });

REGISTER_OP("CandleBinarizeGrad")
    .Input("d_values: T")
    .Input("scale: float")
    .Input("weights: float")
    .Output("d_weights: float")
    .Attr("T: {float, bfloat16}")
    .Attr("clip: float")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->input(2));
      return absl::OkStatus();
    });

absl::Status rows_of(const Tensor& weights, std::unique_ptr<Rows>* rows) {
  if (weights.dims() < 1 || weights.NumElements() == 0) {
    return InvalidArgument("a kernel must have values");
  }
  const int64_t channels = weights.dim_size(weights.dims() - 1);
  *rows = std::make_unique<Rows>(weights.NumElements() / channels, channels, true);
  return absl::OkStatus();
}

class BinarizeOp : public OpKernel {
 public:
  explicit BinarizeOp(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("scaled", &scaled_));
    OP_REQUIRES_OK(c, c->GetAttr("floor", &floor_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& weights = context->input(0);
    std::unique_ptr<Rows> rows;
    OP_REQUIRES_OK(context, rows_of(weights, &rows));
    Tensor *values, *scale;
    OP_REQUIRES_OK(context, context->allocate_output(0, weights.shape(), &values));
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({rows->channels}), &scale));
    Sums sums(*rows, 1);
    const int size = type_of(*values) == kFloat ? 4 : 2;
    run_all(context, rows->chunks, rows->chunk_rows * rows->width, [&](int64_t chunk) {
      rows->of_chunk(chunk, [&](int64_t first, int64_t count, int64_t width) {
        const int64_t from = first * rows->width;
        kernels().signs({type_of(*values), count, width, weights.flat<float>().data() + from,
                         static_cast<char*>(values->data()) + from * size,
                         scaled_ ? 0.5f : 1.0f, sums.of(chunk, 0)});
      });
    });
    const std::vector<double> total = sums.total(0);
    for (int64_t c = 0; c < rows->channels; ++c) {
      const double mean = total[c] / rows->pixels;
      // Written so that what is not a number stays.
      scale->flat<float>()(c) = scaled_ ? 2 * (mean < floor_ ? floor_ : mean) : 1.0;
    }
  }

 private:
  bool scaled_;
  float floor_;
};

class BinarizeGradOp : public OpKernel {
 public:
  explicit BinarizeGradOp(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("clip", &clip_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &gradient = context->input(0), &scale = context->input(1);
    const Tensor& weights = context->input(2);
    std::unique_ptr<Rows> rows;
    OP_REQUIRES_OK(context, rows_of(weights, &rows));
    OP_REQUIRES(context, gradient.NumElements() == weights.NumElements() &&
                             scale.NumElements() == rows->channels,
                InvalidArgument("the gradient has not the kernel's shape"));
    Tensor* result;
    OP_REQUIRES_OK(context, context->allocate_output(0, weights.shape(), &result));
    const std::vector<float> factor =
        rows->repeated([&](int64_t c) { return 1.0f / scale.flat<float>()(c); });
    const Type type = type_of(gradient);
    const int size = type == kFloat ? 4 : 2;
    run_all(context, rows->chunks, rows->chunk_rows * rows->width, [&](int64_t chunk) {
      rows->of_chunk(chunk, [&](int64_t first, int64_t count, int64_t width) {
        const int64_t from = first * rows->width;
        kernels().straight_through({type, count, width,
                                    static_cast<const char*>(gradient.data()) + from * size,
                                    weights.flat<float>().data() + from,
                                    result->flat<float>().data() + from, factor.data(), clip_});
      });
    });
  }

 private:
  float clip_;
};

REGISTER_KERNEL_BUILDER(Name("CandleBinarize").Device(tensorflow::DEVICE_CPU), BinarizeOp);
REGISTER_KERNEL_BUILDER(Name("CandleBinarizeGrad").Device(tensorflow::DEVICE_CPU), BinarizeGradOp);

}  // namespace
}  // namespace candle
