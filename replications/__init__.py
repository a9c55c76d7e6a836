"""One folder, one paper."""

import common  # noqa: F401  (sets how threads wait before any script imports torch)
