"""Which settings decide what: a run, the scores of a test, the result of a training.

All by their names. A task makes the same batches with any number of workers, so it decides nothing.
"""

from __future__ import annotations

import re

__all__ = ["decides_result", "decides_run", "decides_scores"]

#: Settings of the data, without the number of workers, as a setting or as a flag.
_DATA = r"data(?!\.(?:init_args\.)?workers\b)"

_RUN = re.compile(rf"(?:model|seed_everything|test_weights|{_DATA})\b")
_SCORES = re.compile(
    rf"(?:model|seed_everything|{_DATA}"
    r"|trainer\.(?:callbacks|fast_dev_run|limit_(?:test|predict)_batches|plugins|precision))\b"
)
_RESULT = re.compile(rf"--(?:config|init_from|model|test_weights|trainer(?!\.enable_)|{_DATA})\b")


def decides_run(name: str) -> bool:
    """Whether with another value of a setting it is another run, with a folder of its own.

    Settings of the trainer only decide how long it is.

    Args:
        name: full name of the setting, such as ``model.init_args.controller``.
    """
    return _RUN.match(name) is not None


def decides_scores(name: str) -> bool:
    """Whether the scores of a test depend on a setting.

    Other settings of the trainer say where and how fast it runs.

    Args:
        name: full name of the setting.
    """
    return _SCORES.match(name) is not None


def decides_result(flag: str) -> bool:
    """Whether what comes of a training depends on a flag, but for its seed.

    Args:
        flag: with or without its value, such as ``--trainer.max_steps=3``.
    """
    return _RESULT.match(flag) is not None
