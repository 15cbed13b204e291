// The convolution of -1 and +1 with a kernel of -a and +a, by exclusive or and counting of bits:
// 64 products in two instructions. Its sums are whole numbers, exact in float32; in bfloat16 they
// are rounded once.

#include "binary_conv.h"

#include <cstring>

#include "sides.h"
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

REGISTER_OP("CandleBinaryConv")
    .Input("x: T")
    .Input("kernel: T")
    .Output("y: T")
    .Attr("T: {float, bfloat16}")
    .Attr("stride: int >= 1")
    .Attr("padding: int = 1")
    .Attr("magnitude: float = 1.0")
    .SetShapeFn(same_output_shape);

class BinaryConvOp : public OpKernel {
 public:
  explicit BinaryConvOp(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("stride", &stride_));
    OP_REQUIRES_OK(c, c->GetAttr("padding", &padding_));
    OP_REQUIRES(c, padding_ >= -1 && padding_ <= 1, InvalidArgument("padding is -1, 0 or 1"));
    OP_REQUIRES_OK(c, c->GetAttr("magnitude", &magnitude_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &x = context->input(0), &kernel = context->input(1);
    OP_REQUIRES(context, x.dims() == 4 && kernel.dims() == 4 && kernel.dim_size(2) == x.dim_size(3),
                InvalidArgument("a map [N, H, W, C] takes a kernel [k, k, C, C']"));
    OP_REQUIRES(context, x.dim_size(3) > 0 && kernel.dim_size(0) > 0 && kernel.dim_size(1) > 0,
                InvalidArgument("the kernel is empty"));
    const Side rows(x.dim_size(1), kernel.dim_size(0), stride_);
    const Side columns(x.dim_size(2), kernel.dim_size(1), stride_);
    Tensor* y;
    const TensorShape shape({x.dim_size(0), rows.output, columns.output, kernel.dim_size(3)});
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &y));
    if (y->NumElements() == 0) return;
    const Layout layout(x.dim_size(3), rows.window * columns.window, kernel.dim_size(3));
    Tensor map, packed;
    OP_REQUIRES_OK(context, words(context, layout.map_bytes(x.NumElements() / x.dim_size(3)), &map));
    OP_REQUIRES_OK(context, words(context, layout.kernel_words() * 8, &packed));
    pack_map(context, x, layout, bytes(&map));
    pack_kernel(context, kernel, layout, reinterpret_cast<uint64_t*>(bytes(&packed)));
    convolve(context, rows, columns, layout, bytes(&map),
             reinterpret_cast<const uint64_t*>(bytes(&packed)), y);
  }

 private:
  // Where bits lie: each tap of a window has `unit` bytes, those of a window follow each other.
  struct Layout {
    int64_t channels, unit, taps, words, filters, blocks;

    Layout(int64_t channels, int64_t taps, int64_t filters)
        : channels(channels), taps(taps), filters(filters) {
      unit = channels <= 8 ? 1 : channels <= 16 ? 2 : channels <= 32 ? 4 : (channels + 63) / 64 * 8;
      words = (taps * unit + 7) / 8;
      blocks = (filters + kBlock - 1) / kBlock;
    }
    // A word more than needed: the last pixel is packed as whole words.
    int64_t map_bytes(int64_t pixels) const { return pixels * unit + 8; }
    int64_t kernel_words() const { return blocks * words * kBlock; }
    bool dense() const { return channels == unit * 8; }
  };

  static constexpr int64_t kRowsOfPiece = 48;
  static constexpr int64_t kBlocksOfPiece = 8;

  static absl::Status words(OpKernelContext* context, int64_t size, Tensor* tensor) {
    return context->allocate_temp(tensorflow::DT_INT64, TensorShape({(size + 7) / 8}), tensor);
  }

  static char* bytes(Tensor* tensor) { return static_cast<char*>(tensor->data()); }

  static void pack_map(OpKernelContext* context, const Tensor& x, const Layout& layout, char* to) {
    const int64_t pixels = x.NumElements() / layout.channels;
    const Type type = type_of(x);
    const char* values = static_cast<const char*>(x.data());
    const int64_t pixel_size = layout.channels * (type == kFloat ? 4 : 2);
    // Whole words, whatever a pixel takes.
    const int64_t piece = 64 * std::max<int64_t>(1, 128 / layout.channels);
    run_all(context, (pixels + piece - 1) / piece, piece * layout.channels, [&](int64_t i) {
      const int64_t begin = i * piece, end = std::min(pixels, begin + piece);
      if (layout.dense()) {
        // Of the last word only what belongs to the map is written.
        const int64_t count = (end - begin) * layout.channels, whole = count / 64 * 64;
        char* out = to + begin * layout.unit;
        binary_kernels().pack(values + begin * pixel_size, type, whole,
                              reinterpret_cast<uint64_t*>(out));
        if (whole < count) {
          uint64_t last = 0;
          binary_kernels().pack(values + begin * pixel_size + whole * (type == kFloat ? 4 : 2),
                                type, count - whole, &last);
          std::memcpy(out + whole / 8, &last, (count - whole) / 8);
        }
        return;
      }
      std::vector<uint64_t> pixel((layout.channels + 63) / 64);
      for (int64_t p = begin; p < end; ++p) {
        binary_kernels().pack(values + p * pixel_size, type, layout.channels, pixel.data());
        std::memcpy(to + p * layout.unit, pixel.data(), layout.unit);
      }
    });
  }

  static void pack_kernel(OpKernelContext* context, const Tensor& kernel, const Layout& layout,
                          uint64_t* to) {
    const Type type = type_of(kernel);
    const int64_t size = type == kFloat ? 4 : 2;
    const char* values = static_cast<const char*>(kernel.data());
    const int64_t block_words = layout.words * kBlock;
    // A row of the kernel, all filters of one channel, lies in one piece of memory: rows are read
    // one after the other, those of one word by one thread.
    run_all(context, layout.words, 64 * layout.filters, [&](int64_t word) {
      for (int64_t block = 0; block < layout.blocks; ++block) {
        std::memset(to + block * block_words + word * kBlock, 0, kBlock * 8);
      }
      for (int64_t bit = 64 * word; bit < 64 * word + 64; ++bit) {
        const int64_t tap = bit / (layout.unit * 8), channel = bit % (layout.unit * 8);
        if (tap >= layout.taps || channel >= layout.channels) continue;
        const int64_t from = (tap * layout.channels + channel) * layout.filters;
        binary_kernels().set_bits(values + from * size, type, layout.filters, bit % 64, block_words,
                                  to + word * kBlock);
      }
    });
  }

  void convolve(OpKernelContext* context, const Side& rows, const Side& columns,
                const Layout& layout, const char* map, const uint64_t* kernel, Tensor* y) const {
    const int64_t outputs = y->NumElements() / layout.filters;
    const int64_t row_pieces = (outputs + kRowsOfPiece - 1) / kRowsOfPiece;
    const int64_t block_pieces = (layout.blocks + kBlocksOfPiece - 1) / kBlocksOfPiece;
    // What lies around a map: channels alone, as bits behind them are 0 on both sides.
    std::string outside(layout.unit, 0);
    if (padding_ < 0) {
      for (int64_t c = 0; c < layout.channels; ++c) outside[c / 8] |= 1 << c % 8;
    }
    const Type type = type_of(*y);
    char* out = static_cast<char*>(y->data());
    const int64_t cost = kRowsOfPiece * kBlocksOfPiece * kBlock * layout.words / 4;
    run_all(context, row_pieces * block_pieces, cost, [&](int64_t piece) {
      const int64_t begin = piece / block_pieces * kRowsOfPiece;
      const int64_t count = std::min(outputs - begin, kRowsOfPiece);
      std::vector<uint64_t> windows(count * layout.words, 0);
      // With 0 around the map only what is inside counts.
      std::vector<uint64_t> masks(padding_ == 0 ? count * layout.words : 0, 0);
      std::vector<int32_t> sizes(count, layout.taps * layout.channels);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = i * layout.words;
        window(begin + i, rows, columns, layout, map, outside,
               reinterpret_cast<char*>(windows.data() + at));
        if (padding_ == 0) {
          sizes[i] = layout.channels *
                     mask(begin + i, rows, columns, layout.unit,
                          reinterpret_cast<char*>(masks.data() + at));
        }
      }
      const int64_t first = piece % block_pieces * kBlocksOfPiece;
      const int64_t last = std::min(layout.blocks, first + kBlocksOfPiece);
      for (int64_t block = first; block < last; ++block) {
        const int64_t to = begin * layout.filters + block * kBlock;
        binary_kernels().multiply(
            windows.data(), padding_ == 0 ? masks.data() : nullptr, sizes.data(),
            kernel + block * layout.words * kBlock, count, layout.words,
            std::min<int64_t>(kBlock, layout.filters - block * kBlock), magnitude_, out + to * (type == kFloat ? 4 : 2), type,
            layout.filters);
      }
    });
  }

  // Sets the bits under one output that lie inside of the map; returns how many taps these are.
  static int32_t mask(int64_t output, const Side& rows, const Side& columns, int64_t unit,
                      char* to) {
    const int64_t top = output / columns.output % rows.output * rows.stride - rows.before;
    const int64_t left = output % columns.output * columns.stride - columns.before;
    int32_t taps = 0;
    for (int64_t i = 0; i < rows.window; ++i) {
      for (int64_t j = 0; j < columns.window; ++j, to += unit) {
        if (top + i < 0 || top + i >= rows.input || left + j < 0 || left + j >= columns.input) {
          continue;
        }
        std::memset(to, 0xff, unit);
        ++taps;
      }
    }
    return taps;
  }

  // Copies the bits under one output.
  static void window(int64_t output, const Side& rows, const Side& columns, const Layout& layout,
                     const char* map, const std::string& outside, char* to) {
    const int64_t column = output % columns.output, row = output / columns.output % rows.output;
    const int64_t image = output / columns.output / rows.output;
    const int64_t left = column * columns.stride - columns.before;
    for (int64_t i = 0; i < rows.window; ++i) {
      const int64_t at_row = row * rows.stride - rows.before + i;
      const bool inside = at_row >= 0 && at_row < rows.input;
      const char* from = map + (image * rows.input + at_row) * columns.input * layout.unit;
      if (inside && left >= 0 && left + columns.window <= columns.input) {
        std::memcpy(to, from + left * layout.unit, columns.window * layout.unit);
        to += columns.window * layout.unit;
        continue;
      }
      for (int64_t j = 0; j < columns.window; ++j, to += layout.unit) {
        const bool here = inside && left + j >= 0 && left + j < columns.input;
        std::memcpy(to, here ? from + (left + j) * layout.unit : outside.data(), layout.unit);
      }
    }
  }

  int64_t stride_;
  int64_t padding_;
  float magnitude_;
};

REGISTER_KERNEL_BUILDER(Name("CandleBinaryConv").Device(tensorflow::DEVICE_CPU), BinaryConvOp);

}  // namespace
}  // namespace candle
