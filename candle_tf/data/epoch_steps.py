"""How many steps an epoch has.

steps_per_epoch(5_552, 64)              # 86
"""


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Full batches in an epoch; a set smaller than one batch is one batch."""
    return max(1, examples // batch_size)
