"""Classifiers trained once more, on frozen features with class-balanced sampling.

* cRT: a new classifier by cross-entropy (Kang et al., "Decoupling Representation and Classifier",
  ICLR 2020, section 4);
* MiSLAS: learnable weight scaling by label-aware smoothing (Zhong et al., "Improving Calibration",
  CVPR 2021, eq. 5 to 7), with --smoothing_head and --smoothing_tail. Its first stage has
  --mix=mixup;
* CANDLE and cRT: with --balance=fixed --fixed_lambda=0 the student learns from the teacher's
  features alone, and needs a classifier afterwards.
"""

from candle_tf.methods.method import TwoStageMethod

CRT = TwoStageMethod("cross_entropy", "cross_entropy")
MISLAS = TwoStageMethod("cross_entropy", "label_aware_smoothing", scale_only=True)
CANDLE_CRT = TwoStageMethod("candle", "cross_entropy", distils=True)
