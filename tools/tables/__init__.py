"""The table of many trainings: its definition, cells and summary."""
