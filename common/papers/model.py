"""The shape of a `paper.yaml` once it is loaded and checked (`common/papers/loading.py` does that)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.papers.config_fields import Field, config_fields


@dataclass(frozen=True)
class Constant:
    """`paper` is in `unit`; `ours` and the field of Config in `field_unit`. `field` None: no setting holds it."""

    name: str
    field: str | None
    paper: Any
    unit: str
    source: str
    ours: Any
    field_unit: str
    expected: Any  # the paper's value in `field_unit`; None where the paper does not say
    reason: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Row:
    """One printed score. `stdev` None: none was printed."""

    file: str
    game: str
    metric: str
    protocol: str
    value: float
    stdev: float | None
    source: str = ""
    line: int = 0


@dataclass(frozen=True)
class Protocol:
    """How the final score is measured. `max_frames` is in emulator frames; None: no cap."""

    name: str
    starts: str
    epsilon: float | None
    max_frames: int | None
    episodes: int
    extra_episodes: int
    noop_max: int | None
    weights: str  # best | last
    score: str
    description: str
    source: str
    published_protocol: str | None = None
    published_episodes: int | None = None
    published_over: str = "episodes"  # or "seeds": what `published_episodes` counts
    published_by: str | None = None  # whose number it is, where it is not the paper's own


@dataclass(frozen=True)
class Claim:
    """What a task with claims checks: at_least <= measure <= at_most, over seeds. `factor`: the measure is a ratio, whose mean
    and interval are taken of its logarithm.
    """

    name: str
    statement: str
    measure: str
    source: str
    at_least: float | None = None
    at_most: float | None = None
    factor: bool = False
    bound: str = "ours"  # whose the numbers of the bound are: ours, or printed in the paper


# The `protocol` of a task that plays nothing.
NO_PROTOCOL = Protocol(
    "claims", "none: nothing is played", None, None, 1, 0, None, "last", "claims",
    "Each claim is an inequality on a measure, which is taken once a seed.", "the claim's own",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    name: str
    kind: str  # atari | gym | claims
    title: str
    protocol: Protocol
    game: str | None = None
    env_id: str | None = None
    script: str = "train"
    in_paper: bool = True
    claims_by: str | None = None  # whose the claims are, where they are not the paper's own
    published: Row | None = None
    published_reason: str | None = None
    random: Row | None = None
    human: Row | None = None
    paper_frames: int | None = None
    frames_per_agent_step: int | None = None  # where it is not the setting frame_skip
    bar: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    budgets: dict[str, dict] = field(default_factory=dict)  # budget -> settings, reasons, evaluation, expect
    default_seeds: int = 1
    constants: tuple[Constant, ...] = ()  # of a script of its own
    deviations: tuple[dict, ...] = ()  # what, reason, source: of this task alone
    claims: tuple[Claim, ...] = ()
    also: tuple[dict, ...] = ()  # measure, statement: shown beside the claims, with no bound and no verdict
    figures: tuple[dict, ...] = ()  # name, title, x, y, log_x, log_y

    @property
    def environment(self) -> str:
        """The ROM, the Gymnasium id or the script."""
        return self.game or self.env_id or self.script


@dataclass(frozen=True)
class Variant:
    """A named set of settings with tasks and pages of its own; `name` "" is the paper itself.

    kinds: kind of task -> {settings, reasons}, for those of that kind alone; of "", the paper's own constants for them.
    """

    name: str
    title: str
    description: str
    tasks: dict[str, Task]
    settings: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, dict] = field(default_factory=dict)

    def of_kind(self, kind: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Settings and reasons for tasks of one kind."""
        own = self.kinds.get(kind, {})
        return own.get("settings", {}), own.get("reasons", {})


@dataclass(frozen=True)
class Budget:
    name: str
    settings: dict[str, Any]
    expect: str | dict[str, str]
    evaluation: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()  # the kinds of task concerned; empty: all


@dataclass(frozen=True)
class Paper:
    name: str
    folder: Path
    title: str
    short: str
    citation: dict[str, Any]
    summary: str
    frames_per_agent_step: int
    agent_steps_per_update: int | None
    constants_by_kind: dict[
        str, tuple[Constant, ...]
    ]  # kind of task -> those that concern it, with its values
    deviations: tuple[dict, ...]  # what, reason, source, kinds, tasks
    engineering: tuple[str, ...]
    variants: dict[str, Variant]  # "" is the base
    budgets: dict[str, Budget]
    printed_tables: tuple = ()  # of printed.Table
    claims: tuple = ()  # of printed.PaperClaim: what the paper says as a whole

    @property
    def file(self) -> Path:
        return self.folder / "paper.yaml"

    @property
    def tasks(self) -> dict[str, Task]:
        """Those of the base variant."""
        return self.variants[""].tasks

    @property
    def constants(self) -> tuple[Constant, ...]:
        """Each once: of several kinds' values that of the first task's kind, which the defaults of Config hold."""
        found: dict[str, Constant] = {}
        for constants in self.constants_by_kind.values():
            for constant in constants:
                found.setdefault(constant.name, constant)
        return tuple(found.values())

    def fields(self, script: str = "train") -> dict[str, Field]:
        """Of a script's Config; none of train.py where every task has a script of its own."""
        own = all(task.script != "train" for v in self.variants.values() for task in v.tasks.values())
        return {} if script == "train" and own else config_fields(self.folder / f"{script}.py")

    def tables(self) -> list[Path]:
        """The published tables its tasks refer to."""
        rows = (
            r
            for v in self.variants.values()
            for t in v.tasks.values()
            for r in (t.published, t.random, t.human)
            if r
        )
        return sorted({self.folder / row.file for row in rows})


@dataclass(frozen=True)
class Target:
    """`variant` None is the paper itself."""

    paper: str
    variant: str | None
    task: str

    @property
    def agent(self) -> str:
        return f"{self.paper}-{self.variant}" if self.variant else self.paper

    @property
    def name(self) -> str:
        return f"{self.agent}_{self.task}"
