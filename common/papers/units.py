"""The three units of time, and the only place where one becomes another.

frames: the emulator's, 60 a second. agent steps: one decision each, usually 4 frames. updates: one optimiser step each.
"""

from __future__ import annotations

FRAMES, AGENT_STEPS, UPDATES = "frames", "agent steps", "updates"
TIME_UNITS = (FRAMES, AGENT_STEPS, UPDATES)


def convert(
    value: float,
    unit: str,
    to: str,
    *,
    frames_per_agent_step: int | None = None,
    agent_steps_per_update: int | None = None,
) -> int | float:
    """`value` given in `unit`, in the unit `to`: an int where the result is whole.

    Raises ValueError for a unit that is not one of time and for a ratio that is needed and not given.
    """
    frames = {FRAMES: 1, AGENT_STEPS: frames_per_agent_step, UPDATES: None}
    if frames_per_agent_step and agent_steps_per_update:
        frames[UPDATES] = frames_per_agent_step * agent_steps_per_update
    if {unit, to} <= {AGENT_STEPS, UPDATES}:  # needs no emulator
        frames[AGENT_STEPS], frames[UPDATES] = 1, agent_steps_per_update
    for name in (unit, to):
        if name not in frames:
            raise ValueError(f"{name!r} is not a unit of time; there are: {', '.join(TIME_UNITS)}")
    if unit == to:
        return value
    if not frames[unit] or not frames[to]:
        raise ValueError(
            f"{unit} cannot be turned into {to} without frames_per_agent_step / agent_steps_per_update"
        )
    scaled = value * frames[unit] / frames[to]
    return int(scaled) if scaled == int(scaled) else scaled


def frames_to_agent_steps(frames: int, frames_per_agent_step: int) -> int:
    """Whole agent steps that fit into so many frames."""
    return frames // frames_per_agent_step


def agent_steps_to_frames(agent_steps: int, frames_per_agent_step: int) -> int:
    return agent_steps * frames_per_agent_step


def plural(count: float, unit: str) -> str:
    """ "200M frames", "2.5k updates": for people, never parsed."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.4g}{letter} {unit}"
    return f"{count:.4g} {unit}"
