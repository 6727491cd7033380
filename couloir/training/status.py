"""What a run has come to, for the batch script that has started it: one line in the file that COULOIR_STATUS names."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from couloir.files import atomic_write

VARIABLE = "COULOIR_STATUS"
RUNNING, STOPPED, COMPLETE = "running", "stopped", "complete"


def report_status(state: str, step: int) -> None:
    """Write ``STATE STEP``: whether the run goes on, was stopped by a signal or is done, and the batch last saved."""
    place = os.environ.get(VARIABLE, "")
    if not place:
        return
    try:
        with atomic_write(Path(place), "w") as out:
            out.write(f"{state} {step}\n")
    except OSError as error:
        logging.warning("%s cannot be written (%s)", place, error.strerror or error)
