"""Games on a board: what a run left is checked before it is shown, and the page holds it all."""

import json
import re
import shutil
import subprocess

import pytest

from common import papers
from common.errors import UserError
from reports import boards, runs
from reports.render import HERE, render

NAME = "alphago_zero_tic_tac_toe"


def board(**changes):
    game = {
        "title": "a <game>", "actions": [4, 0], "names": ["b2", "a1"], "result": 0,
        "boards": [".........", "....X....", "O...X...."], "visits": [[1, 0, 0, 0, 2, 0, 0, 0, 1], None],
        "values": [0.25, None], "sgf": "(;GM[1])",
    }  # fmt: skip
    table = {"names": ["0 games", "last"], "points": [[0, 2.5], [7.5, 0]], "games": 10, "elo": [0, 190.8]}
    return {"game": "tic_tac_toe", "size": 3, "komi": 0.5, "tournament": table, "games": [game]} | changes


def write(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "board.json").write_text(json.dumps(content))
    return [folder]


def test_rows_and_outcomes(tmp_path):
    found = boards.read_boards(write(tmp_path / "a", board()))
    assert found["games"][0]["outcome"] == "draw"
    assert [(row["name"], row["elo"], row["points"]) for row in found["tournament"]["rows"]] == [
        ("0 games", "0", ["", "25"]), ("last", "191", ["75", ""]),
    ]  # fmt: skip
    assert boards.read_boards([tmp_path / "none"]) is None


def test_a_game_that_shows_a_search_comes_first(tmp_path):
    shown = board()["games"][0]
    bare = shown | {"title": "bare", "visits": [None, None]}
    found = boards.read_boards(write(tmp_path / "a", board(games=[bare, shown, bare | {"title": "last"}])))
    assert [game["title"] for game in found["games"]] == ["a <game>", "bare", "last"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 4}, "one board, name, value for each move"),
        ({"games": [board()["games"][0] | {"values": [0.1]}]}, "one board, name, value for each move"),
        ({"games": [board()["games"][0] | {"boards": ["x"] * 3}]}, "board.json"),
        ({"tournament": board()["tournament"] | {"elo": [1]}}, "not a table"),
        ({"game": "chess"}, "board.json"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        boards.read_boards(write(tmp_path / "a", board(**change)))


@pytest.fixture
def page(tmp_path, monkeypatch):
    place = tmp_path / "alphago_zero" / "tic_tac_toe"
    monkeypatch.setattr(runs, "roots", lambda target, results: {"own": place})
    (folder,) = write(place / "smoke" / "seed1", board())
    (folder / "run.json").write_text(
        json.dumps(
            {
                "paper": "alphago_zero",
                "variant": None,
                "task": "tic_tac_toe",
                "budget": "smoke",
                "seed": 1,
                "settings": papers.resolve("alphago_zero", None, "tic_tac_toe", "smoke").settings,
                "settings_key": "0" * 12,
                "cost": {"seconds": 1.5},
                "provenance": {"code_sha256": "c", "lock_sha256": "l"},
            }
        )
    )
    claims = papers.load_paper("alphago_zero").tasks["tic_tac_toe"].claims
    (folder / "measures.json").write_text(json.dumps({claim.measure: 0.0 for claim in claims}))
    (folder / "points.csv").write_text("figure,series,x,y\nloss,loss,100,2\nloss,loss,200,1\n")
    return render(NAME, out=tmp_path / "page.html", results=tmp_path, source="own").read_text()


def test_the_page_holds_games_tournament_and_moves_in_words(page):
    data = json.loads(
        re.search(r'<script type="application/json" id="games-own-smoke">(.*?)</script>', page)[1]
    )
    assert data["games"][0]["visits"][0] == board()["games"][0]["visits"][0]
    assert "<h2>The tournament</h2>" in page
    assert '<td class="n">191</td>' in page
    assert "a &lt;game&gt;: draw" in page
    assert "b2 a1" in page
    assert "application/x-go-sgf" in page


DOM = """
const made = [];
function node(name) {
  const it = { name, attributes: {}, children: [], listeners: {}, dataset: {}, textContent: "" };
  it.setAttribute = (k, v) => { it.attributes[k] = v; };
  it.append = (child) => { it.children.push(child); };
  it.replaceChildren = () => { it.children = []; };
  it.addEventListener = (kind, f) => { it.listeners[kind] = f; };
  return it;
}
const parts = Object.fromEntries(["svg", "output", "input", "a", "select"].map((n) => [n, node(n)]));
const buttons = ["-1", "1"].map((step) => Object.assign(node("button"), { dataset: { step } }));
const box = node("div");
box.dataset.games = "g";
box.querySelector = (n) => parts[n];
box.querySelectorAll = () => buttons;
globalThis.document = {
  createElementNS: (_, name) => node(name), querySelectorAll: () => [box],
  getElementById: () => ({ textContent: JSON.stringify(GAMES) }),
};
"""
STEPS = """
const seen = [];
const note = () => seen.push([parts.output.textContent, parts.svg.children.map((c) => c.attributes.class ?? c.textContent)]);
note(); buttons[1].listeners.click(); note(); buttons[1].listeners.click(); buttons[1].listeners.click(); note();
buttons[0].listeners.click(); note();
console.log(JSON.stringify({ seen, href: parts.a.href, hidden: box.hidden }));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_steps_through_a_game():
    games = board()
    games["games"][0]["outcome"] = "draw"
    script = (
        f"const GAMES = {json.dumps(games)};"
        + DOM
        + (HERE / "boards.js").read_text().replace('"use strict";', "")
    )
    found = subprocess.run(["node", "-e", script + STEPS], capture_output=True, text=True, check=True).stdout
    found = json.loads(found)
    texts = [text for text, _ in found["seen"]]
    assert texts[0] == "the empty board; X to move, its value 0.25; 4 visits, their shares in %"
    assert texts[1] == "after 1. b2; O to move"
    assert texts[2] == "after 2. a1: draw"
    assert texts[3] == texts[1]
    first = [drawn for drawn in found["seen"][0][1] if drawn != "line"]
    assert sorted(map(str, first)) == ["25", "25", "50", "share", "share", "share"]
    assert [drawn for drawn in found["seen"][2][1] if drawn != "line"] == ["white", "last", "black"]
    assert found["href"].startswith("data:application/x-go-sgf")
    assert found["hidden"] is False
