"""The drawing of a table over its training: what is read from the weights, what is refused, what the script draws."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from common.errors import UserError
from common.evaluation.protocol import evaluate_run
from reports.grids import grid_values, read_history
from reports.render import HERE, render
from reports.runs import read_run
from reports.target import load_target
from tests.training import train


@pytest.fixture(scope="module")
def cliff(tmp_path_factory):
    """(results, run's folder) of a tiny training, evaluated."""
    results = tmp_path_factory.mktemp("results")
    folder = train("q_learning", "cliff", results, {}, budget="smoke")
    evaluate_run(folder, "cpu")
    return results, folder


def grid_on(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="grid-[^"]*">(.*?)</script>', page)[1])


def test_the_page_holds_grid_and_history(cliff, tmp_path):
    results, folder = cliff
    page = render("q_learning_cliff", out=tmp_path / "page.html", results=results, source="own").read_text()
    found = grid_on(page)
    history = load_file(folder / "model.safetensors")["history"]
    assert (found["rows"], found["columns"], len(found["steps"])) == (4, 12, len(history))
    assert found["steps"][-1] == 1000
    assert found["cells"][36:] == "S" + 10 * "C" + "G"
    assert (found["low"], found["high"]) == pytest.approx((history.min(), history.max()))
    assert "What the table said" in page
    assert "grid-values" in page
    assert found["table"]


def test_the_table_shown_is_the_median_seeds(cliff):
    """By score, which is not the order of the seeds."""
    target, (_, folder) = load_target("q_learning_cliff"), cliff
    run = read_run(folder, "own", target)
    three = [
        replace(run, seed=seed, evaluation={"score": score}) for seed, score in ((1, 30), (2, 10), (3, 20))
    ]
    assert grid_values(target, three)["seed"] == 3


@pytest.mark.parametrize(
    "spoil", [{}, {"history": np.zeros((2, 3), np.float32)}, {"history": np.full((1, 2, 2), np.nan)}]
)
def test_a_file_without_a_history_is_named(spoil, tmp_path):
    save_file({"q": np.zeros(3, np.float32)} | spoil, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        read_history(tmp_path / "model.safetensors")


def test_no_grid_where_there_is_none():
    assert grid_values(load_target("dqn_cartpole"), []) is None


DOM = """
function node(name) {
  const it = { name, attributes: {}, children: [], listeners: {}, dataset: {}, textContent: "" };
  it.setAttribute = (k, v) => { it.attributes[k] = v; };
  it.append = (child) => { it.children.push(child); };
  it.replaceChildren = () => { it.children = []; };
  it.addEventListener = (kind, f) => { it.listeners[kind] = f; };
  return it;
}
const parts = Object.fromEntries(["svg", "output", "input"].map((n) => [n, node(n)]));
const box = node("div");
box.dataset.grid = "g";
box.querySelector = (n) => parts[n] ?? null;
globalThis.document = {
  createElementNS: (_, name) => node(name), querySelectorAll: () => [box],
  getElementById: () => ({ textContent: JSON.stringify(GRID) }),
};
"""
STEPS = """
const seen = () => [parts.output.textContent, parts.svg.children.filter((c) => ["arrow", "value"].includes(c.attributes.class))
  .map((c) => c.textContent || c.attributes.transform)];
const last = seen();
parts.input.listeners.input({ target: { value: "0" } });
console.log(JSON.stringify({ last, first: seen(), hidden: box.hidden }));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_draws_values_and_arrows():
    import base64

    levels = np.array([[[0, 0], [0, 0]], [[0, 65535], [32768, 0]]], "<u2")  # (pictures, states, actions)
    grid = {
        "rows": 1, "columns": 2, "cells": "S.", "actions": ["left", "right"], "views": [""], "cell_of": [0, 1], "view_of": [0, 0],
        "walls": [], "steps": [10, 20], "low": 0.0, "high": 2.0, "levels": base64.b64encode(levels.tobytes()).decode(),
    }  # fmt: skip
    text = (
        f"const GRID = {json.dumps(grid)};"
        + DOM
        + (HERE / "grids.js").read_text().replace('"use strict";', "")
    )
    found = json.loads(
        subprocess.run(["node", "-e", text + STEPS], capture_output=True, text=True, check=True).stdout
    )
    assert found["hidden"] is False
    assert found["last"][0] == "after 20 agent steps"
    assert found["last"][1] == [
        "translate(28 24) rotate(0)",
        "2.000",
        "translate(84 24) rotate(180)",
        "1.000",
    ]
    assert found["first"] == ["after 10 agent steps", []]
