"""Errors a user can mend: the message names the bad value, what is allowed and the fix; no traceback is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user gave or did; command lines print it and exit 2."""


def run_main(fn: Callable[[], object]) -> object:
    """`fn()`; a UserError becomes `error: ...` on stderr and exit code 2."""
    try:
        return fn()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


def one_of(value: object, allowed, shown: int = 12) -> str:
    """ " (did you mean 'pong'?); there are: alien, amidar, ..." for a name that is not among `allowed`."""
    names = [str(name) for name in allowed]
    close = get_close_matches(str(value), names, n=3, cutoff=0.66)
    hint = f" (did you mean {' or '.join(repr(name) for name in close)}?)" if close else ""
    more = f", ... ({len(names)} in all)" if len(names) > shown else ""
    return f"{hint}; there are: {', '.join(names[:shown]) or 'none'}{more}"
