"""Compiles the native operators into the package, for a wheel or an image without a compiler.

    python -m tools.build_native
    python -m tools.build_native --out=FOLDER

The library is for this version of TensorFlow and this kind of CPU (all x86-64 ones alike). Training
with --kernels=auto finds it in candle_tf/native/prebuilt; otherwise the first training compiles it.
"""

from pathlib import Path

from absl import flags

from candle_tf import app
from candle_tf.native.build import PREBUILT, build_into


def define_flags() -> None:
    """Defines this main's own flags."""
    flags.DEFINE_string("out", str(PREBUILT), "folder to write the library to")


def main() -> None:
    """Compiles, and prints where the library is."""
    print(f"Native operators: {build_into(Path(flags.FLAGS.out))}")


if __name__ == "__main__":
    define_flags()
    app.run(lambda _: main())
