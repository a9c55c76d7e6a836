"""Action values beside a video: the numbers that reach the page, what is said of them, and when there is nothing to show."""

import base64
import json

import numpy as np
import pytest

from common.errors import UserError
from reports.film_values import bar_rows, decimals, embedded, explored, size, summary_rows, trace
from tests.reports.pages import edit, film, page, write_run, write_values

ROWS = [[-0.5, 1.0], [0.25, 0.75], [1.5, 0.5], [1.0, 1.25]]
PLAYED = [1, 1, 1, 0]


def outlook(kind="values", values=ROWS, played=PLAYED) -> dict:
    return {"kind": kind, "fps": 15, "actions": ["NOOP", "UP"], "played": played, "values": values}


def decoded(data: dict) -> tuple[np.ndarray, list[int]]:
    """As the script does it."""
    levels = np.frombuffer(base64.b64decode(data["levels"]), "<u2").reshape(-1, len(data["actions"]))
    return data["low"] + levels / 65535 * (data["high"] - data["low"]), list(base64.b64decode(data["played"]))


def test_bars_table_and_line_by_hand():
    data = embedded(outlook())
    values, played = decoded(data)
    assert values == pytest.approx(np.array(ROWS), abs=2 / 65535)
    assert played == PLAYED
    assert (data["from"], data["to"], data["decimals"]) == (-0.5, 1.5, 2)
    noop, up = bar_rows(outlook())  # the axis goes from -0.5 to 1.5, so zero stands at a quarter
    assert (noop["left"], noop["width"], noop["value"], noop["played"], noop["best"]) == (
        0,
        25,
        "\u22120.50",
        False,
        False,
    )
    assert (up["left"], up["width"], up["value"], up["played"], up["best"]) == (25, 50, "1.00", True, True)
    assert summary_rows(outlook())[0] == ("NOOP", "25 %", "0.56", "\u22120.50", "1.50")
    assert "in 50 % of these pictures" in explored(outlook())  # the third and the fourth
    assert "between 0.75 and 1.50" in trace(outlook())


def test_probabilities_are_shares_of_one():
    said = outlook("probabilities", [[0.25, 0.75], [0.5, 0.5]], [0, 1])
    assert (embedded(said)["from"], embedded(said)["to"]) == (0, 1)
    assert [(b["left"], b["width"], b["value"]) for b in bar_rows(said)] == [(0, 25, "25 %"), (0, 75, "75 %")]
    assert trace(said) == ""
    assert "drawn with these probabilities" in explored(said)


@pytest.mark.parametrize(
    ("gap", "digits"), [(0.0, 2), (0.03, 3), (0.0004, 4), (0.7, 2), (3.0, 1), (250.0, 0)]
)
def test_values_have_the_digits_that_tell_actions_apart(gap, digits):
    assert decimals(outlook(values=[[10.0, 10.0 + gap]] * 4)) == digits
    assert json.dumps(embedded(outlook(values=[[2.0, 2.0]] * 4)), allow_nan=False)
    assert bar_rows(outlook(values=[[0.0, 0.0]] * 4))[0]["width"] == 0


def filmed(toy, **options):
    """A run with two films: 50 s and 2 s, of which the first 45 s have values."""
    folder = write_run(toy, video=film(15 * 50), **options)
    (folder / "best.mp4").write_bytes(film(30))
    episodes = [{"score": 16.5 + 3 * (i % 2), "length": {3: 750, 1: 30}.get(i, 99)} for i in range(30)]
    edit(folder / "evaluation.json", best_video={"episode": 1, "score": 19.5}, episodes=episodes)
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=(675, 2)), 4)
    films = {
        "median": (3, values.tolist(), values.argmax(axis=1).tolist()),
        "best": (1, values[:30].tolist(), [1] * 30),
    }
    write_values(folder, films)
    return folder, values


def test_values_of_the_excerpt_are_on_the_page(toy):
    folder, values = filmed(toy)
    p = page(toy)
    data = p.data["sections"][0]["films"]
    for name, count in (("median", 675), ("best", 30)):
        shown, played = decoded(data[name])
        assert shown == pytest.approx(values[:count], abs=(values.max() - values.min()) / 60_000)
        assert len(played) == count
    assert data["median"]["actions"] == ["NOOP", "UP"]
    assert [a["data-film"] for tag, a in p.tags if tag == "figure" and "data-film" in a] == ["median", "best"]
    bars = [t for t in p.tables if t["class"] == "bars"]
    assert "Action values Q(s, a) of the first picture" in p.words
    first = values[0].argmax()
    assert bars[0]["rows"][1 + first][0].startswith(["NOOP", "UP"][first] + ", played")
    assert "in 0 % of these pictures" in p.words
    # where only a shorter excerpt fits, the values end with it
    (folder / "episode.mp4").write_bytes(film(15 * 50, (80, 64), 256))
    edit(folder / "evaluation.json", best_video=None)
    shorter = page(toy)
    assert "its first 8 s" in shorter.words
    assert len(decoded(shorter.data["sections"][0]["films"]["median"])[1]) == 8 * 15


def test_values_of_another_evaluation_and_none_at_all_are_not_shown(toy):
    folder, _ = filmed(toy)
    before = (folder / "values.json").read_text()
    for change in ({"weights_sha256": "0" * 64}, {"films": {}}):
        (folder / "values.json").write_text(json.dumps(json.loads(before) | change))
        assert page(toy).data["sections"][0]["films"] == {}
    (folder / "values.json").write_text(before)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    edit(folder / "evaluation.json", video=evaluation["video"] | {"episode": 5})
    assert list(page(toy).data["sections"][0]["films"]) == ["best"]
    (folder / "values.json").write_text("")  # as where the network says nothing of single actions
    p = page(toy)
    assert p.data["sections"][0]["films"] == {}
    assert sum(tag == "video" for tag, _ in p.tags) == 2
    assert not [t for t in p.tables if t["class"] == "bars"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"films": {"median": {"episode": 3, "values": [[1, 2]], "played": [0, 1]}}},
            "1 rows of values, 2 actions",
        ),
        ({"films": {"median": {"episode": 3, "values": [[1]], "played": [0]}}}, "not 2 finite numbers"),
        (
            {"films": {"median": {"episode": 3, "values": [[1, 1e999]], "played": [0]}}},
            "not 2 finite numbers",
        ),
        (
            {"films": {"median": {"episode": 3, "values": [[1, 2]], "played": [2]}}},
            "2 is none of the 2 actions",
        ),
        ({"kind": "guesses"}, "at kind"),
        ({"actions": []}, "at actions"),
        ({"fps": 0}, "at fps"),
    ],
)
def test_damaged_values_are_named_with_their_fix(toy, change, message):
    folder, _ = filmed(toy, weights=True)
    path = folder / "values.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(
        UserError,
        match=rf"seed1/values\.json: .*{message}.*python -m common\.runs\.evaluate .*results/toy/pong",
    ):
        page(toy)


def test_what_values_take_on_the_page_is_known_before(toy):
    """Eighteen actions whose names are markup, both films of 45 s: the room that is kept for them is enough, and not wasted."""
    rng = np.random.default_rng(0)
    names = [f"<b>ACTION{i}" for i in range(18)]
    folder = write_run(toy, video=film(15 * 45))
    (folder / "best.mp4").write_bytes(film(15 * 45))
    edit(folder / "evaluation.json", best_video={"episode": 1, "score": 19.5})
    without = page(toy)
    values, played = rng.normal(size=(675, 18)), rng.integers(18, size=675)
    write_values(
        folder, {k: (e, values.tolist(), played.tolist()) for k, e in (("median", 3), ("best", 1))}, names
    )
    p = page(toy)
    assert list(p.data["sections"][0]["films"]) == ["median", "best"]
    taken = len(p.raw.encode()) - len(without.raw.encode())
    kept = 2 * size(outlook(values=values.tolist(), played=played.tolist()) | {"actions": names})
    assert 0.75 * kept < taken <= kept
    assert "<b>ACTION3" in p.words
    assert "<b>ACTION3" not in p.raw
