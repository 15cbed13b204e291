"""Bazel's native rules under the names of rules_python, for Bazel without modules (WORKSPACE)."""

py_binary = native.py_binary
py_library = native.py_library
py_test = native.py_test
