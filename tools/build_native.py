"""Compiles the native operators into the package, for a wheel or an image without a compiler.

    python -m tools.build_native
    python -m tools.build_native --out=FOLDER
    python -m tools.build_native --compile_for=aarch64     # whether a cross compiler takes them

The library is for this version of TensorFlow and this kind of CPU (all x86-64 ones alike). Training
with --kernels=auto finds it in candle_tf/native/prebuilt; otherwise the first training compiles it.
"""

from pathlib import Path

from absl import flags

from candle_tf import app
from candle_tf.native.build import PREBUILT, build_into, compile_for


def define_flags() -> None:
    """Defines this main's own flags."""
    flags.DEFINE_string("out", str(PREBUILT), "folder to write the library to")
    flags.DEFINE_string(
        "compile_for",
        "",
        "compile for this kind of CPU with <kind>-linux-gnu-g++ instead, and keep nothing",
    )


def main() -> None:
    """Compiles, and prints where the library is."""
    if machine := flags.FLAGS.compile_for:
        objects = compile_for(machine, f"{machine}-linux-gnu-g++")
        print(f"Native operators: {objects} objects compiled for {machine}")
        return
    print(f"Native operators: {build_into(Path(flags.FLAGS.out))}")


if __name__ == "__main__":
    define_flags()
    app.run(lambda _: main())
