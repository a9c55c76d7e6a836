"""What packages take for granted of whoever runs them, and a container need not have: a name, a home to write in."""

from __future__ import annotations

import getpass
import os
from pathlib import Path


def name_the_user() -> None:
    """Snakemake, PyTorch and wandb ask for the user's name; a number without one (`docker run -u 1000`) serves as its own."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())


def make_a_home(folder: Path) -> None:
    """wandb keeps caches and logs of its own at home; where there is none to write in, `folder` is it."""
    home = os.path.expanduser("~")
    if os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):
        return
    if os.path.isfile(os.path.join(home, ".netrc")):  # a home that can only be read may hold the key
        os.environ.setdefault("NETRC", os.path.join(home, ".netrc"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["HOME"] = str(folder.absolute())
