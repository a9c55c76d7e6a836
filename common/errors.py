"""Errors a user can mend: the message names the bad value, what is allowed and the fix; no traceback is shown."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from difflib import get_close_matches

from common.say import say_aside
from common.surroundings import name_the_user


class UserError(Exception):
    """Something the user gave or did; command lines print it and exit 2."""


# What the disk or its owner says no to: no fault of the code, so no traceback
DISK = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EFBIG")
    if hasattr(errno, name)
}


def disk_error(problem: OSError, where: object) -> UserError:
    """A disk that is full, broken or not ours to write on, in words. Any other OSError is raised again as it is."""
    if problem.errno not in DISK:
        raise problem
    return UserError(
        f"{problem.filename or where}: {problem.strerror}; what was saved before is kept. "
        "Free some space or make the folder writable, then start the same command again"
    )


def run_main(fn: Callable[[], object]) -> object:
    """`fn()`; a UserError becomes `error: ...` on stderr and exit code 2, and so does a disk that is full or not writable."""
    name_the_user()
    try:
        return fn()
    except UserError as error:
        say_aside(f"error: {error}")
        sys.exit(2)
    except OSError as problem:
        say_aside(f"error: {disk_error(problem, 'a file could not be written')}")
        sys.exit(2)


def did_you_mean(value: object, names: list[str]) -> str:
    """ " (did you mean 'pong'?)", or nothing where no name is near."""
    close = get_close_matches(str(value), names, n=3, cutoff=0.66)
    return f" (did you mean {' or '.join(repr(name) for name in close)}?)" if close else ""


def suggestion(value: object, allowed, shown: int = 12) -> str:
    """ " (did you mean 'pong'?); there are: alien, amidar, ..." for a name that is not among `allowed`."""
    names = [str(name) for name in allowed]
    hint = did_you_mean(value, names)
    more = f", ... ({len(names)} in all)" if len(names) > shown else ""
    return f"{hint}; there are: {', '.join(names[:shown]) or 'none'}{more}"
