"""No test talks to a tracking server, and none competes with itself for the cores."""

from __future__ import annotations

import os

# Whatever the machine says: a mirror that a test leaves open in this process would be the next test's. Tests of the mirror,
# and those that run the workflow, ask for it in processes of their own.
os.environ["WANDB_MODE"] = "disabled"
