"""A run, stage by stage: prepare, calibrate, train, evaluate, export, report."""
