"""The method (calibrate, distill, balance) and the baselines it is compared with."""
