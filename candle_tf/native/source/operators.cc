// All operators as one file to compile: most of the time goes into TensorFlow's headers.

#include "adam.cc"
#include "binarize.cc"
#include "binary_conv.cc"
#include "conv.cc"
#include "instructions.cc"
#include "norm_chain.cc"
#include "pool.cc"
#include "sign_conv_grad.cc"
#include "winograd.cc"
