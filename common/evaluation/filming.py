"""What an agent's network says of each state while an episode is filmed: action values, or probabilities of a policy.

Nothing is asked of the network that it was not asked anyway, so filming changes no score and no random number. Kept beside the
videos in `values.json`, for as long as a page plays them; a run without that file is complete.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_hook

from common.environments.grids import ACTIONS as GRID_ACTIONS
from common.files import write_file

FILE = "values.json"
FPS = 15  # pictures a second of a video, one each agent step
SECONDS = 45  # from the start of an episode
DIGITS = 4  # significant ones
GYM_ACTIONS = {  # Gymnasium's documentation
    "CartPole-v1": ("push left", "push right"),
    "Acrobot-v1": ("torque -1", "no torque", "torque +1"),
    **GRID_ACTIONS,
}


@dataclass
class ActionValues:
    """Of each state of one episode, in order: what the network said of every action, and which one was played.

    kind: "values" (expected discounted rewards) or "probabilities"; None where it said neither, of any state.
    rows: float64 (A,) each.
    """

    kind: str | None = None
    rows: list[np.ndarray] = field(default_factory=list)
    played: list[int] = field(default_factory=list)
    lacks: bool = False  # something of a state, so that rows and pictures no longer go together

    def add(self, output: object, env: int, num_actions: int, action: np.ndarray) -> None:
        """output: what the network returned for N environments; see `preferences`."""
        kind, table = preferences(output, num_actions)
        if kind is None or np.ndim(action) or len(table) <= env or not np.isfinite(table[env]).all():
            self.lacks = True
        if self.lacks:
            self.kind = None
            return
        self.kind = kind
        self.rows.append(table[env])
        self.played.append(int(action))


def preferences(output: object, num_actions: int) -> tuple[str | None, np.ndarray]:
    """("values" or "probabilities", (N, A) float64) of a network's output; (None, empty) of anything else.

    Value-based networks return action values (N, A), alone or in a tuple with None in the place of state values; actor-critics
    return a tuple of logits (N, A) and state values. Gaussian policies (`log_std`) have no value of each action.
    """
    first, critic = (output, None) if not isinstance(output, tuple) or len(output) < 2 else output[:2]
    fits = isinstance(first, torch.Tensor) and first.ndim == 2 and first.shape[1] == num_actions
    if not fits or getattr(output, "log_std", None) is not None:
        return None, np.empty((0, num_actions))
    table = first.detach().to("cpu", torch.float64)
    return ("values", table.numpy()) if critic is None else ("probabilities", table.softmax(dim=1).numpy())


@contextlib.contextmanager
def listening(on: bool = True) -> Iterator[list]:
    """What the module that returned last gave back, in the list that is yielded: once a policy was asked, its whole network's."""
    heard: list = []
    if not on:
        yield heard
        return

    def hear(module, arguments, output) -> None:
        heard[:] = [output]

    handle = register_module_forward_hook(hear)
    try:
        yield heard
    finally:
        handle.remove()


def action_names(task, num_actions: int) -> list[str]:
    """Of the minimal action set in the emulator's own words (NOOP, FIRE, RIGHT ...), or numbered."""
    if task.kind == "atari":
        from ale_py import ALEInterface, roms

        import common.environments.atari  # noqa: F401 (silences the emulator)

        emulator = ALEInterface()
        emulator.loadROM(roms.get_rom_path(task.game))
        names = [action.name for action in emulator.getMinimalActionSet()]
    else:
        names = list(GYM_ACTIONS.get(task.env_id, ()))
    return names if len(names) == num_actions else [f"action {i}" for i in range(num_actions)]


def write_values(
    folder: Path, actions: list[str], films: dict[str, tuple[int, ActionValues]], weights_sha256: str
) -> None:
    """`values.json` of the filmed episodes, by name of the film (median, best): (episode number, action_values).

    An earlier file goes where there is nothing to write: no network, or one whose output is neither values nor logits.
    """
    most = SECONDS * FPS
    kept = {
        name: {
            "episode": number,
            "played": action_values.played[:most],
            "values": [[float(f"{v:.{DIGITS}g}") for v in row] for row in action_values.rows[:most]],
        }
        for name, (number, action_values) in films.items()
        if action_values.kind
    }
    if not kept:
        (folder / FILE).unlink(missing_ok=True)
        return
    kind = next(action_values.kind for _, action_values in films.values() if action_values.kind)
    content = {"kind": kind, "fps": FPS, "actions": actions, "weights_sha256": weights_sha256, "films": kept}
    write_file(folder / FILE, (json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n").encode())
