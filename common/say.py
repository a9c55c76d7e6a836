"""One line for whoever watches. A terminal or pipe that is gone must not end a run: from then on it goes on silently."""

from __future__ import annotations

import os
import sys


def say(text: str) -> None:
    """Prints a line."""
    _say(text, "stdout")


def say_aside(text: str) -> None:
    """Prints a line to stderr: what is no part of a command's answer."""
    _say(text, "stderr")


def _say(text: str, stream: str) -> None:
    try:
        print(text, file=getattr(sys, stream), flush=True)
    except UnicodeEncodeError:  # a terminal of few letters
        _say(text.encode("ascii", "replace").decode(), stream)
    except OSError:
        setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115 (for the rest of the process)
