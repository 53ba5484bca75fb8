"""``python -m memnets.app.held FOLDER BOARD COMMAND ...``: a training of a scoreboard.

A killed scoreboard may leave its trainings behind, and the next one must not start them a second
time. So each training holds a lock on the folder of its versions, from its first moment to its end.
A training that gets its lock after its scoreboard has ended stops at once: the next scoreboard may
already have looked for the lock.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from memnets.app.stopping import stoppable
from memnets.files import FolderInUse, only_writer


def main() -> None:
    """Run a command of ``memnets``, as the only one in a folder, for a scoreboard by its number."""
    folder, board, *command = sys.argv[1:]
    sys.argv[1:] = command
    with stoppable():
        try:
            with only_writer(Path(folder)):
                if os.getppid() != int(board):
                    sys.exit("memnets: the scoreboard has ended")
                # As if it had been started so: a trainer starts further processes the same way.
                runpy.run_module("memnets", run_name="__main__", alter_sys=True)
        except FolderInUse as error:
            sys.exit(f"memnets: error: {error}")


if __name__ == "__main__":
    main()
