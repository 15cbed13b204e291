"""A run, stage by stage: prepare, calibrate, train, evaluate, export, report."""

from candle_tf.teachers.registry import RUN_TEACHER, TEACHERS

# Here, where it is known before any stage: `teachers` cannot name what opens a run, a row above.
TEACHERS.register(RUN_TEACHER, "candle_tf.stages.run_teacher:load_run")
