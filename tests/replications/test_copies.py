"""A script stands alone, so the rules that several papers have in common stand in each of them. These copies are equal."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "replications"
# What is copied, and where it stands. The tests of the first script hold the rule against numbers worked out by hand.
COPIES = {
    ("NatureNetwork", "dqn double_dqn prioritized_dqn"),
    ("make_network", "double_dqn prioritized_dqn"),
    ("exploration", "dqn dqn_2013 double_dqn prioritized_dqn dueling_dqn rainbow"),
    ("q_targets", "double_dqn prioritized_dqn dueling_dqn"),
    ("q_loss", "dqn double_dqn"),
    ("q_loss", "prioritized_dqn dueling_dqn"),
    ("importance_exponent", "prioritized_dqn dueling_dqn rainbow"),
    ("importance_weights", "prioritized_dqn dueling_dqn rainbow"),
    ("RMSProp", "dqn double_dqn prioritized_dqn dueling_dqn"),
    ("act", "dqn dqn_2013 double_dqn prioritized_dqn dueling_dqn rainbow"),
    ("annealing", "a2c ppo"),
    ("Heads", "a2c reinforce"),
    ("make_policy", "dqn dqn_2013 double_dqn prioritized_dqn dueling_dqn"),
}


def definitions(folder: Path) -> dict[tuple[str, str], str]:
    """(script, name) -> syntax tree of each function and class of a train.py, docstrings left out."""
    found = {}
    for file in sorted(folder.glob("*/train.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for part in ast.walk(node):
                    if (
                        isinstance(part, ast.FunctionDef | ast.ClassDef)
                        and ast.get_docstring(part) is not None
                    ):
                        part.body = part.body[1:] or [ast.Pass()]
                found[file.parent.name, node.name] = ast.dump(node)
    return found


def groups(folder: Path) -> set[tuple[str, frozenset[str]]]:
    """Each name with the scripts that define it equally, where that is more than one."""
    scripts = defaultdict(set)
    for (script, name), tree in definitions(folder).items():
        scripts[name, tree].add(script)
    return {(name, frozenset(where)) for (name, _), where in scripts.items() if len(where) > 1}


LISTED = {(name, frozenset(where.split())) for name, where in COPIES}


def test_copies_are_equal_and_listed():
    found = groups(SCRIPTS)
    assert found - LISTED == set(), "these are equal; list them in COPIES"
    assert LISTED - found == set(), "these copies differ"


@pytest.mark.parametrize(
    ("old", "new"), [("return a + 1", "return a + 2"), ("def f(a, b)", "def f(b, a)"), ("(f)", "(g)")]
)
def test_a_copy_that_changes_is_seen(tmp_path, old, new):
    text = 'def f(a, b):\n    """One docstring."""\n    return a + 1\n\n\nclass C(f):\n    x = 1\n'
    for script, changed in (("one", text), ("two", text.replace("One docstring.", "Another."))):
        (tmp_path / script).mkdir()
        (tmp_path / script / "train.py").write_text(changed)
    both = frozenset(("one", "two"))
    assert groups(tmp_path) == {("f", both), ("C", both)}
    (tmp_path / "two" / "train.py").write_text(text.replace(old, new))
    assert len(groups(tmp_path)) == 1
