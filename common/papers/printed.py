"""What a paper claims as a whole: its printed tables and its sentences, as `paper.yaml` declares them under `tables` and `claims`.

A table's rows and columns are variants, tasks or measures of this paper (`Paper` has those); its printed values stay in the
published CSV. `load` checks that all of them exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, suggestion
from common.papers.model import Row, Task, Variant

TAKE = ("lowest", "mean", "highest")  # of several rows of a table


@dataclass(frozen=True)
class TableRow:
    """One line of a table with the values printed in it.

    variant: "" is the paper itself; None: only printed, an agent that is not replicated here. measures: column -> measure of the
    table's task (layout `measures`). printed: column -> its printed value; of the layout `objectives` under "mean".
    """

    title: str
    variant: str | None = None
    measures: Mapping[str, str] | None = None
    printed: Mapping[str, Row] | None = None


@dataclass(frozen=True)
class Side:
    """One side of a comparison: some rows' means, of which the lowest, the mean or the highest counts; or a number."""

    rows: tuple[str, ...] = ()
    take: str = "mean"
    number: float | None = None

    def of(self, values: Mapping[str, Any], how: Mapping[str, Callable]) -> Any:
        """values: row -> number or array. how: a name of TAKE -> a function of a list of them."""
        if self.number is not None:
            return self.number
        return how[self.take]([values[row] for row in self.rows])


@dataclass(frozen=True)
class Comparison:
    """A claim about a table: the `higher` side is above the `lower` one."""

    name: str
    statement: str
    source: str
    higher: Side
    lower: Side


@dataclass(frozen=True)
class Table:
    """A printed table.

    layout: `objectives` (rows are variants; a task's scores are put on a scale from random play, 0, to the best result, 1, and
    averaged over tasks), `scores` (rows are variants, columns tasks; drawn the other way round), `measures` (rows and columns are
    measures of one task with claims). random: what random play may mean (`objectives`) -> task -> its score; the first is the page's
    scale, and a claim that another one decides otherwise is undecided. seeds: how many each cell has.
    """

    name: str
    title: str
    source: str
    layout: str
    tasks: tuple[str, ...]
    rows: tuple[TableRow, ...]
    seeds: int
    columns: tuple[str, ...] = ()
    random: Mapping[str, Mapping[str, Row]] | None = None
    notes: tuple[str, ...] = ()
    claims: tuple[Comparison, ...] = ()

    def row(self, variant: str) -> TableRow:
        return next(row for row in self.rows if row.variant == variant)


@dataclass(frozen=True)
class PaperClaim:
    """A sentence of the paper and what decides it.

    by: `tasks` (pages with claims of their own), `table` (a comparison of a table), `games` (in how many of `tasks` the mean is
    above `level`, a share of human level, or above the printed scores), `aggregate` (`statistic` over `tasks`, human-normalised),
    or `nothing` with a `reason`: it cannot be decided here. at_least: games, or a share of human level.
    """

    name: str
    statement: str
    source: str
    by: str
    tasks: tuple[str, ...] = ()
    variant: str = ""
    table: str | None = None
    comparison: str | None = None
    level: float | None = None
    printed: Mapping[str, Row] | None = None  # task -> score
    statistic: str | None = None  # median | mean
    at_least: float = 0.0
    reason: str | None = None


def load(
    data: dict, file: Path, variants: Mapping[str, Variant], find: Callable[..., Row]
) -> tuple[tuple[Table, ...], tuple[PaperClaim, ...]]:
    """The tables and claims of a checked paper.yaml. find: `find_row`. UserError for a name that does not exist."""
    tables = tuple(
        _table(entry, f"{file}: tables[{i}] ({entry['name']})", file.parent, variants, find)
        for i, entry in enumerate(data.get("tables", ()))
    )
    _once([t.name for t in tables], f"{file}: table")
    by_name = {table.name: table for table in tables}
    for name in by_name:
        for variant in variants.values():
            if name in variant.tasks:
                raise UserError(
                    f"{file}: table {name!r} has the name of a task, and their pages would share one; rename it"
                )
    claims = tuple(
        _claim(entry, f"{file}: claims[{i}] ({entry['name']})", file.parent, variants, by_name, find)
        for i, entry in enumerate(data.get("claims", ()))
    )
    _once([c.name for c in claims], f"{file}: claim")
    return tables, claims


def _once(names: Sequence[str], what: str) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UserError(f"{what} {name!r} is given twice; name it once")


def _known(name: str, known: Mapping | Sequence, where: str) -> str:
    if name not in known:
        raise UserError(f"{where}: unknown {name!r}{suggestion(name, list(known))}")
    return name


def _variant(name: str, variants: Mapping[str, Variant], where: str) -> str:
    """paper.yaml says `base` for the paper itself."""
    return "" if name == "base" else _known(name, [v for v in variants if v], f"{where}: variant")


def _row(ref: dict, folder: Path, game: str, find: Callable[..., Row], where: str) -> Row:
    try:
        return find(folder / ref["file"], ref.get("game", game), ref["metric"], ref.get("protocol"))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _table(
    entry: dict, where: str, folder: Path, variants: Mapping[str, Variant], find: Callable[..., Row]
) -> Table:  # fmt: skip
    layout, base = entry["layout"], variants[""].tasks
    printed, random = entry["printed"], None
    if layout == "measures":
        (name,) = entry["tasks"]
        known = {c.measure for c in _task(base, name, where).claims}
        columns = tuple(entry["columns"])
        rows = []
        for row in entry["rows"]:
            measures = {c: f"{row['measure']}_{c}" for c in columns}
            if not known & set(measures.values()):
                raise UserError(
                    f"{where}: no claim of {name!r} is about a measure {row['measure']}_...; the measures are {', '.join(sorted(known))}"
                )
            values = {
                c: _row(printed | {"metric": printed["metric"].format(row=row["measure"]),
                                   "protocol": printed["protocol"].format(column=c)}, folder, name, find, where)
                for c in columns
            }  # fmt: skip
            rows.append(TableRow(row["title"], measures=measures, printed=values))
    elif layout == "objectives":
        columns = tuple(entry["tasks"])
        rows = []
        for row in entry["rows"]:
            variant = _variant(row["variant"], variants, where)
            for task in columns:
                _task(variants[variant].tasks, task, f"{where}: variant {row['variant']}")
            rows.append(
                TableRow(
                    row["title"],
                    variant,
                    printed={"mean": _row(printed | {"metric": row["metric"]}, folder, "", find, where)},
                )
            )
        random = {
            metric: {
                task: _row({"file": entry["random"]["file"], "metric": metric}, folder, task, find, where)
                for task in columns
            }
            for metric in entry["random"]["metrics"]
        }
    else:  # scores: rows are tasks
        rows = []
        for row in entry["rows"]:
            variant = _variant(row["variant"], variants, where) if "variant" in row else None
            known = variants[variant or ""].tasks
            games = {
                task: _task(known, task, f"{where}: row {row['title']!r}").game or task
                for task in entry["tasks"]
            }
            values = {
                task: _row(printed | {"metric": row["metric"]}, folder, game, find, where)
                for task, game in games.items()
            }
            rows.append(TableRow(row["title"], variant, printed=values))
        columns = tuple(entry["tasks"])
    known = {row.variant for row in rows}
    return Table(
        entry["name"], entry["title"], entry["source"], layout, tuple(entry["tasks"]), tuple(rows), entry["seeds"],
        columns, random, tuple(entry.get("notes", ())),
        tuple(_comparison(claim, where, known) for claim in entry.get("claims", ())),
    )  # fmt: skip


def _task(tasks: Mapping[str, Task], name: str, where: str) -> Task:
    return tasks[_known(name, tasks, f"{where}: task")]


def _comparison(entry: dict, where: str, known: set[str]) -> Comparison:
    where = f"{where}: claim {entry['name']!r}"

    def side(value: Any) -> Side:
        if isinstance(value, int | float):
            return Side(number=float(value))
        rows = tuple("" if row == "base" else row for row in value["rows"])
        for row in rows:
            _known(row, known, f"{where}: row")
        return Side(rows, value.get("take", "mean"))

    return Comparison(
        entry["name"], entry["statement"], entry["source"], side(entry["higher"]), side(entry["lower"])
    )


def _claim(
    entry: dict, where: str, folder: Path, variants: Mapping[str, Variant], tables: Mapping[str, Table], find: Callable
) -> PaperClaim:  # fmt: skip
    words = {key: entry[key] for key in ("name", "statement", "source")}
    rule = entry["decided_by"]
    variant = _variant(rule.get("variant", "base"), variants, where)
    known = variants[variant].tasks
    games = tuple(name for name, task in known.items() if task.kind == "atari" and task.in_paper)
    if "tasks" in rule:
        for name in rule["tasks"]:
            if not _task(known, name, where).claims:
                raise UserError(f"{where}: the task {name!r} has no claims of its own; name one that has")
        return PaperClaim(**words, by="tasks", variant=variant, tasks=tuple(rule["tasks"]))
    if "table" in rule:
        table = tables[_known(rule["table"], tables, f"{where}: table")]
        _known(rule["comparison"], [c.name for c in table.claims], f"{where}: comparison")
        return PaperClaim(**words, by="table", table=rule["table"], comparison=rule["comparison"])
    if "aggregate" in rule:
        return PaperClaim(
            **words, by="aggregate", variant=variant, tasks=games, statistic=rule["aggregate"], at_least=rule["at_least"]
        )  # fmt: skip
    if "games" in rule:
        ref = rule.get("printed")
        rows = {g: _row(ref, folder, known[g].game, find, where) for g in games} if ref else None
        if rule["at_least"] > len(games):
            raise UserError(f"{where}: at_least {rule['at_least']} games; there are {len(games)}")
        return PaperClaim(
            **words, by="games", variant=variant, tasks=games, level=rule.get("level"), printed=rows, at_least=rule["at_least"]
        )  # fmt: skip
    return PaperClaim(**words, by="nothing", reason=rule["nothing"])
