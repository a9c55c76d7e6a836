"""A task on a grid, and what its table said over the training: read from the run's weights, drawn by grids.js.

The weights of a tabular agent have the table `q` and `history`, copies of it at the agent steps that its script names.
"""

from __future__ import annotations

import base64
import importlib
import math
from collections.abc import Sequence

import numpy as np

from common.environments.grids import grid_of
from common.evaluation.statistics import format_number
from reports.files import damaged
from reports.runs import SeedRun
from reports.target import PageTarget

LEVELS = 65_535  # a value is embedded as one of so many steps between the lowest and the highest


def grid_values(target: PageTarget, finished: Sequence[SeedRun]) -> dict | None:
    """Of the median seed, or the one nearest to it whose weights were kept; None for a task on no grid, or without weights."""
    ordered = sorted(finished, key=lambda run: run.evaluation["score"])
    middle = (len(ordered) - 1) // 2
    near = sorted(range(len(ordered)), key=lambda i: abs(i - middle))
    run = next((ordered[i] for i in near if (ordered[i].folder / "model.safetensors").exists()), None)
    grid = grid_of(target.task.env_id) if run and target.task.env_id else None
    if grid is None:
        return None
    path = run.folder / "model.safetensors"
    script = importlib.import_module(f"replications.{target.paper.name}.{target.task.script}")
    if not hasattr(script, "picture_steps"):
        return None
    history = read_history(path)
    try:
        steps = script.picture_steps(script.Config(**run.run["settings"]))
    except (TypeError, ValueError) as problem:
        raise damaged(run.folder / "run.json", f"its settings are not the script's ({problem})") from None
    if history.shape != (len(steps), len(grid.cell_of), len(grid.actions)):
        raise damaged(path, f"its history has the shape {history.shape}")
    low, high = float(history.min()), float(history.max())
    levels = np.rint((history - low) / ((high - low) or 1.0) * LEVELS).astype("<u2")
    return {
        "seed": run.seed, "rows": grid.rows, "columns": grid.columns, "cells": grid.cells, "actions": grid.actions,
        "views": grid.views, "cell_of": grid.cell_of, "view_of": grid.view_of, "walls": grid.walls, "steps": steps,
        "low": low, "high": high, "levels": base64.b64encode(levels.tobytes()).decode(), "table": table_rows(grid, history[-1]),
    }  # fmt: skip


def read_history(path) -> np.ndarray:
    """(pictures, states, actions) float64. UserError for a file that holds none, or values that are no numbers."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        history = load(path.read_bytes())["history"].astype(np.float64)
    except (OSError, SafetensorError, KeyError, ValueError) as problem:
        raise damaged(path, f"no history of a table in it: {problem}") from None
    if history.ndim != 3 or not np.isfinite(history).all() or not history.size:
        raise damaged(path, "its history is not a list of tables of numbers")
    return history


def table_rows(grid, q: np.ndarray, most: int = 60) -> list[tuple[str, str, str]]:
    """(cell, best actions, value) at the end, for those who see no drawing; of Taxi the first view."""
    rows = []
    for state, (cell, view) in enumerate(zip(grid.cell_of, grid.view_of, strict=True)):
        if view == 0 and q[state].any() and len(rows) < most:
            best = q[state].max()
            names = [
                name
                for name, value in zip(grid.actions, q[state], strict=True)
                if math.isclose(value, best, abs_tol=1e-9)
            ]
            row, column = divmod(cell, grid.columns)
            rows.append((f"row {row + 1}, column {column + 1}", " or ".join(names), format_number(best, 3)))
    return rows
