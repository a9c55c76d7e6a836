"""The tasks of a `paper.yaml`: its short forms written out, each checked and tied to its protocol and its printed scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import UserError, suggestion
from common.papers.constants import constants_by_kind
from common.papers.model import NO_PROTOCOL, Claim, Protocol, Row, Task
from common.papers.tables import find_row

DEFAULT_SEEDS = {"atari": 1, "gym": 5, "claims": 10}
NEEDED = {
    "names": "task names",
    "kind": "atari, gym or claims",
    "title": "'{name}' stands for the task's name in words",
    "protocol": "a name in `protocols`",
    "published": "file and metric of the printed score, or 'none'",
}


def written_out(
    entries: Sequence[str | Mapping], base: Sequence[Mapping], where: str
) -> list[dict[str, Any]]:
    """`entries` without their short forms: each a mapping with all its keys.

    A name stands for the tasks of that name or group in `base`; `like: NAME` for the same with the keys given
    beside it in place of theirs. With `base` empty, a name refers to the entries above it. UserError for an unknown name.
    """
    found: list[dict[str, Any]] = []
    for number, entry in enumerate(entries):
        own = {"like": entry} if isinstance(entry, str) else dict(entry)
        if "like" not in own:
            found.append(own)
            continue
        known, name = base or found, own.pop("like")
        models = [dict(model) for model in known if name == model.get("group")]
        models = models or [{**model, "names": [name]} for model in known if name in model.get("names", ())]
        if not models:
            names = {n for model in known for n in (model.get("group"), *model.get("names", ())) if n}
            raise UserError(
                f"{where}[{number}]: no task and no group of the paper is called {name!r}{suggestion(name, names)}"
            )
        if "names" in own:
            models = models[:1]
        for model in models:
            if "published" in own:
                model.pop("published_reason", None)  # it is the other score's
            found.append({**model, **own})
    return found


def tasks_of(
    entries: Sequence[Mapping], where: str, protocols: Mapping[str, Protocol], folder: Path, data: Mapping
) -> dict[str, Task]:
    """name -> task, from entries that are written out."""
    tasks: dict[str, Task] = {}
    file = folder / "paper.yaml"
    for number, entry in enumerate(entries):
        for key, meaning in NEEDED.items():
            if key not in entry and not ("claims" in entry and key in ("protocol", "published")):
                name = ", ".join(entry.get("names", ())[:3])
                raise UserError(
                    f"{file}: {where}[{number}]{f' ({name})' if name else ''}: key {key!r} is missing ({meaning})"
                )
        for name in entry["names"]:
            if name in tasks:
                raise UserError(f"{file}: {where}: task {name!r} is given twice; name it once")
            tasks[name] = _task(name, entry, f"{file}: {where}[{number}] ({name})", protocols, folder, data)
    return tasks


def _task(
    name: str, entry: Mapping, where: str, protocols: Mapping[str, Protocol], folder: Path, data: Mapping
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
    for key, needed in (
        ("game", "atari"), ("env_id", "gym"), ("script", "claims"), ("claims", "claims"), ("constants", "claims"),
        ("also", "claims"), ("figures", "claims"), ("claims_by", "claims"),
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
    rows = {key: _row(entry, key, game or name, where, folder) for key in ("published", "random", "human")}
    words, joined = name.replace("_", " ").title(), "".join(word.capitalize() for word in name.split("_"))

    def named(text: str | None) -> str | None:
        return text and text.replace("{name}", words).replace("{Name}", joined)

    return Task(
        name=name,
        kind=kind,
        title=named(entry["title"]),
        protocol=protocols[entry["protocol"]],
        game=game,
        env_id=named(entry.get("env_id")),
        script=entry.get("script", "train"),
        in_paper=entry.get("in_paper", True),
        claims_by=entry.get("claims_by"),
        **rows,
        published_reason=entry.get("published_reason"),
        paper_frames=entry.get("paper_frames"),
        frames_per_agent_step=entry.get("frames_per_agent_step"),
        bar=entry.get("bar"),
        settings=entry.get("settings", {}),
        reasons=entry.get("reasons", {}),
        budgets=entry.get("budgets", {}),
        default_seeds=entry.get("seeds", DEFAULT_SEEDS[kind]),
        constants=constants_by_kind(entry.get("constants", ()), (kind,), data, folder / "paper.yaml")[kind],
        deviations=tuple(entry.get("deviations", ())),
        claims=_claims(entry.get("claims", ()), where),
        also=tuple(entry.get("also", ())),
        figures=tuple(entry.get("figures", ())),
    )


def _row(entry: Mapping, key: str, game: str, where: str, folder: Path) -> Row | None:
    ref = entry.get(key, "none")
    if ref == "none":
        return None
    path = folder / ref["file"]
    if not path.resolve().is_relative_to(folder.parent.resolve()):
        raise UserError(
            f"{where}: {key}: file {ref['file']!r} lies outside the replications; copy it into {folder}"
        )
    try:
        found = find_row(path, ref.get("game", game), ref["metric"], ref.get("protocol"))
    except UserError as error:
        raise UserError(f"{where}: {key}: {error}") from None
    return replace(found, file=ref["file"])


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
