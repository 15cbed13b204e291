"""`bazel test //:all_tests` and `//:timing_test` run pytest through this."""

import sys

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[1:]))
