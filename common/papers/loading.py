"""Loads and checks `replications/*/paper.yaml`, and names the targets. UserError with file, key and fix."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.errors import UserError, suggestion
from common.papers import printed
from common.papers.model import (
    NO_PROTOCOL,
    Budget,
    Claim,
    Constant,
    Paper,
    Protocol,
    Row,
    Target,
    Task,
    Variant,
)
from common.papers.settings import (
    Resolved,
    constants_by_field,
    constants_of,
    paper_value,
    resolve_loaded,
    same,
    typed,
)  # fmt: skip
from common.papers.units import convert
from common.papers.validation import load_yaml, validate

REPLICATIONS = Path(__file__).resolve().parents[2] / "replications"
NAME = re.compile(r"[a-z0-9_]+")
DEFAULT_SEEDS = {"atari": 1, "gym": 5, "laptop": 10}

# --- published tables ---


@lru_cache(maxsize=64)
def _table(path: Path, mtime_ns: int) -> list[Row]:
    needed = ("game", "metric", "value", "stdev", "protocol")
    rows = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in needed if name not in (reader.fieldnames or [])]
            if missing:
                raise UserError(
                    f"{path}, line 1: column {missing[0]!r} is missing; the columns are {', '.join(needed)}"
                )
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(
                        f"{where}: {len(reader.fieldnames)} cells are needed; quote a cell that has a comma in it"
                    )
                numbers = {}
                for name in ("value", "stdev"):
                    try:
                        numbers[name] = float(row[name]) if row[name].strip() or name == "value" else None
                    except ValueError:
                        raise UserError(f"{where}: {name} {row[name]!r} is not a number") from None
                    if numbers[name] is not None and not math.isfinite(numbers[name]):
                        raise UserError(f"{where}: {name} {row[name]!r} is not a finite number")
                rows.append(
                    Row(path.name, row["game"], row["metric"], row["protocol"], numbers["value"], numbers["stdev"],
                        row.get("source", ""), reader.line_num)
                )  # fmt: skip
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None
    return rows


def find_row(path: Path, game: str, metric: str, protocol: str | None = None) -> Row:
    """The one row of a published table. UserError when the file is missing or malformed, or no row or several fit."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: the file is missing; it holds the published scores")
    rows = _table(path, path.stat().st_mtime_ns)
    found = [
        row for row in rows if row.game == game and row.metric == metric and protocol in (None, row.protocol)
    ]
    if len(found) == 1:
        return found[0]
    wanted = f"game {game!r}, metric {metric!r}" + (f", protocol {protocol!r}" if protocol else "")
    if found:
        protocols = sorted({row.protocol for row in found})
        fix = f"name one protocol of {', '.join(protocols)}" if len(protocols) > 1 else "keep one of them"
        raise UserError(
            f"{path}: several rows have {wanted} (lines {', '.join(str(r.line) for r in found)}); {fix}"
        )
    for name, value in (("game", game), ("metric", metric), ("protocol", protocol)):
        known = sorted({getattr(row, name) for row in rows})
        if value is not None and value not in known:
            raise UserError(
                f"{path}: no row has {wanted}: unknown {name} {value!r}{suggestion(value, known)}"
            )
    raise UserError(f"{path}: no row has {wanted}; add it, or say `none` with a reason in paper.yaml")


# --- loading ---


def discover(root: Path = REPLICATIONS) -> tuple[str, ...]:
    """Names of the folders that hold a paper.yaml."""
    names = sorted(path.parent.name for path in Path(root).glob("*/paper.yaml"))
    for name in names:
        if not NAME.fullmatch(name):
            raise UserError(
                f"{Path(root) / name}: a paper's folder is named with lower-case letters, digits and underscores only"
            )
    return tuple(names)


def load_paper(name: str, root: Path = REPLICATIONS) -> Paper:
    """Loads and checks replications/<name>/paper.yaml: the schema; then settings, reasons, units, protocols, rows."""
    folder = Path(root) / name
    if not NAME.fullmatch(name) or not (folder / "paper.yaml").is_file():
        raise UserError(f"unknown paper {name!r}{suggestion(name, discover(root))}")
    file = folder / "paper.yaml"
    data = load_yaml(file)
    if not isinstance(data, dict):
        raise UserError(
            f"{file}: the file must be a mapping with the keys paper, title, constants, tasks, ..."
        )
    validate(data, "paper.schema.yaml", str(file))
    if data["paper"] != name:
        raise UserError(f"{file}: paper: {data['paper']!r} is not the folder's name; write {name!r}")
    protocols = {
        key: Protocol(**{"extra_episodes": 0, "noop_max": None, **value, "name": key})
        for key, value in data["protocols"].items()
    }
    tasks = _tasks(data["tasks"], "tasks", protocols, folder, data)
    base = Variant("", data["short"], data["summary"], tasks, kinds=data.get("kinds", {}))
    variants = {"": base}
    for key, value in data.get("variants", {}).items():
        tasks = _tasks(value["tasks"], f"variants.{key}.tasks", protocols, folder, data)
        variants[key] = Variant(
            key,
            value["title"],
            value["description"],
            tasks,
            value.get("settings", {}),
            value.get("reasons", {}),
            value.get("kinds", {}),
        )
    tables, claims = printed.load(data, file, variants, find_row)
    paper = Paper(
        name=name,
        folder=folder,
        title=data["title"],
        short=data["short"],
        citation={"title": data["title"], **data["citation"]},
        summary=data["summary"],
        frames_per_agent_step=data["frames_per_agent_step"],
        agent_steps_per_update=data.get("agent_steps_per_update"),
        constants=tuple(_constant(item, data, file) for item in data["constants"]),
        deviations=tuple(data.get("deviations", ())),
        engineering=tuple(data.get("engineering", ())),
        variants=variants,
        budgets={key: Budget(key, **value) for key, value in data["budgets"].items()},
        printed_tables=tables,
        claims=claims,
    )
    _check_settings(paper)
    return paper


def _constant(item: dict, data: dict, file: Path) -> Constant:
    where = f"{file}: constant {item['name']!r}"
    unit, field_unit = item["unit"], item.get("field_unit", item["unit"])
    expected = item["paper"]
    if field_unit != unit and expected is not None:
        try:
            expected = convert(
                expected, unit, field_unit, frames_per_agent_step=data["frames_per_agent_step"],
                agent_steps_per_update=data.get("agent_steps_per_update"),
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise UserError(f"{where}: field_unit {field_unit!r}: {error}") from None
    ours = item.get("ours", expected)
    if "ours" in item and ours != expected and "reason" not in item:
        raise UserError(f"{where}: ours {ours!r} is not the paper's {expected!r} {field_unit}; add a reason")
    if expected is None and item["field"] and "ours" not in item:
        raise UserError(f"{where}: the paper does not say (paper: null), so `ours` and a `reason` are needed")
    return Constant(
        item["name"], item["field"], item["paper"], unit, item["source"], ours, field_unit, expected,
        item.get("reason"), item.get("note"),
    )  # fmt: skip


def _tasks(
    entries: list[dict], where: str, protocols: dict[str, Protocol], folder: Path, data: dict
) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    file = folder / "paper.yaml"
    for number, entry in enumerate(entries):
        for name in entry["names"]:
            if name in tasks:
                raise UserError(f"{file}: {where}: task {name!r} is given twice; name it once")
            tasks[name] = _task(name, entry, f"{file}: {where}[{number}] ({name})", protocols, folder, data)
    return tasks


def _task(
    name: str, entry: dict, where: str, protocols: dict[str, Protocol], folder: Path, data: dict
) -> Task:
    kind = entry["kind"]
    if "claims" in entry:  # a task with claims plays nothing and has no score
        nothing = {
            "published": "none",
            "published_reason": "its claims are inequalities, and no score is printed",
        }
        entry, protocols = (
            {"protocol": NO_PROTOCOL.name, **nothing, **entry},
            {NO_PROTOCOL.name: NO_PROTOCOL, **protocols},
        )
    for key in ("protocol", "published"):
        if key not in entry:
            meaning = {
                "protocol": "a name in `protocols`",
                "published": "file and metric of the printed score, or 'none'",
            }
            raise UserError(f"{where}: key {key!r} is missing ({meaning[key]})")
    for key, needed in (
        ("game", "atari"), ("env_id", "gym"), ("script", "laptop"), ("claims", "laptop"), ("constants", "laptop"),
        ("figures", "laptop"),
    ):  # fmt: skip
        if key in entry and kind != needed:
            raise UserError(
                f"{where}: {key!r} belongs to kind {needed}, not {kind}; remove it or change the kind"
            )
        if key not in entry and kind == needed and key in ("env_id", "script"):
            raise UserError(f"{where}: kind {kind} needs the key {key!r}")
    if entry["protocol"] not in protocols:
        raise UserError(
            f"{where}: protocol: unknown {entry['protocol']!r}{suggestion(entry['protocol'], protocols)}"
        )
    if entry["published"] == "none" and "published_reason" not in entry:
        raise UserError(
            f"{where}: published: none needs a published_reason: why the paper prints no score for it"
        )
    game = entry.get("game", name if kind == "atari" else None)

    def row(key: str) -> Row | None:
        ref = entry.get(key, "none")
        if ref == "none":
            return None
        path = folder / ref["file"]
        if not path.resolve().is_relative_to(folder.parent.resolve()):
            raise UserError(
                f"{where}: {key}: file {ref['file']!r} lies outside the replications; copy it into {folder}"
            )
        try:
            found = find_row(path, ref.get("game", game or name), ref["metric"], ref.get("protocol"))
        except UserError as error:
            raise UserError(f"{where}: {key}: {error}") from None
        return replace(found, file=ref["file"])

    return Task(
        name=name,
        kind=kind,
        title=entry["title"].replace("{name}", name.replace("_", " ").title()),
        protocol=protocols[entry["protocol"]],
        game=game,
        env_id=entry.get("env_id"),
        script=entry.get("script", "train"),
        in_paper=entry.get("in_paper", True),
        published=row("published"),
        published_reason=entry.get("published_reason"),
        random=row("random"),
        human=row("human"),
        paper_frames=entry.get("paper_frames"),
        frames_per_agent_step=entry.get("frames_per_agent_step"),
        bar=entry.get("bar"),
        settings=entry.get("settings", {}),
        reasons=entry.get("reasons", {}),
        budgets=entry.get("budgets", {}),
        default_seeds=entry.get("seeds", DEFAULT_SEEDS[kind]),
        constants=tuple(_constant(item, data, folder / "paper.yaml") for item in entry.get("constants", ())),
        deviations=tuple(entry.get("deviations", ())),
        claims=_claims(entry.get("claims", ()), where),
        figures=tuple(entry.get("figures", ())),
    )


def _claims(entries: Sequence[dict], where: str) -> tuple[Claim, ...]:
    claims = tuple(Claim(**entry) for entry in entries)
    for number, claim in enumerate(claims):
        if claim.name in {other.name for other in claims[:number]}:
            raise UserError(f"{where}: claim {claim.name!r} is given twice; name it once")
        if claim.at_least is None and claim.at_most is None:
            raise UserError(
                f"{where}: claim {claim.name!r} has no bound; at_least, at_most or both are needed"
            )
        if None not in (claim.at_least, claim.at_most) and claim.at_least > claim.at_most:
            raise UserError(
                f"{where}: claim {claim.name!r}: at_least {claim.at_least:g} is above at_most {claim.at_most:g}"
            )
        if claim.factor and min(b for b in (claim.at_least, claim.at_most) if b is not None) <= 0:
            raise UserError(f"{where}: claim {claim.name!r}: the bounds of a factor are above 0")
    return claims


def _check_settings(paper: Paper) -> None:
    """Every setting is a field of its script's Config, of its type, and has a reason where the paper differs."""
    fields, constants = paper.fields(), constants_by_field(paper)
    for name in (*constants, *paper.engineering):
        if name not in fields:
            raise UserError(
                f"{paper.file}: field {name!r} is not in Config of {paper.folder / 'train.py'}{suggestion(name, fields)}"
            )

    def check(
        where: str, settings: Mapping, reasons: Mapping, script: str = "train", task: Task | None = None
    ) -> None:
        own = paper.fields(script)
        for name, value in typed(settings, own, f"{paper.file}: {where}.settings").items():
            is_same = same(
                value, paper_value(name, own, constants if script == "train" else constants_of(paper, task))
            )
            if not is_same and name not in paper.engineering and not {name, "*"} & set(reasons):
                raise UserError(
                    f"{paper.file}: {where}.settings.{name} differs from the paper; say why in {where}.reasons.{name}"
                )
        for name in reasons:
            if name not in settings and name not in ("*", "evaluation"):
                raise UserError(
                    f"{paper.file}: {where}.reasons.{name} explains no setting{suggestion(name, settings)}"
                )

    for name, budget in paper.budgets.items():
        check(f"budgets.{name}", budget.settings, budget.reasons)
    for variant in paper.variants.values():
        prefix = f"variants.{variant.name}." if variant.name else ""
        if variant.name:
            check(f"variants.{variant.name}", variant.settings, variant.reasons)
        for kind in variant.kinds:
            check(f"{prefix}kinds.{kind}", *variant.of_kind(kind))
        for task in variant.tasks.values():
            where = f"{prefix}tasks({task.name})"
            for name in constants_of(paper, task) if task.script != "train" else ():
                if name not in paper.fields(task.script):
                    script = paper.folder / f"{task.script}.py"
                    raise UserError(
                        f"{paper.file}: {where}: field {name!r} is not in Config of {script}"
                        f"{suggestion(name, paper.fields(task.script))}"
                    )
            check(where, task.settings, task.reasons, task.script, task)
            for name, extra in task.budgets.items():
                check(
                    f"{where}.budgets.{name}",
                    extra.get("settings", {}),
                    extra.get("reasons", {}),
                    task.script,
                    task,
                )


# --- targets ---


def targets(root: Path = REPLICATIONS) -> dict[str, Target]:
    """Every page there is: "dqn_pong", "dqn-no_replay_pong", ... -> Target."""
    return targets_of(load_papers(root))


def load_papers(root: Path = REPLICATIONS) -> dict[str, Paper]:
    return {name: load_paper(name, root) for name in discover(root)}


def targets_of(papers: Mapping[str, Paper]) -> dict[str, Target]:
    found: dict[str, Target] = {}
    for paper in papers.values():
        for variant in paper.variants.values():
            for task in variant.tasks:
                target = Target(paper.name, variant.name or None, task)
                if target.name in found:
                    raise UserError(
                        f"{paper.file}: the target {target.name!r} stands for {found[target.name]} and for {target}; "
                        "rename a task or a paper"
                    )
                found[target.name] = target
    return found


def parse_target(name: str, root: Path = REPLICATIONS) -> Target:
    """ "dqn_pong" or "reports/dqn_pong.html"; UserError with close matches for anything else."""
    known = targets(root)
    bare = name.removeprefix("reports/").removesuffix(".html")
    if bare not in known:
        raise UserError(f"unknown target {name!r}{suggestion(bare, known)}")
    return known[bare]


def find_task(paper: Paper, variant: str | None, task: str) -> tuple[Variant, Task]:
    if (variant or "") not in paper.variants:
        names = [name for name in paper.variants if name]
        raise UserError(
            f"unknown variant {variant!r} of {paper.name}{suggestion(variant, names)} (no variant: the paper itself)"
        )
    found = paper.variants[variant or ""]
    if task not in found.tasks:
        raise UserError(
            f"unknown task {task!r} of {paper.name}{'-' + variant if variant else ''}{suggestion(task, found.tasks)}"
        )
    return found, found.tasks[task]


# --- resolving, and where things lie ---


def resolve(
    paper: Paper | str,
    variant: str | None,
    task: str,
    budget: str,
    overrides: Mapping[str, Any] | None = None,
    root: Path = REPLICATIONS,
) -> Resolved:
    """Settings, protocol and deviations of one run (`common/papers/settings.py`). `overrides` come from the command line."""
    if isinstance(paper, str):
        paper = load_paper(paper, root)
    return resolve_loaded(paper, *find_task(paper, variant, task), budget, overrides)


def agent_name(paper: str, variant: str | None) -> str:
    return f"{paper}-{variant}" if variant else paper


def run_dir(
    paper: str, variant: str | None, task: str, size: str, seed: int, results: Path | str = "results"
) -> Path:
    return Path(results) / agent_name(paper, variant) / task / size / f"seed{seed}"


def recorded_dir(
    paper: str,
    variant: str | None,
    task: str,
    size: str | None = None,
    seed: int | None = None,
    root: Path = REPLICATIONS,
) -> Path:
    """Where our own finished run lies; without `size` or `seed`, the folder above it."""
    path = Path(root) / paper / "recorded" / (variant or "base") / task
    if size:
        path = path / size
    return path / f"seed{seed}" if size and seed else path
