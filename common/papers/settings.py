"""What a run will do: its settings, its protocol, and every difference from the paper with its reason.

Settings resolve in one order: `Config` defaults (the paper, literally) < the constants of the task's kind < task < variant
< budget < command line; the task's own entry for a budget is above the paper's. A task with a script and a `Config` of its
own sees neither its variant's settings nor the paper's budgets.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import UserError, suggestion
from common.papers.config_fields import Field, check_value
from common.papers.model import Budget, Constant, Paper, Protocol, Task, Variant
from common.papers.overrides import budget_of
from common.papers.ranges import check
from common.papers.units import FRAMES, agent_steps_to_frames, frames_to_agent_steps

BUDGETS = ("smoke", "hour", "day", "paper")
SIZE = re.compile(r"(?:smoke|hour|day|paper|frames-[1-9][0-9]*)(?:-set-[0-9a-f]{8})?")


# --- resolving ---


@dataclass(frozen=True)
class Deviation:
    """One difference from the paper. `origin`: paper, variant, task, budget, command line, or listed (words only)."""

    what: str
    paper: Any
    ours: Any
    unit: str
    source: str
    reason: str
    origin: str
    field: str | None = None


@dataclass(frozen=True)
class Resolved:
    """What a run will do: `settings` are keyword arguments of Config; `sources` says which layer set each of them."""

    paper: Paper
    variant: Variant
    task: Task
    budget: str  # smoke | hour | paper | frames-N, with -set-DIGITS where the user gave settings
    settings: dict[str, Any]
    sources: dict[str, str]
    protocol: Protocol
    deviations: tuple[Deviation, ...]
    frames_per_agent_step: int
    expect: str | dict[str, str]
    asked: dict[str, Any] = field(default_factory=dict)  # the settings that the user gave

    @property
    def frames(self) -> int | None:
        """Length of the training in emulator frames."""
        steps = self.settings.get("training_steps")
        return None if steps is None else agent_steps_to_frames(steps, self.frames_per_agent_step)

    @property
    def paper_fraction(self) -> float | None:
        """Length of the training as a part of the paper's."""
        if self.frames is None or not self.task.paper_frames:
            return None
        return self.frames / self.task.paper_frames


def constants_of(paper: Paper, task: Task) -> tuple[Constant, ...]:
    """The paper's that concern a task of this kind; the task's own for one with a script of its own."""
    return paper.constants_by_kind[task.kind] if task.script == "train" else task.constants


def by_field(constants: Iterable[Constant], file: Path) -> dict[str, Constant]:
    """field of Config -> constant, of those that a setting holds."""
    found: dict[str, Constant] = {}
    for constant in constants:
        if constant.field in found:
            raise UserError(
                f"{file}: constants {found[constant.field].name!r} and {constant.name!r} both name the field "
                f"{constant.field!r}; set field: null on one"
            )
        if constant.field:
            found[constant.field] = constant
    return found


def _of_its_kind(paper: Paper, task: Task) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings, and reasons, where the constants of the task's kind are not the values that Config's defaults hold."""
    if task.script != "train":
        return {}, {}
    held = {c.name: c for c in paper.constants}
    own = [c for c in constants_of(paper, task) if c.field and not same(c.ours, held[c.name].ours)]
    return {c.field: c.ours for c in own}, {c.field: c.reason or "" for c in own}


def paper_value(name: str, fields: Mapping[str, Field], constants: Mapping[str, Constant]) -> Any:
    return constants[name].expected if name in constants else fields[name].default


def same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def typed(settings: Mapping[str, Any], fields: Mapping[str, Field], where: str) -> dict[str, Any]:
    typed = {}
    for name, value in settings.items():
        if name not in fields:
            raise UserError(f"{where}: unknown setting {name!r}{suggestion(name, fields, shown=40)}")
        try:
            typed[name] = check_value(fields[name], value)
        except ValueError as error:
            raise UserError(f"{where}.{name}: {error}") from None
    return typed


def resolve_loaded(
    paper: Paper, variant: Variant, task: Task, budget: str, overrides: Mapping[str, Any] | None = None
) -> Resolved:
    """`resolve` of common.papers, for what has been loaded already."""
    if not SIZE.fullmatch(budget):
        raise UserError(
            f"unknown budget {budget!r}{suggestion(budget, BUDGETS)}; or frames-N for a length of N emulator frames"
        )
    size, budget = budget, budget_of(budget)
    if not budget.startswith("frames-"):
        return _resolve(paper, variant, task, budget, size, {}, overrides or {})
    frames = int(budget.removeprefix("frames-"))
    hour = _resolve(paper, variant, task, "hour", size, {}, {})
    if "training_steps" not in hour.settings:
        script = paper.folder / f"{task.script}.py"
        raise UserError(
            f"frames={frames} cannot be asked of {paper.name} {task.name}: {script} has no setting training_steps; "
            "use a budget"
        )
    length = {"training_steps": frames_to_agent_steps(frames, hour.frames_per_agent_step)}
    if length["training_steps"] < 1:
        raise UserError(f"frames={frames} is less than one agent step; at least {hour.frames_per_agent_step}")
    least = least_steps(hour.settings | dict(overrides or {}))
    if length["training_steps"] < least:
        raise UserError(
            f"frames={frames}: {length['training_steps']:,} agent steps are too few; {paper.name} {task.name} learns nothing before "
            f"agent step {least:,}: at least frames={least * hour.frames_per_agent_step}"
        )
    base = "hour" if frames <= hour.frames else "paper"
    return _resolve(paper, variant, task, base, size, length, overrides or {})


def least_steps(settings: Mapping[str, Any]) -> int:
    """Agent steps before the first update: a rollout of every environment, or what a replay memory starts with."""
    rollout = settings.get("rollout_steps", 1) * settings.get("num_envs", 1)
    return max(rollout, settings.get("replay_start", 1))


def _resolve(
    paper: Paper,
    variant: Variant,
    task: Task,
    base: str,
    size: str,
    length: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> Resolved:
    fields = paper.fields(task.script)
    wide, own = budgets_of(paper, task, base)
    constants = by_field(constants_of(paper, task), paper.file)
    layers: list[tuple[str, Mapping, Mapping]] = [("paper", *_of_its_kind(paper, task))]
    layers += [("task", task.settings, task.reasons)]
    if task.script == "train":
        layers += [("variant", variant.settings, variant.reasons)]
        layers += [("variant", *variant.of_kind(task.kind))]
    layers += [
        ("budget", wide.settings, wide.reasons),
        ("budget", own.settings, own.reasons),
        (
            "budget",
            length,
            {"*": f"a length of {budget_of(size).removeprefix('frames-')} frames was asked for"},
        ),
        ("command line", overrides, {"*": "given on the command line", **_reasons_at_run_time(constants)}),
    ]
    settings = {name: f.default for name, f in fields.items()}
    sources, reasons = dict.fromkeys(settings, "paper"), {n: c.reason or "" for n, c in constants.items()}
    for label, given, why in layers:
        for name, value in typed(given, fields, _layer(paper, label)).items():
            settings[name], sources[name] = value, label
            reasons[name] = why.get(name, why.get("*", reasons.get(name, "")))
    check(paper.name, settings, lambda name: _layer(paper, sources[name]))
    protocol = replace(task.protocol, **{**_shorter(task, wide), **own.evaluation})
    per_step = task.frames_per_agent_step or (
        settings.get("frame_skip", paper.frames_per_agent_step) if task.kind == "atari" else 1
    )
    protocol = replace(protocol, description=_in_words(protocol, settings, per_step))
    deviations = [
        Deviation(d["what"], None, None, "", d.get("source", ""), d["reason"], "listed")
        for d in (*paper.deviations, *task.deviations)
        if task.kind in d.get("kinds", (task.kind,) if task.script == "train" or d in task.deviations else ())
        and task.name in d.get("tasks", (task.name,))
    ]
    for name, value in settings.items():
        expected = paper_value(name, fields, constants)
        if not same(value, expected) and name not in paper.engineering:
            c = constants.get(name)
            deviations.append(
                Deviation(
                    c.name if c else name.replace("_", " "),
                    expected,
                    value,
                    c.field_unit if c else "",
                    c.source if c else "",
                    reasons.get(name, ""),
                    sources[name],
                    name,
                )
            )
    # Constants that no setting holds can differ too.
    deviations += [
        Deviation(c.name, c.expected, c.ours, c.field_unit, c.source, c.reason or "", "paper")
        for c in constants_of(paper, task)
        if not c.field and not same(c.ours, c.expected)
    ]
    why = {**wide.reasons, **own.reasons}
    for name, unit in (("episodes", "episodes"), ("max_frames", FRAMES)):
        if getattr(protocol, name) != getattr(task.protocol, name):
            reason = why.get("evaluation", why.get("*", f"the final evaluation is shorter at budget {base}"))
            what = f"final evaluation: {name.replace('_', ' ')}"
            before, after = getattr(task.protocol, name), getattr(protocol, name)
            deviations.append(Deviation(what, before, after, unit, task.protocol.source, reason, "budget"))
    return Resolved(
        paper,
        variant,
        task,
        size,
        settings,
        sources,
        protocol,
        tuple(deviations),
        per_step,
        own.expect or wide.expect,
    )


def _layer(paper: Paper, label: str) -> str:
    return "settings" if label == "command line" else f"{paper.file}: {label} settings"


def _in_words(protocol: Protocol, settings: Mapping[str, Any], frames_per_step: int) -> str:
    """A protocol's description; {evaluation_period}, {evaluation_steps} (in frames) and {extra_episodes} in it become this run's own."""
    description = protocol.description.replace("{extra_episodes}", str(protocol.extra_episodes))
    for name in ("evaluation_period", "evaluation_steps"):
        if name in settings:
            frames = agent_steps_to_frames(settings[name], frames_per_step)
            description = description.replace(f"{{{name}}}", f"{frames:,}")
    return description


def fitted_to_machine(paper: Paper, task: Task) -> set[str]:
    """The settings that a machine may ask for otherwise (a script's `fit_to_machine`): their difference is nobody's override."""
    return set(_reasons_at_run_time(by_field(constants_of(paper, task), paper.file)))


def _reasons_at_run_time(constants: Mapping[str, Constant]) -> dict[str, str]:
    """Of constants that are the paper's here, and have a reason: why a machine may ask for another value (`fit_to_machine`)."""
    return {name: c.reason for name, c in constants.items() if c.reason and same(c.ours, c.expected)}


def budgets_of(paper: Paper, task: Task, name: str) -> tuple[Budget, Budget]:
    """The paper's budget, empty where it does not concern the task, and the task's own, empty where it has none.

    A task for which no `day` is given takes no longer than that: its day is its `paper`.
    """
    if name == "day" and not _has_a_day(paper, task):
        name = "paper"
    wide, own = (
        paper.budgets[name],
        Budget(name, **{"settings": {}, "expect": "", **task.budgets.get(name, {})}),
    )
    if task.script != "train":
        wide = Budget(name, {}, wide.expect)
    elif wide.kinds and task.kind not in wide.kinds:
        wide = Budget(name, {}, "")
    return wide, own


def _has_a_day(paper: Paper, task: Task) -> bool:
    wide = paper.budgets.get("day")
    return "day" in task.budgets or (
        wide is not None and task.script == "train" and task.kind in (wide.kinds or (task.kind,))
    )


def _shorter(task: Task, wide: Budget) -> dict[str, int | None]:
    """The paper's budget only ever shortens an evaluation; the task's own entry is taken as it stands."""
    shorter = {}
    for name, value in wide.evaluation.items():
        stated = getattr(task.protocol, name)
        shorter[name] = stated if value is None or (stated is not None and stated < value) else value
    return shorter


# --- sizes, seeds, places ---


def resolve_budget(budget: str, task: Task, device: str) -> str:
    """What `auto` means on "cpu" or "cuda": tasks with claims at `paper`; others at `hour`, with CUDA at `paper`."""
    if budget != "auto":
        return budget
    return "paper" if task.kind == "claims" or device == "cuda" else "hour"


def default_seeds(task: Task, budget: str) -> int:
    """What `seeds: auto` means at a budget or size: the task's number, and 1 at `smoke`."""
    return 1 if budget_of(budget) == "smoke" else task.default_seeds


def settings_json(resolved: Resolved, seed: int) -> str:
    """All that decides what a training does, as one line of sorted JSON; the settings key is its digest.

    The budget's name and the number of final episodes are left out: they change no training.
    """
    p = resolved.protocol
    content = {
        "paper": resolved.paper.name,
        "variant": resolved.variant.name or None,
        "task": resolved.task.name,
        "environment": resolved.task.environment,
        "seed": int(seed),
        "settings": resolved.settings,
        "protocol": {
            "epsilon": p.epsilon,
            "max_frames": p.max_frames,
            "noop_max": p.noop_max,
            "weights": p.weights,
        },
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def settings_key(resolved: Resolved, seed: int) -> str:
    """12 hex digits: a checkpoint made under another key is never resumed silently."""
    return hashlib.sha256(settings_json(resolved, seed).encode()).hexdigest()[:12]


def settings_of(run: Mapping[str, Any], paper: Paper, task: Task) -> dict[str, Any]:
    """A run's settings (its run.json). One that its script has only got since is at its default, which does what the script did."""
    return {name: field.default for name, field in paper.fields(task.script).items()} | run["settings"]


def what_differs(run: Mapping[str, Any], resolved: Resolved, seed: int) -> str:
    """How a finished run (its run.json) differs from what would be trained in its place, in words; "" where it does not.

    Settings that its machine asked for are no difference.
    """
    was, fitted = (
        settings_of(run, resolved.paper, resolved.task),
        fitted_to_machine(resolved.paper, resolved.task),
    )
    names = [n for n in {**resolved.settings, **was} if n not in fitted]
    other = [n for n in names if not same(was.get(n), resolved.settings.get(n))]
    if other:
        shown = [f"{n}={was.get(n)} (asked: {resolved.settings.get(n)})" for n in other[:3]]
        return ", ".join(shown) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
    if same(run["settings"], resolved.settings) and run.get("settings_key") not in (
        None,
        settings_key(resolved, seed),
    ):
        return "another environment or protocol"
    return ""


def protocol_json(protocol: Protocol) -> str:
    """The final evaluation as one line of sorted JSON."""
    return json.dumps(asdict(protocol), sort_keys=True, separators=(",", ":"))


def expectation(expect: str | dict[str, str], device: str) -> str:
    """A budget's text for this device ("cpu" or "cuda")."""
    return expect if isinstance(expect, str) else expect["cuda" if device == "cuda" else "cpu"]
