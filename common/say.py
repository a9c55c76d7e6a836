"""One line for whoever watches."""

from __future__ import annotations

import os
import sys


def say(text: str) -> None:
    """Prints a line. A terminal or pipe that is gone must not end a run: from then on it goes on silently."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)
