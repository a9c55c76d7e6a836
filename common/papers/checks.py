"""Whether a loaded paper and its scripts say the same: settings, types, reasons, defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.errors import UserError, suggestion
from common.papers.model import Paper, Task
from common.papers.settings import budgets_of, by_field, constants_of, paper_value, same, typed


def check_settings(paper: Paper) -> None:
    """Every setting is a field of its script's Config, of its type, and has a reason where the paper differs."""
    fields, constants = paper.fields(), by_field(paper.constants, paper.file)
    for name in (*constants, *paper.engineering):
        if name not in fields:
            raise UserError(
                f"{paper.file}: field {name!r} is not in Config of {paper.folder / 'train.py'}{suggestion(name, fields)}"
            )

    known = {name for variant in paper.variants.values() for name in variant.tasks}
    for name in (name for deviation in paper.deviations for name in deviation.get("tasks", ())):
        if name not in known:
            raise UserError(f"{paper.file}: deviations: unknown task {name!r}{suggestion(name, known)}")

    def check(where: str, settings: Mapping, reasons: Mapping, tasks: Sequence[Task]) -> None:
        """`tasks` are those that the settings are for: what the paper says can differ between their kinds."""
        typed(
            settings, paper.fields(tasks[0].script if tasks else "train"), f"{paper.file}: {where}.settings"
        )
        for task in {(task.script, task.kind): task for task in tasks}.values():
            own, said = paper.fields(task.script), by_field(constants_of(paper, task), paper.file)
            for name, value in typed(settings, own, where).items():
                explained = name in paper.engineering or {name, "*"} & set(reasons)
                if not explained and not same(value, paper_value(name, own, said)):
                    raise UserError(
                        f"{paper.file}: {where}.settings.{name} differs from the paper; say why in {where}.reasons.{name}"
                    )
        for name in reasons:
            if name not in settings and name not in ("*", "evaluation"):
                raise UserError(
                    f"{paper.file}: {where}.reasons.{name} explains no setting{suggestion(name, settings)}"
                )

    trained = {
        name: [task for task in variant.tasks.values() if task.script == "train"]
        for name, variant in paper.variants.items()
    }
    for name, budget in paper.budgets.items():
        concerned = [
            task
            for tasks in trained.values()
            for task in tasks
            if task.kind in (budget.kinds or (task.kind,))
        ]
        check(f"budgets.{name}", budget.settings, budget.reasons, concerned)
    for variant in paper.variants.values():
        prefix = f"variants.{variant.name}." if variant.name else ""
        if variant.name:
            check(f"variants.{variant.name}", variant.settings, variant.reasons, trained[variant.name])
        for kind in variant.kinds:
            concerned = [task for task in trained[variant.name] if task.kind == kind]
            if not concerned:
                raise UserError(
                    f"{paper.file}: {prefix}kinds.{kind}: the variant has no task of this kind; remove it"
                )
            check(f"{prefix}kinds.{kind}", *variant.of_kind(kind), concerned)
        for task in variant.tasks.values():
            where = f"{prefix}tasks({task.name})"
            for name in by_field(task.constants, paper.file):
                if name not in paper.fields(task.script):
                    script = paper.folder / f"{task.script}.py"
                    raise UserError(
                        f"{paper.file}: {where}: field {name!r} is not in Config of {script}"
                        f"{suggestion(name, paper.fields(task.script))}"
                    )
            check(where, task.settings, task.reasons, [task])
            for name in paper.budgets:
                if not any(budget.expect for budget in budgets_of(paper, task, name)):
                    raise UserError(
                        f"{paper.file}: {where}: budgets.{name} of the paper does not concern kind {task.kind}; "
                        f"add budgets.{name} to the task, with `expect`"
                    )
            for name, extra in task.budgets.items():
                budget = f"{where}.budgets.{name}"
                check(budget, extra.get("settings", {}), extra.get("reasons", {}), [task])


def check_defaults(paper: Paper) -> list[str]:
    """Each way in which `Config` does not say what paper.yaml says; empty when all is well.

    A default that is not the constant's `ours`, or a field that is neither in a constant nor under `engineering`.
    """
    constants, problems = by_field(paper.constants, paper.file), []
    for name, (_, default) in paper.fields().items():
        if name in constants and not same(default, constants[name].ours):
            c = constants[name]
            problems.append(
                f"Config.{name} is {default!r}, paper.yaml says {c.ours!r} {c.field_unit} ({c.name})"
            )
        elif name not in constants and name not in paper.engineering:
            problems.append(
                f"Config.{name} is in no constant of {paper.file}; add it there, or under `engineering`"
            )
    for task in {task.script: task for task in paper.tasks.values() if task.constants}.values():
        own = by_field(task.constants, paper.file)
        for name, (_, default) in paper.fields(task.script).items():
            if name not in own:
                problems.append(f"{task.script}: Config.{name} is in no constant of the task {task.name}")
            elif not same(default, own[name].ours):
                problems.append(
                    f"{task.script}: Config.{name} is {default!r}, paper.yaml says {own[name].ours!r}"
                )
    return problems
