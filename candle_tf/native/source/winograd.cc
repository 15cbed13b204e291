// The transforms of Winograd's F(2x2, 3x3) (Lavin & Gray, CVPR 2016), each in one pass.
//
// Tiles are 2x2 pixels of the output; T is the number of tiles of all images, image by image, row
// by row. What lies outside of a map is read as `padding` and not written.
//
//   CandleWinogradWindows   x [N, H, W, C] -> B d B^T of the 4x4 window of each tile, 16 of [T, C]
//   CandleWinogradTiles     dy [N, H, W, C] -> A d A^T of each 2x2 tile, 16 of [T, C]
//   CandleWinogradPixels    m, 16 of [T, C] -> A^T m A, [N, H, W, C]
//
// The adjoint of the last one is the second. The kernel's transforms, G g G^T and its adjoint, are
// two more operators, on [3, 3, C, C'] and 16 of [C, C']. The sixteen places are tensors of their
// own: TensorFlow multiplies sixteen matrices faster than a batch of them.

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
using tensorflow::shape_inference::ShapeHandle;

constexpr int kPlaces = 16;

absl::Status places_shape(InferenceContext* c) {
  ShapeHandle x;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &x));
  for (int i = 0; i < kPlaces; ++i) c->set_output(i, c->Matrix(c->UnknownDim(), c->Dim(x, 3)));
  return absl::OkStatus();
}

REGISTER_OP("CandleWinogradWindows")
    .Input("x: T")
    .Output("windows: places * T")
    .Attr("places: int = 16")
    .Attr("T: {float, bfloat16}")
    .Attr("padding: float = 0.0")
    .SetShapeFn(places_shape);

REGISTER_OP("CandleWinogradTiles")
    .Input("x: T")
    .Output("tiles: places * T")
    .Attr("places: int = 16")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn(places_shape);

REGISTER_OP("CandleWinogradPixels")
    .Input("products: places * T")
    .Output("y: T")
    .Attr("places: int = 16")
    .Attr("T: {float, bfloat16}")
    .Attr("height: int >= 1")
    .Attr("width: int >= 1")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle x;
      int64_t height, width;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x));
      TF_RETURN_IF_ERROR(c->GetAttr("height", &height));
      TF_RETURN_IF_ERROR(c->GetAttr("width", &width));
      c->set_output(0, c->MakeShape({c->UnknownDim(), c->MakeDim(height), c->MakeDim(width),
                                     c->Dim(x, 1)}));
      return absl::OkStatus();
    });

REGISTER_OP("CandleWinogradKernels")
    .Input("kernel: T")
    .Output("kernels: places * T")
    .Attr("places: int = 16")
    .Attr("T: {float, bfloat16}")
    .Attr("rotated: bool")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle x;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &x));
      for (int i = 0; i < kPlaces; ++i) c->set_output(i, c->Matrix(c->Dim(x, 2), c->Dim(x, 3)));
      return absl::OkStatus();
    });

REGISTER_OP("CandleWinogradKernelGrad")
    .Input("sums: places * T")
    .Output("d_kernel: T")
    .Attr("places: int = 16")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle x;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x));
      c->set_output(0, c->MakeShape({3, 3, c->Dim(x, 0), c->Dim(x, 1)}));
      return absl::OkStatus();
    });

struct Map {
  int64_t images, height, width, channels, down, across;

  explicit Map(const TensorShape& shape)
      : images(shape.dim_size(0)), height(shape.dim_size(1)), width(shape.dim_size(2)),
        channels(shape.dim_size(3)), down((height + 1) / 2), across((width + 1) / 2) {}

  int64_t tiles() const { return images * down * across; }
};

// The sixteen outputs, or inputs, of an operator.
struct Places {
  char* first[kPlaces];

  absl::Status allocate(OpKernelContext* context, const TensorShape& shape) {
    for (int i = 0; i < kPlaces; ++i) {
      Tensor* tensor;
      TF_RETURN_IF_ERROR(context->allocate_output(i, shape, &tensor));
      first[i] = static_cast<char*>(tensor->data());
    }
    return absl::OkStatus();
  }

  absl::Status read(OpKernelContext* context) {
    for (int i = 0; i < kPlaces; ++i) {
      const Tensor& tensor = context->input(i);
      if (tensor.dims() != 2 || tensor.shape() != context->input(0).shape()) {
        return InvalidArgument("there are sixteen matrices of one shape");
      }
      first[i] = const_cast<char*>(static_cast<const char*>(tensor.data()));
    }
    return absl::OkStatus();
  }

  // Where each of them is some bytes further on.
  void at(int64_t bytes, void** to) const {
    for (int i = 0; i < kPlaces; ++i) to[i] = first[i] + bytes;
  }
};

// Windows or tiles of a map, by a row of tiles at a time.
template <bool kWindows>
class FromMapOp : public OpKernel {
 public:
  explicit FromMapOp(OpKernelConstruction* c) : OpKernel(c) {
    if (kWindows) OP_REQUIRES_OK(c, c->GetAttr("padding", &padding_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    OP_REQUIRES(context, x.dims() == 4, InvalidArgument("a map has rank 4"));
    const Map map(x.shape());
    Places places;
    OP_REQUIRES_OK(context, places.allocate(context, TensorShape({map.tiles(), map.channels})));
    if (x.NumElements() == 0) return;
    const int64_t size = size_of(x);
    // What stands for a pixel outside.
    std::vector<float> wide(map.channels, padding_);
    std::vector<uint16_t> narrow(map.channels);
    kernels().to_bfloat16(wide.data(), narrow.data(), map.channels);
    const char* outside = size == 4 ? reinterpret_cast<const char*>(wide.data())
                                    : reinterpret_cast<const char*>(narrow.data());
    const char* from = static_cast<const char*>(x.data());
    const int64_t pixel = map.channels * size;
    run_all(context, map.images * map.down, map.across * map.channels * 32, [&](int64_t row) {
      const int64_t image = row / map.down, top = row % map.down * 2 - (kWindows ? 1 : 0);
      constexpr int kSide = kWindows ? 4 : 2;
      for (int64_t column = 0; column < map.across; ++column) {
        const int64_t left = column * 2 - (kWindows ? 1 : 0);
        const void* pixels[kSide * kSide];
        for (int i = 0; i < kSide * kSide; ++i) {
          const int64_t h = top + i / kSide, w = left + i % kSide;
          const bool inside = h >= 0 && h < map.height && w >= 0 && w < map.width;
          pixels[i] = inside ? from + ((image * map.height + h) * map.width + w) * pixel : outside;
        }
        void* to[kPlaces];
        places.at((row * map.across + column) * pixel, to);
        const WinogradValues values = {type_of(x), map.channels, pixels, to};
        kWindows ? kernels().winograd_window(values) : kernels().winograd_tile(values);
      }
    });
  }

 private:
  float padding_ = 0;
};

class PixelsOp : public OpKernel {
 public:
  explicit PixelsOp(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("height", &height_));
    OP_REQUIRES_OK(c, c->GetAttr("width", &width_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    Places places;
    OP_REQUIRES_OK(context, places.read(context));
    const int64_t each = (height_ + 1) / 2 * ((width_ + 1) / 2);
    OP_REQUIRES(context, x.dim_size(0) % each == 0, InvalidArgument("tiles of a part of an image"));
    const TensorShape shape({x.dim_size(0) / each, height_, width_, x.dim_size(1)});
    const Map map(shape);
    Tensor* y;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &y));
    if (y->NumElements() == 0) return;
    const int64_t pixel = map.channels * size_of(x);
    char* to = static_cast<char*>(y->data());
    run_all(context, map.images * map.down, map.across * map.channels * 32, [&](int64_t row) {
      const int64_t image = row / map.down, top = row % map.down * 2;
      for (int64_t column = 0; column < map.across; ++column) {
        void* pixels[4];
        for (int i = 0; i < 4; ++i) {
          const int64_t h = top + i / 2, w = column * 2 + i % 2;
          const bool inside = h < map.height && w < map.width;
          pixels[i] = inside ? to + ((image * map.height + h) * map.width + w) * pixel : nullptr;
        }
        void* from[kPlaces];
        places.at((row * map.across + column) * pixel, from);
        kernels().winograd_pixels({type_of(x), map.channels, nullptr, from}, pixels);
      }
    });
  }

 private:
  int64_t height_, width_;
};

class KernelsOp : public OpKernel {
 public:
  explicit KernelsOp(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("rotated", &rotated_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& kernel = context->input(0);
    OP_REQUIRES(context, kernel.dims() == 4 && kernel.dim_size(0) == 3 && kernel.dim_size(1) == 3,
                InvalidArgument("the kernel must be 3x3"));
    Places places;
    OP_REQUIRES_OK(context, places.allocate(context, TensorShape({kernel.dim_size(2),
                                                                  kernel.dim_size(3)})));
    const int64_t row = kernel.dim_size(3), rows = kernel.dim_size(2), size = size_of(kernel);
    const char* from = static_cast<const char*>(kernel.data());
    run_all(context, rows, row * 32, [&](int64_t i) {
      const void* taps[9];
      for (int k = 0; k < 9; ++k) {
        taps[k] = from + ((rotated_ ? 8 - k : k) * rows + i) * row * size;
      }
      void* to[kPlaces];
      places.at(i * row * size, to);
      kernels().winograd_kernel({type_of(kernel), row, taps, to});
    });
  }

 private:
  bool rotated_;
};

class KernelGradOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& sums = context->input(0);
    Places places;
    OP_REQUIRES_OK(context, places.read(context));
    Tensor* y;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, TensorShape({3, 3, sums.dim_size(0), sums.dim_size(1)}), &y));
    const int64_t row = sums.dim_size(1), rows = sums.dim_size(0), size = size_of(sums);
    char* to = static_cast<char*>(y->data());
    run_all(context, rows, row * 32, [&](int64_t i) {
      void* taps[9];
      for (int k = 0; k < 9; ++k) taps[k] = to + (k * rows + i) * row * size;
      void* from[kPlaces];
      places.at(i * row * size, from);
      kernels().winograd_kernel_gradient({type_of(sums), row, nullptr, from}, taps);
    });
  }
};

REGISTER_KERNEL_BUILDER(Name("CandleWinogradWindows").Device(tensorflow::DEVICE_CPU),
                        FromMapOp<true>);
REGISTER_KERNEL_BUILDER(Name("CandleWinogradTiles").Device(tensorflow::DEVICE_CPU),
                        FromMapOp<false>);
REGISTER_KERNEL_BUILDER(Name("CandleWinogradPixels").Device(tensorflow::DEVICE_CPU), PixelsOp);
REGISTER_KERNEL_BUILDER(Name("CandleWinogradKernels").Device(tensorflow::DEVICE_CPU), KernelsOp);
REGISTER_KERNEL_BUILDER(Name("CandleWinogradKernelGrad").Device(tensorflow::DEVICE_CPU),
                        KernelGradOp);

}  // namespace
}  // namespace candle
