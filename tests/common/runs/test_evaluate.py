"""The command that evaluates a finished run."""

from __future__ import annotations

import sys

import pytest

from common.errors import UserError
from common.papers import REPLICATIONS
from common.runs import evaluate


def test_a_run_of_claims_is_told_that_it_needs_no_evaluation(monkeypatch):
    run = REPLICATIONS / "alphago_zero/recorded/base/go_3x3/paper/seed1"
    monkeypatch.setattr(sys, "argv", ["evaluate", str(run)])
    with pytest.raises(UserError, match="needs no evaluation"):
        evaluate.main()
