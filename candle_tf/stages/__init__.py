"""The stages of a run, each taken up where it stopped: prepare, calibrate, train, evaluate, export."""
