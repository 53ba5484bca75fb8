"""``python -m memnets.app.held FOLDER PERMIT PROGRAM COMMAND ...``: a training of an executor.

See :mod:`memnets.app.executors`. A scoreboard or a worker that is killed may leave its trainings
behind, and the next one must not start them a second time. So each training holds a lock on the
folder of its versions, from its first moment to its end, and ends when its input does.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from pathlib import Path
from threading import Thread

from memnets.app.stopping import stoppable
from memnets.files import LEASE, FolderInUse, only_writer
from memnets.records import final_metrics, versions

#: Seconds to wait for a training of the same folder that is about to end, and seconds that one has
#: for it.
_PATIENCE, _TO_END = 2 * LEASE, 30.0


def main() -> None:
    """Run a command, as the only one in a folder, while its permit and its parent are there."""
    folder, permit, program, *command = sys.argv[1:]
    # Slurm sends to all processes what is for the one of submitit alone, which then stops this one.
    notice = f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"
    signal.signal(getattr(signal, notice), signal.SIG_IGN)
    with stoppable():
        Thread(target=_end_with_input, daemon=True).start()
        try:
            with only_writer(Path(folder), patience=_PATIENCE):
                # Who has removed the permit may have looked for the lock before it was held.
                if not Path(permit).exists():
                    sys.exit("memnets: stopped before it began")
                known = versions(Path(folder))
                if any(final_metrics(version) for version in known):
                    return  # the executor has lost its end, and calls it again
                last = [path / "checkpoints" / "last.ckpt" for path in known[-1:]]
                sys.argv[1:] = [*command, *("--ckpt_path=last" for path in last if path.exists())]
                # As if it had been started so: a trainer starts further processes the same way.
                runpy.run_module(program, run_name="__main__", alter_sys=True)
        except FolderInUse as error:
            sys.exit(f"memnets: error: {error}")


def _end_with_input() -> None:
    """End this process when its input ends, which is when who has started it does."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_TO_END)
    os.killpg(os.getpgrp(), signal.SIGKILL)  # with the further processes that it has begun


if __name__ == "__main__":
    main()
