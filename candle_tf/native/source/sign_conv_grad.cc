// The gradients of a "SAME" convolution of -1 and +1 with a kernel of -a and +a, by lookup tables
// (`lookup.h`).
//
//   CandleSignConvInputGrad    the gradient of x, from dy and the kernel
//   CandleSignConvKernelGrad   the gradient of the kernel, from x and dy
//
// One operand of both products is dy, the other one signs. dy becomes 16-bit integers. A segment of
// it, some hundred values that are summed at once, has the scale at which the sum of their magnitudes
// just fits. Their sums are exact; those of segments are added in float32, in a fixed order.

#include "lookup.h"

#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>

#include "binary_conv.h"
#include "sides.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "work.h"

namespace candle {
namespace sign_conv {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;

REGISTER_OP("CandleSignConvInputGrad")
    .Input("dy: T")
    .Input("kernel: T")
    .Input("x: T")
    .Output("dx: T")
    .Attr("T: {float, bfloat16}")
    .Attr("stride: int >= 1")
    .Attr("magnitude: float = 1.0")
    .SetShapeFn(shape_of_third);

REGISTER_OP("CandleSignConvKernelGrad")
    .Input("x: T")
    .Input("dy: T")
    .Input("kernel: T")
    .Output("d_kernel: T")
    .Attr("T: {float, bfloat16}")
    .Attr("stride: int >= 1")
    .Attr("padding: int = 1")
    .SetShapeFn(shape_of_third);

// Tables of a segment, at least one pixel's.
constexpr int64_t kSegmentTables = 105;
// Columns that one call of the loops computes.
constexpr int64_t kColumns = kColumnBlocks * kTableSize;
constexpr int64_t kTableRoom = kTableRows * kTableSize;
constexpr int64_t kChunkBytes = 1 << 18;

// Sizes of x [N, H, W, C], the kernel [k, k, C, F] and dy.
struct Sizes {
  int64_t images, channels, filters;
  Side rows, columns;

  Sizes(const Tensor& x, const Tensor& kernel, int64_t stride)
      : images(x.dim_size(0)), channels(x.dim_size(3)), filters(kernel.dim_size(3)),
        rows(x.dim_size(1), kernel.dim_size(0), stride),
        columns(x.dim_size(2), kernel.dim_size(1), stride) {}

  static absl::Status check(const Tensor& x, const Tensor& kernel, const Tensor& dy,
                            int64_t stride) {
    if (x.dims() != 4 || kernel.dims() != 4 || dy.dims() != 4 ||
        kernel.dim_size(2) != x.dim_size(3)) {
      return InvalidArgument("a map [N, H, W, C] takes a kernel [k, k, C, C']");
    }
    const Sizes sizes(x, kernel, stride);
    const TensorShape shape(
        {sizes.images, sizes.rows.output, sizes.columns.output, sizes.filters});
    if (dy.shape() != shape) return InvalidArgument("dy must have the convolution's shape");
    if (sizes.images > 1 << 15) return InvalidArgument("a batch has at most 32,768 images");
    return absl::OkStatus();
  }

  int64_t taps() const { return rows.window * columns.window; }
  int64_t inputs() const { return rows.input * columns.input; }
  int64_t outputs() const { return rows.output * columns.output; }

  // The output to which an input gives by a tap, or -1.
  int64_t output_of(int64_t input, int64_t tap) const {
    const int64_t h = of(rows, input / columns.input, tap / columns.window);
    const int64_t w = of(columns, input % columns.input, tap % columns.window);
    return h < 0 || w < 0 ? -1 : h * columns.output + w;
  }

  // The input that an output reads by a tap, or -1 for padding.
  int64_t input_of(int64_t output, int64_t tap) const {
    const int64_t h = output / columns.output * rows.stride + tap / columns.window - rows.before;
    const int64_t w =
        output % columns.output * columns.stride + tap % columns.window - columns.before;
    const bool inside = h >= 0 && h < rows.input && w >= 0 && w < columns.input;
    return inside ? h * columns.input + w : -1;
  }

 private:
  static int64_t of(const Side& side, int64_t input, int64_t tap) {
    const int64_t first = input + side.before - tap;
    if (first < 0 || first % side.stride != 0 || first / side.stride >= side.output) return -1;
    return first / side.stride;
  }
};

// What values are multiplied with before they are rounded, and what undoes it.
struct Scale {
  float factor, inverse;

  // Of values whose magnitudes have a sum.
  Scale(float magnitude, int64_t values) {
    const float most = kTableSum - 0.5f * values;   // each may be rounded up by a half
    const bool finite = magnitude <= FLT_MAX, zero = finite && magnitude < 1e-30f;
    factor = finite && !zero ? most / magnitude : 0.0f;
    inverse = zero ? 0.0f : finite ? magnitude / most : std::numeric_limits<float>::quiet_NaN();
  }
};

inline int blocks_of(int64_t columns) {
  return int(parts(std::min<int64_t>(columns, kColumns), kTableSize));
}

class InputGradOp : public OpKernel {
 public:
  explicit InputGradOp(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("stride", &stride_));
    OP_REQUIRES_OK(c, c->GetAttr("magnitude", &magnitude_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &dy = context->input(0), &kernel = context->input(1), &x = context->input(2);
    OP_REQUIRES_OK(context, Sizes::check(x, kernel, dy, stride_));
    Tensor* dx;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &dx));
    if (dx->NumElements() == 0) return;
    const Sizes sizes(x, kernel, stride_);
    const Layout layout(sizes);
    const auto words = room<uint16_t>(layout.words_size());
    pack(context, kernel, sizes, layout, words.get());
    const int64_t groups = parts(sizes.images, kTableRows);
    const int64_t cost = sizes.inputs() * sizes.taps() * sizes.channels * sizes.filters / 40;
    run_all(context, groups, cost, [&](int64_t group) {
      const int64_t first = group * kTableRows;
      const int64_t images = std::min<int64_t>(kTableRows, sizes.images - first);
      const auto tables = room<int16_t>(sizes.outputs() * layout.tables * kTableRoom);
      std::vector<float> scales(sizes.outputs() * layout.segments * kTableRows, 0.0f);
      tabulate(dy, sizes, layout, first, images, tables.get(), scales.data());
      multiply(sizes, layout, first, images, words.get(), tables.get(), scales.data(), dx);
    });
  }

 private:
  // Words [tap, block of kColumns channels, word of filters, kColumns].
  struct Layout {
    int64_t taps, tables, words, segments, segment_words, blocks;

    explicit Layout(const Sizes& sizes)
        : taps(sizes.taps()), tables(parts(sizes.filters, kTableValues)),
          words(parts(sizes.filters, kWordSigns)),
          segments(parts(std::max<int64_t>(words, 1), kSegmentTables / kWordTables)),
          segment_words(parts(words, segments)), blocks(parts(sizes.channels, kColumns)) {}

    int64_t words_size() const { return taps * blocks * words * kColumns; }
    int64_t words_at(int64_t tap, int64_t block, int64_t word) const {
      return ((tap * blocks + block) * words + word) * kColumns;
    }
    int64_t first_table(int64_t segment) const {
      return std::min(tables, segment * segment_words * kWordTables);
    }
  };

  static void pack(OpKernelContext* context, const Tensor& kernel, const Sizes& sizes,
                   const Layout& layout, uint16_t* words) {
    const Type type = type_of(kernel);
    const char* values = static_cast<const char*>(kernel.data());
    const int64_t row = sizes.filters * size_of(kernel);
    run_all(context, layout.taps * layout.blocks, kColumns * sizes.filters, [&](int64_t piece) {
      const int64_t tap = piece / layout.blocks, block = piece % layout.blocks;
      uint16_t* to = words + layout.words_at(tap, block, 0);
      // A word more than needed, as pieces of 15 bits are read from two.
      std::vector<uint64_t> bits(parts(sizes.filters, 64) + 1, 0);
      for (int64_t i = 0; i < kColumns; ++i) {
        const int64_t channel = block * kColumns + i;
        if (channel < sizes.channels) {
          binary_kernels().pack(values + (tap * sizes.channels + channel) * row, type,
                                sizes.filters, bits.data());
        } else {
          std::fill(bits.begin(), bits.end(), 0);
        }
        for (int64_t word = 0; word < layout.words; ++word) {
          const int64_t bit = word * kWordSigns, at = bit % 64;
          const uint64_t low = bits[bit / 64] >> at;
          const uint64_t high = at == 0 ? 0 : bits[bit / 64 + 1] << (64 - at);
          to[word * kColumns + i] = uint16_t(low | high) & 0x7fff;
        }
      }
    });
  }

  // Tables [output, table, image, 32] and what undoes their scales [output, segment, image].
  static void tabulate(const Tensor& dy, const Sizes& sizes, const Layout& layout, int64_t first,
                       int64_t images, int16_t* tables, float* scales) {
    const Type type = type_of(dy);
    const int64_t size = size_of(dy);
    const char* values = static_cast<const char*>(dy.data());
    std::vector<int16_t> whole(layout.tables * kTableValues, 0);
    for (int64_t output = 0; output < sizes.outputs(); ++output) {
      int16_t* to = tables + output * layout.tables * kTableRoom;
      if (images < kTableRows) std::fill(to, to + layout.tables * kTableRoom, 0);
      for (int64_t image = 0; image < images; ++image) {
        const char* from =
            values + ((first + image) * sizes.outputs() + output) * sizes.filters * size;
        for (int64_t segment = 0; segment < layout.segments; ++segment) {
          const int64_t begin = layout.first_table(segment) * kTableValues;
          const int64_t end =
              std::min(sizes.filters, layout.first_table(segment + 1) * kTableValues);
          if (begin >= end) continue;
          const Scale scale(lookup_kernels().magnitude(from + begin * size, type, end - begin),
                            end - begin);
          lookup_kernels().scale(from + begin * size, type, end - begin, scale.factor,
                                 whole.data() + begin);
          scales[(output * layout.segments + segment) * kTableRows + image] = scale.inverse;
        }
        lookup_kernels().fill(whole.data(), 1, layout.tables, kTableValues, kTableRoom,
                              to + image * kTableSize);
      }
    }
  }

  void multiply(const Sizes& sizes, const Layout& layout, int64_t first, int64_t images,
                const uint16_t* words, const int16_t* tables, const float* scales,
                Tensor* dx) const {
    const Type type = type_of(*dx);
    const int64_t size = size_of(*dx);
    char* result = static_cast<char*>(dx->data());
    for (int64_t block = 0; block < layout.blocks; ++block) {
      const int64_t begin = block * kColumns;
      const int64_t width = std::min(kColumns, sizes.channels - begin);
      for (int64_t input = 0; input < sizes.inputs(); ++input) {
        float sums[kTableRows * kColumns] = {};
        for (int64_t tap = 0; tap < layout.taps; ++tap) {
          const int64_t output = sizes.output_of(input, tap);
          if (output < 0) continue;
          for (int64_t segment = 0; segment < layout.segments; ++segment) {
            const int64_t table = layout.first_table(segment);
            const TablePiece piece = {
                words + layout.words_at(tap, block, segment * layout.segment_words),
                tables + (output * layout.tables + table) * kTableRoom};
            lookup_kernels().multiply(&piece, 1, layout.first_table(segment + 1) - table, kColumns,
                                      blocks_of(width),
                                      scales + (output * layout.segments + segment) * kTableRows,
                                      sums, kColumns);
          }
        }
        for (int64_t image = 0; image < images; ++image) {
          const int64_t at = ((first + image) * sizes.inputs() + input) * sizes.channels + begin;
          lookup_kernels().store(sums + image * kColumns, width, magnitude_, result + at * size,
                                 type);
        }
      }
    }
  }

  int64_t stride_;
  float magnitude_;
};

class KernelGradOp : public OpKernel {
 public:
  explicit KernelGradOp(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("stride", &stride_));
    OP_REQUIRES_OK(c, c->GetAttr("padding", &padding_));
    OP_REQUIRES(c, padding_ >= -1 && padding_ <= 1, InvalidArgument("padding is -1, 0 or 1"));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &x = context->input(0), &dy = context->input(1), &kernel = context->input(2);
    OP_REQUIRES_OK(context, Sizes::check(x, kernel, dy, stride_));
    Tensor* result;
    OP_REQUIRES_OK(context, context->allocate_output(0, kernel.shape(), &result));
    if (result->NumElements() == 0) return;
    const Sizes sizes(x, kernel, stride_);
    if (sizes.outputs() == 0) {
      std::memset(result->data(), 0, result->NumElements() * size_of(*result));
      return;
    }
    const Layout layout(sizes);
    const auto words = room<uint16_t>(sizes.inputs() * layout.words * layout.width);
    pack(context, x, sizes, layout, words.get());
    const int64_t cost = sizes.outputs() * sizes.taps() * sizes.channels * sizes.images / 3;
    run_all(context, parts(sizes.filters, kFilters), cost, [&](int64_t piece) {
      accumulate(dy, sizes, layout, piece * kFilters, words.get(), result);
    });
  }

 private:
  // Words [input, word of images, channels filled up to whole vectors].
  struct Layout {
    int64_t tables, words, width, segment, chunk;

    explicit Layout(const Sizes& sizes)
        : tables(parts(sizes.images, kTableValues)), words(parts(sizes.images, kWordSigns)),
          width(rounded_up(sizes.channels, kTableSize)) {
      const int64_t outputs = std::max<int64_t>(sizes.outputs(), 1);
      const int64_t most = std::max<int64_t>(1, kSegmentTables / std::max<int64_t>(tables, 1));
      segment = parts(outputs, parts(outputs, most));
      const int64_t bytes = std::max<int64_t>(tables, 1) * kFilters * kTableSize * 2;
      chunk = std::max<int64_t>(1, kChunkBytes / bytes / segment) * segment;
    }
  };

  static void pack(OpKernelContext* context, const Tensor& x, const Sizes& sizes,
                   const Layout& layout, uint16_t* words) {
    const Type type = type_of(x);
    const int64_t pixel = sizes.channels * size_of(x);
    const char* values = static_cast<const char*>(x.data());
    run_all(context, sizes.inputs(), sizes.images * sizes.channels, [&](int64_t input) {
      uint16_t* to = words + input * layout.words * layout.width;
      std::fill(to, to + layout.words * layout.width, 0);
      for (int64_t image = 0; image < sizes.images; ++image) {
        lookup_kernels().set_signs(values + (image * sizes.inputs() + input) * pixel, type,
                                   sizes.channels, image % kWordSigns,
                                   to + image / kWordSigns * layout.width);
      }
    });
  }

  // The gradient of some filters.
  void accumulate(const Tensor& dy, const Sizes& sizes, const Layout& layout, int64_t first,
                  const uint16_t* words, Tensor* result) const {
    const int64_t filters = std::min(kFilters, sizes.filters - first);
    const bool one_chunk = layout.chunk >= sizes.outputs();
    const int64_t room_of_tap = kFilters * layout.width;
    std::vector<float> gradient((one_chunk ? 1 : sizes.taps()) * room_of_tap, 0.0f);
    std::vector<float> sums(sizes.outputs() * kFilters, 0.0f);   // of dy, over the images
    const auto tables = room<int16_t>(std::min(layout.chunk, sizes.outputs()) * layout.tables *
                                      kFilters * kTableSize);
    std::vector<float> scales(parts(layout.chunk, layout.segment) * kFilters);
    const auto write = [&](int64_t tap, const float* of_tap) {
      float offsets[kFilters] = {};
      if (padding_ != 0) add_padding(sizes, tap, sums.data(), offsets);
      const int64_t at = tap * sizes.channels * sizes.filters + first;
      lookup_kernels().transpose(of_tap, layout.width, filters, sizes.channels, offsets,
                                 static_cast<char*>(result->data()) + at * size_of(*result),
                                 type_of(*result), sizes.filters);
    };
    for (int64_t begin = 0; begin < sizes.outputs(); begin += layout.chunk) {
      const int64_t end = std::min(sizes.outputs(), begin + layout.chunk);
      tabulate(dy, sizes, layout, first, filters, begin, end, tables.get(), scales.data(),
               sums.data());
      for (int64_t tap = 0; tap < sizes.taps(); ++tap) {
        float* of_tap = gradient.data() + (one_chunk ? 0 : tap * room_of_tap);
        multiply(sizes, layout, tap, begin, end, words, tables.get(), scales.data(), of_tap);
        if (one_chunk) {
          write(tap, of_tap);
          std::fill(gradient.begin(), gradient.end(), 0.0f);
        }
      }
    }
    for (int64_t tap = 0; tap < sizes.taps() && !one_chunk; ++tap) {
      write(tap, gradient.data() + tap * room_of_tap);
    }
  }

  // Tables [output, four filters, table, filter, 32] and what undoes their scales
  // [segment, filter].
  static void tabulate(const Tensor& dy, const Sizes& sizes, const Layout& layout, int64_t first,
                       int64_t filters, int64_t begin, int64_t end, int16_t* tables, float* scales,
                       float* sums) {
    const Type type = type_of(dy);
    const char* values = static_cast<const char*>(dy.data());
    const int64_t image = sizes.outputs() * sizes.filters;
    const auto at = [&](int64_t output) {
      return values + (output * sizes.filters + first) * size_of(dy);
    };
    std::vector<int16_t> whole(layout.tables * kTableValues * kFilters, 0);
    for (int64_t low = begin; low < end; low += layout.segment, scales += kFilters) {
      const int64_t high = std::min(end, low + layout.segment);
      float magnitudes[kFilters] = {}, factors[kFilters] = {};
      for (int64_t output = low; output < high; ++output) {
        lookup_kernels().add_columns(at(output), type, sizes.images, image, filters, magnitudes,
                                     sums + output * kFilters);
      }
      for (int64_t filter = 0; filter < kFilters; ++filter) {
        const Scale scale(magnitudes[filter], (high - low) * sizes.images);
        factors[filter] = scale.factor;
        scales[filter] = scale.inverse;
      }
      for (int64_t output = low; output < high; ++output) {
        lookup_kernels().scale_columns(at(output), type, sizes.images, image, filters, factors,
                                       whole.data());
        int16_t* to = tables + (output - begin) * layout.tables * kFilters * kTableSize;
        for (int64_t row = 0; row < kFilters / kTableRows; ++row) {
          for (int64_t table = 0; table < layout.tables; ++table, to += kTableRoom) {
            lookup_kernels().fill(whole.data() + table * kTableValues * kFilters + row * kTableRows,
                                  kFilters, kTableRows, 1, kTableSize, to);
          }
        }
      }
    }
  }

  static void multiply(const Sizes& sizes, const Layout& layout, int64_t tap, int64_t begin,
                       int64_t end, const uint16_t* words, const int16_t* tables,
                       const float* scales, float* gradient) {
    std::vector<TablePiece> pieces(layout.segment);
    for (int64_t column = 0; column < layout.width; column += kColumns) {
      for (int64_t row = 0; row < kFilters / kTableRows; ++row) {
        const float* undo = scales + row * kTableRows;
        float* to = gradient + row * kTableRows * layout.width + column;
        for (int64_t low = begin; low < end; low += layout.segment, undo += kFilters) {
          int64_t count = 0;
          for (int64_t output = low; output < std::min(end, low + layout.segment); ++output) {
            const int64_t input = sizes.input_of(output, tap);
            if (input < 0) continue;
            const int64_t table =
                ((output - begin) * (kFilters / kTableRows) + row) * layout.tables;
            pieces[count++] = {words + input * layout.words * layout.width + column,
                               tables + table * kTableRoom};
          }
          if (count == 0) continue;
          lookup_kernels().multiply(pieces.data(), count, layout.tables, layout.width,
                                    blocks_of(layout.width - column), undo, to, layout.width);
        }
      }
    }
  }

  // What lies around the map is the same value for all channels.
  void add_padding(const Sizes& sizes, int64_t tap, const float* sums, float* offsets) const {
    for (int64_t output = 0; output < sizes.outputs(); ++output) {
      if (sizes.input_of(output, tap) >= 0) continue;
      for (int64_t f = 0; f < kFilters; ++f) {
        offsets[f] += float(padding_) * sums[output * kFilters + f];
      }
    }
  }

  int64_t stride_;
  int64_t padding_;
};

REGISTER_KERNEL_BUILDER(Name("CandleSignConvInputGrad").Device(tensorflow::DEVICE_CPU),
                        InputGradOp);
REGISTER_KERNEL_BUILDER(Name("CandleSignConvKernelGrad").Device(tensorflow::DEVICE_CPU),
                        KernelGradOp);

}  // namespace sign_conv
}  // namespace candle
