"""No test talks to a tracking server, and none competes with itself for the cores."""

from __future__ import annotations

import os

os.environ.setdefault("WANDB_MODE", "disabled")
