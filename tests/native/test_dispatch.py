import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native.availability import needs_native

pytestmark = needs_native

# Forward and gradients of each operator on odd shapes; exactness of the binary convolution.
_NAMES = ("output_and_gradients", "sums_are_exact", "chain", "straight_through", "test_means")
TESTS = " or ".join(_NAMES)


@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"])
def test_operators_are_right_with_smaller_instruction_sets(instructions):
    tests = [
        f"test_{name}.py"
        for name in ("conv", "sign_conv_grad", "pool", "binary_conv", "norm_chain", "binarize")
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-k", TESTS, *tests],
        cwd=Path(__file__).parent,
        env={**os.environ, "CANDLE_TF_INSTRUCTIONS": instructions},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
