"""Sixth stage: report.json, report.html, predictions and the model card of a finished run."""

import json
from pathlib import Path

import numpy as np

from candle_tf.config import Config
from candle_tf.files import write_atomically
from candle_tf.methods.adjusted_checkpoints import AdjustedCheckpoints
from candle_tf.methods.classifier_file import write_classifier
from candle_tf.methods.distillation import tied_head
from candle_tf.methods.method import Classifier, DistillationMethod
from candle_tf.methods.registry import METHODS
from candle_tf.reporting import image_predictions
from candle_tf.reporting.model_card import card_markdown, model_card
from candle_tf.reporting.results import Results, write_results
from candle_tf.reporting.run_page import write_run_report
from candle_tf.reporting.shipping import TEACHER
from candle_tf.run_folder import RunFolder, versions
from candle_tf.stages.baselines import adjusts_classifier
from candle_tf.stages.calibrate import Calibrated
from candle_tf.stages.distillation import label_weight
from candle_tf.stages.evaluate import Evaluation
from candle_tf.stages.export import Exported
from candle_tf.stages.export_teacher import ExportedTeacher
from candle_tf.stages.export_tflite import NAMES
from candle_tf.stages.prepare import Data
from candle_tf.stages.prior_correction import corrects_prior
from candle_tf.stages.student_weights import describe_starting_weights
from candle_tf.stages.tensorboard import write_board
from candle_tf.stages.train import Trained
from candle_tf.students.analysis.cost import Summary, summarize

_FLOAT_BYTES = 4


def report(
    config: Config,
    folder: RunFolder,
    data: Data,
    calibrated: Calibrated | None,
    trained: Trained,
    evaluation: Evaluation,
    exported: Exported | None,
    teacher_file: ExportedTeacher | None = None,
    refused: str = "",
) -> Results:
    """Writes report.json, report.html, tensorboard/ and, beside the export, the model card.

    The student is restored to `evaluation.selected_epoch`, whose weights are reported. Without an
    export there is no model card, and `refused` says why. Of a method that changes its classifier
    after training, that is stored: no checkpoint holds it.
    """
    trained.checkpoints.restore(evaluation.selected_epoch)
    classifier = _store_classifier(config, trained, evaluation, folder)
    metrics = {**evaluation.results, **(exported.metrics if exported else {})}
    sizes = _sizes(calibrated, trained, exported)
    export = exported.record if exported else {}
    if teacher_file:
        metrics.update(teacher_file.metrics)
        export = {**export, TEACHER: teacher_file.record}
        if teacher_file.metrics:
            sizes[TEACHER] = teacher_file.record["bytes"]
    norms = _norms(calibrated, trained)
    costs = summarize(trained.student)
    if export:
        export = {**export, "cost": _describe_costs(costs)}
    results = Results(
        config=config.to_dict(),
        split=_split_summary(data),
        selected_epoch=evaluation.selected_epoch,
        last_epoch=evaluation.last_epoch,
        metrics=metrics,
        bytes=sizes,
        export=export,
        data=data.check,
        refused=refused,
        norms={name: values.tolist() for name, values in norms.items()},
        selection=evaluation.selection,
        label_weight=_label_weight(config, data, calibrated, trained),
        prior_correction=_prior_correction(config, trained),
    )
    write_results(results, folder.report_path)
    card = _write_card(config, results, costs, trained, exported, folder) if exported else []
    html_path = folder.path / "report.html"
    write_run_report(
        html_path,
        results,
        labels=data.test.labels,
        logits=evaluation.logits,
        pixels=evaluation.pixels,
        norms=norms,
    )
    write_board(folder.path / "tensorboard", config, data, evaluation, results)
    predictions = _write_predictions(folder.path, data, calibrated, evaluation)
    folder.record("report", [folder.report_path, html_path, *predictions, *card, *classifier])
    return results


def _label_weight(
    config: Config, data: Data, calibrated: Calibrated | None, trained: Trained
) -> float | None:
    """See `Results.label_weight`."""
    if config.training.is_candle:
        first = label_weight(config, data, calibrated)
        # Of --label_weight=adaptive the history has it: where the classifier was trained once more,
        # that of the training before.
        history = (trained.first_stage or trained.checkpoints).history
        return float(history[-1].get("label_weight", first)) if history else first
    method = METHODS[config.training.method]
    if not isinstance(method, DistillationMethod):
        return None
    losses = method.build_losses(config.baseline, config.balance.temperature, data.counts)
    return losses.label_weight


def _prior_correction(config: Config, trained: Trained) -> float | None:
    """See `Results.prior_correction`; the student is restored to the epoch that is reported."""
    if not corrects_prior(config):
        return 0.0 if config.training.method == "candle" else None
    checkpoints = trained.checkpoints
    return checkpoints.strength if isinstance(checkpoints, AdjustedCheckpoints) else None


def _store_classifier(
    config: Config, trained: Trained, evaluation: Evaluation, folder: RunFolder
) -> list[Path]:
    if not adjusts_classifier(config):
        # Of the same run with another --prior_correction.
        folder.classifier_path.unlink(missing_ok=True)
        return []
    layer = trained.student.get_layer("logits")
    classifier = Classifier(layer.kernel.numpy(), layer.bias.numpy())
    write_classifier(folder.classifier_path, evaluation.selected_epoch, classifier)
    return [folder.classifier_path]


def _write_predictions(
    folder: Path, data: Data, calibrated: Calibrated | None, evaluation: Evaluation
) -> list[Path]:
    logits = {"teacher": calibrated.test_logits} if calibrated else {}
    logits["student"] = evaluation.logits
    predicted = {model: values.argmax(axis=1) for model, values in logits.items()}
    names, split = data.split.class_names, data.split
    test, validation = folder / image_predictions.TEST, folder / image_predictions.VALIDATION
    image_predictions.write_image_predictions(
        test, split.test.ids, data.test.labels, predicted, names
    )
    if not len(data.validation):
        return [test]
    image_predictions.write_image_predictions(
        validation,
        split.validation.ids,
        data.validation.labels,
        {"student": evaluation.validation_predictions},
        names,
    )
    return [test, validation]


def _write_card(
    config: Config,
    results: Results,
    costs: Summary,
    trained: Trained,
    exported: Exported,
    folder: RunFolder,
) -> list[Path]:
    saved_model = str(exported.saved_model.relative_to(folder.export_path))
    card = model_card(
        results,
        operations=costs,
        files={**NAMES, "saved_model": saved_model},
        starting_weights=describe_starting_weights(config.student),
        precision=trained.policy.dtype,
        versions=versions(),
    )
    contents = {
        folder.export_path / "model_card.json": json.dumps(card, indent=2) + "\n",
        folder.export_path / "model_card.md": card_markdown(card),
    }
    for path, text in contents.items():
        data = text.encode()
        # A finished export is left as it is.
        if not path.exists() or path.read_bytes() != data:
            write_atomically(path, data)
    return list(contents)


def _describe_costs(costs: Summary) -> dict[str, float]:
    return {
        "OPs (binary multiply-adds / 64 + those in float)": costs.ops,
        "binary multiply-adds": costs.binary_multiply_adds,
        "float multiply-adds": costs.float_multiply_adds,
    }


def _split_summary(data: Data) -> dict[str, object]:
    names = data.split.class_names
    return {
        "hash": data.split.hash,
        "profile": data.split.profile,
        "imbalance_factor": data.split.imbalance_factor,
        "selection": data.split.selection,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "train_counts": dict(zip(names, data.counts.tolist(), strict=True)),
        "groups": {group: [names[c] for c in classes] for group, classes in data.groups.items()},
    }


def _sizes(
    calibrated: Calibrated | None, trained: Trained, exported: Exported | None
) -> dict[str, int]:
    """Bytes by model; of Keras models, their float32 weights."""
    keras = trained.student.count_params() * _FLOAT_BYTES
    sizes = {"student": keras, "student_last_epoch": keras}
    if exported:
        sizes.update({name: exported.record["bytes"][name] for name in exported.metrics})
    if calibrated:
        teacher = calibrated.teacher.encoder.count_params() + calibrated.classifier.count_params()
        sizes["teacher"] = teacher * _FLOAT_BYTES
    return sizes


def _norms(calibrated: Calibrated | None, trained: Trained) -> dict[str, np.ndarray]:
    """Norms of the weights of each class, float `[C]`, by model."""
    kernels = {"student": trained.student.get_layer("logits").kernel.numpy()}
    if calibrated:
        # What the classifier computes: its Dense layer alone leaves out learned class scales.
        kernels["teacher"] = tied_head(calibrated.classifier).kernel
    return {model: np.linalg.norm(kernel, axis=0) for model, kernel in kernels.items()}
