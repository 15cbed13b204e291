"""What pyproject.toml cannot say: configs/ is installed as the package `candle_tf.configs`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["candle_tf*"]), "candle_tf.configs"],
    package_dir={"candle_tf.configs": "configs"},
    package_data={
        "candle_tf": [
            "py.typed",
            "*.pyi",
            "native/source/*.cc",
            "native/source/*.h",
            "native/prebuilt/*.so",
            "students/weights/*.safetensors",
            "students/weights/*.json",
        ],
        "candle_tf.configs": ["*.cfg"],
    },
)
