"""From samples to figures: medians, spreads, ratios of rounds, the table and the checks against the goals.

A sample is one measured slice of one round. Ratios are taken round by round, between slices that ran one after the other, so
that what slows the whole machine for a while cancels.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Samples = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Figure:
    """What is reported. `goal` is (">=" or "<=", value), or None."""

    unit: str
    meaning: str
    goal: tuple[str, float] | None = None


RATE, MS, GB = "agent steps/s", "ms", "GB"
FIGURES = {
    "emulator_steps_per_second": Figure(
        RATE, "bare AtariVectorEnv, 84x84 gray, one environment, random actions"
    ),
    "emulator_rgb_steps_per_second": Figure(
        RATE, "bare AtariVectorEnv, 210x160 RGB, one environment, random actions"
    ),
    "env_ale_steps_per_second": Figure(RATE, 'AtariEnvs, preprocessing "ale"'),
    "env_nature_steps_per_second": Figure(RATE, 'AtariEnvs, preprocessing "nature" (the papers\')'),
    "env_over_bare": Figure("ratio", 'AtariEnvs "ale" over bare AtariVectorEnv, same settings', (">=", 0.95)),
    "env_nature_over_bare": Figure("ratio", 'AtariEnvs "nature" over bare AtariVectorEnv, RGB'),
    "replay_sample_ms": Figure(MS, "one batch of 32 from a full replay memory", ("<=", 1.0)),
    "replay_transitions": Figure("transitions", "capacity of that memory"),
    "replay_gb_per_million": Figure(GB, "frames on disk per million transitions, slack included"),
    "replay_slack_gb_per_million": Figure(GB, "of which the slack that checkpoints need"),
    "replay_index_gb_per_million": Figure(GB, "actions, rewards and flags in memory per million transitions"),
    "sb3_replay_gb_per_million": Figure(GB, "Stable-Baselines3's buffer per million transitions"),
    "dqn_update_ms": Figure(MS, "one DQN update, batch 32, Nature network"),
    "dqn_target_forward_ms": Figure(MS, "its target network's forward pass and targets"),
    "dqn_forward_backward_ms": Figure(MS, "its forward and backward pass"),
    "dqn_optimiser_ms": Figure(MS, "its optimiser step"),
    "dqn_steps_per_second": Figure(RATE, "DQN on Pong, learning, without evaluation phases", (">=", 60)),
    "dqn_evaluation_steps_per_second": Figure(RATE, "DQN's evaluation phases"),
    "dqn_steps_per_second_with_evaluation": Figure(RATE, "training steps over training and evaluation time"),
    "sb3_dqn_steps_per_second": Figure(RATE, "Stable-Baselines3's DQN at the same hyper-parameters"),
    "dqn_over_sb3": Figure("ratio", "DQN over Stable-Baselines3's", (">=", 1.5)),
    "dqn_over_emulator": Figure("ratio", "DQN over the emulator alone"),
    "ppo_steps_per_second": Figure(
        RATE, "PPO on Pong, the paper's small network, 3 epochs, 8 environments", (">=", 600)
    ),
    "ppo2_steps_per_second": Figure(RATE, "its variant ppo2: Nature network, 4 epochs, 8 environments"),
    "sb3_ppo_steps_per_second": Figure(RATE, "Stable-Baselines3's PPO at the hyper-parameters of ppo2"),
    "ppo_over_sb3": Figure("ratio", "ppo2 over Stable-Baselines3's", (">=", 1.3)),
    "ppo_half_cheetah_steps_per_second": Figure(RATE, "PPO on HalfCheetah as in the paper, one thread"),
    "sb3_half_cheetah_steps_per_second": Figure(RATE, "Stable-Baselines3's PPO there, one thread"),
    "ppo_half_cheetah_over_sb3": Figure("ratio", "PPO over Stable-Baselines3's on HalfCheetah", (">=", 2.5)),
    "ppo_hopper_steps_per_second": Figure(RATE, "PPO on Hopper as in the paper, one thread"),
    "sb3_hopper_steps_per_second": Figure(RATE, "Stable-Baselines3's PPO there, one thread"),
    "ppo_hopper_over_sb3": Figure("ratio", "PPO over Stable-Baselines3's on Hopper", (">=", 2.5)),
    "ddpg_steps_per_second": Figure(RATE, "DDPG on HalfCheetah as in the paper, one thread"),
    "sb3_ddpg_steps_per_second": Figure(RATE, "Stable-Baselines3's DDPG there, one thread"),
    "ddpg_over_sb3": Figure("ratio", "DDPG over Stable-Baselines3's on HalfCheetah", (">=", 1.0)),
    "a3c_steps_per_second": Figure(RATE, "A3C on Pong, one worker a core, one environment each", (">=", 600)),
    "dqn_2013_steps_per_second": Figure(RATE, "DQN of 2013 on Pong, an update every agent step"),
    "double_dqn_steps_per_second": Figure(RATE, "Double DQN on Pong"),
    "prioritized_dqn_steps_per_second": Figure(RATE, "prioritised DQN (proportional) on Pong"),
    "dueling_dqn_steps_per_second": Figure(RATE, "dueling DQN on Pong"),
    "rainbow_steps_per_second": Figure(RATE, "Rainbow on Pong"),
    "a2c_steps_per_second": Figure(RATE, "A2C on Pong, 16 environments"),
    "dqn_fast_steps_per_second": Figure(
        RATE, "DQN's variant fast on this CPU: 64 environments, learning while they step"
    ),
    "dqn_fast_over_dqn": Figure("ratio", "that over DQN as in the paper, measured right after it"),
    "priorities_over_uniform": Figure(
        "ratio",
        "draw, gather and update of 32 by priority over draw and gather of 32 uniformly, a million leaves",
    ),
    "rss_empty_gb": Figure(GB, "resident memory with an empty ring"),
    "rss_full_gb": Figure(GB, "resident memory with a full ring"),
    "rss_growth_gb": Figure(
        GB, "growth after that, over further steps, updates and checkpoints", ("<=", 0.05)
    ),
    "peak_rss_gb": Figure(GB, "largest resident memory", ("<=", 8.5)),
    "checkpoint_stall_seconds": Figure("s", "training stands still for a checkpoint"),
    "checkpoint_write_seconds": Figure("s", "until that checkpoint is on the disk, in the background"),
    "other_load_cores": Figure("cores", "used by other processes while every measured one was paused"),
}
# figure: (numerator, denominator), both figures of this run
RATIOS = {
    "env_over_bare": ("env_ale_steps_per_second", "emulator_steps_per_second"),
    "env_nature_over_bare": ("env_nature_steps_per_second", "emulator_rgb_steps_per_second"),
    "dqn_over_sb3": ("dqn_steps_per_second", "sb3_dqn_steps_per_second"),
    "dqn_over_emulator": ("dqn_steps_per_second", "emulator_steps_per_second"),
    "ppo_over_sb3": ("ppo2_steps_per_second", "sb3_ppo_steps_per_second"),
    "ppo_half_cheetah_over_sb3": ("ppo_half_cheetah_steps_per_second", "sb3_half_cheetah_steps_per_second"),
    "ddpg_over_sb3": ("ddpg_steps_per_second", "sb3_ddpg_steps_per_second"),
    "ppo_hopper_over_sb3": ("ppo_hopper_steps_per_second", "sb3_hopper_steps_per_second"),
}
SCALING = (
    "{kind}_steps_per_second_{envs}"  # kind: emulator, env_ale, env_nature; figures of their own, by size
)
RESIDENT = "rss_gb_{transitions}"


def significant(value: float, digits: int = 5) -> float:
    """Rounded to so many significant digits; raises ValueError for what is not a finite number."""
    if not math.isfinite(value):
        raise ValueError(f"a measured value is {value}; the measurement is broken")
    return float(f"{value:.{digits}g}")


def summary(samples: Sequence[float], unit: str) -> dict[str, Any]:
    """{median, spread: [smallest, largest], unit, n} of at least one sample."""
    return {
        "median": significant(statistics.median(samples)),
        "spread": [significant(min(samples)), significant(max(samples))],
        "unit": unit,
        "n": len(samples),
    }


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Round by round; a round that one of the two did not finish is left out."""
    return [a / b for a, b in zip(numerator, denominator, strict=False)]


def with_evaluation(training: Sequence[float], evaluation: Sequence[float], share: float) -> list[float]:
    """Training steps per second of training plus evaluation. Rates in steps/s; share: evaluation steps per training step."""
    return [1 / (1 / t + share / e) for t, e in zip(training, evaluation, strict=False)]


def complete(samples: Samples, evaluation_share: float) -> dict[str, list[float]]:
    """The samples, with those of every ratio that they allow."""
    known = {name: list(values) for name, values in samples.items() if len(values)}
    for name, (above, below) in RATIOS.items():
        if above in known and below in known:
            known[name] = ratios(known[above], known[below])
    parts = "dqn_steps_per_second", "dqn_evaluation_steps_per_second"
    if all(part in known for part in parts):
        known["dqn_steps_per_second_with_evaluation"] = with_evaluation(
            *(known[p] for p in parts), evaluation_share
        )
    return known


def results(samples: Samples, evaluation_share: float) -> dict[str, Any]:
    """A flat object: every figure of FIGURES (None where it was not measured), and one for each size that was measured."""
    known = complete(samples, evaluation_share)
    flat: dict[str, Any] = {
        name: summary(known[name], f.unit) if name in known else None for name, f in FIGURES.items()
    }
    for name, values in known.items():
        if name not in FIGURES:
            flat[name] = summary(values, GB if name.startswith("rss_gb_") else RATE)
    return flat


def by_size(flat: Mapping[str, Any], pattern: str, **fixed: str) -> list[tuple[int, dict[str, Any]]]:
    """The figures whose names follow a pattern, as (size, figure), smallest first."""
    stem = pattern.split("{envs}")[0].split("{transitions}")[0].format(**fixed)
    sizes = {
        name.removeprefix(stem): value for name, value in flat.items() if name.startswith(stem) and value
    }
    return sorted(
        ((int(size), value) for size, value in sizes.items() if size.isdigit()), key=lambda pair: pair[0]
    )


def verdict(name: str, flat: Mapping[str, Any], known: Mapping[str, Figure] = FIGURES) -> str:
    """ "met" or "missed" for a figure with a goal, "" without one or when it was not measured."""
    goal = known[name].goal if name in known else None
    if goal is None or not flat.get(name):
        return ""
    sign, value = goal
    met = flat[name]["median"] >= value if sign == ">=" else flat[name]["median"] <= value
    return f"{'met' if met else 'missed'} ({sign} {value:g})"


def table(flat: Mapping[str, Any], known: Mapping[str, Figure] = FIGURES) -> str:
    """For the terminal: one line a figure."""
    names = [
        *known,
        *(n for n, v in flat.items() if n not in known and isinstance(v, dict) and "median" in v),
    ]
    rows = [("figure", "median", "spread", "n", "unit", "goal", "what")]
    for name in names:
        value = flat.get(name)
        what = known[name].meaning if name in known else ""
        if value is None:
            rows.append((name, "not measured", "", "", known[name].unit, "", what))
            continue
        low, high = value["spread"]
        shown = f"{value['median']:.4g}", f"{low:.4g} to {high:.4g}", str(value["n"]), value["unit"]
        rows.append((name, *shown, verdict(name, flat, known), what))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
