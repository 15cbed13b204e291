"""Pretrains a binary student on unlabelled images, from a frozen teacher's features.

    python -m candle_tf.pretrain --data_dir=images.zip --width=0.5 --run_dir=runs/pretrained
    python -m candle_tf.train ... --width=0.5 --student_weights=runs/pretrained/student.safetensors

The same command resumes where it was stopped; one with more --epochs continues.
"""

import dataclasses

from absl import flags

from candle_tf import app
from candle_tf.stages.pretrain_settings import Pretraining

_HELP = {
    "Data": ("data_dir", "test_data_dir", "on_bad_image", "heldout_fraction"),
    "Teacher": ("teacher", "teacher_size", "views"),
    "Student": ("student", "width", "image_size"),
    "Training": ("epochs", "batch_size", "learning_rate", "decay_fraction"),
    "Run": ("run_dir", "cache_dir", "seed", "flagfile"),
}


def main(settings: Pretraining) -> None:
    """Pretrains, and says where the weights are."""
    # Imported here, so that a mistyped flag is refused at once and not after TensorFlow's start.
    from candle_tf.stages.pretrain import pretrain

    done = pretrain(settings)
    print(
        f"\nEpoch {done.epoch} of {settings.epochs} is the best: {100 * done.accuracy:.1f} % mean "
        f"class accuracy on the teacher's own classes.\n"
        f"--student_weights={done.weights} starts a student from it; {done.card} describes it."
    )


def _define_flags() -> None:
    define = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
    for field in dataclasses.fields(Pretraining):
        choices = field.metadata["choices"]
        text = field.metadata["help"] + (f": one of {', '.join(choices)}" if choices else "")
        define[type(field.default)](field.name, field.default, text)


def _settings() -> Pretraining:
    names = [field.name for field in dataclasses.fields(Pretraining)]
    return Pretraining(**{name: flags.FLAGS[name].value for name in names})


def command() -> None:
    """What `candle-pretrain` and `python -m candle_tf.pretrain` run."""
    _define_flags()
    app.run(lambda _: main(_settings()), needs_arguments=True, help_groups=_HELP, resumes=True)


if __name__ == "__main__":
    command()
