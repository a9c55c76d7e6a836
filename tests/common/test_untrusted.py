"""Every file that is read may have been written by anybody: a bad one is an error that names the file, at once.

One table for each kind of file: what is done to a good one. Each bad file has a second of processor time. At the end the page:
what a file says never becomes markup or a path.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import hashlib
import json
import shutil
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_tensors

from common import papers
from common.configuration import checked_config
from common.errors import UserError
from common.evaluation import protocol as evaluation
from common.runs.checkpoint import Checkpoints
from common.runs.finished import read_finished
from reports.render import build
from reports.runs import find_runs
from tests.reports import pages
from tests.training import ROOT, TINY, open_run

DEEP = b"[" * 100_000
ENORMOUS = b"9" * 10_000  # digits: Python refuses to turn so many into a number
SCRIPT = "<script>alert(1)</script>"


@contextlib.contextmanager
def a_second():
    """Fails what takes more than a second of this process's own time, however busy the machine is."""

    def late(*_):
        raise TimeoutError("more than a second of processor time")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def refused(read: Callable[[], object], name: str) -> str:
    """The message of the UserError, which is one line or little more and names the file."""
    with a_second(), pytest.raises(UserError) as error:
        read()
    text = str(error.value)
    assert name in text, text
    assert len(text) < 2000, f"{len(text)} characters: {text[:300]}"
    return text


# --- JSON ---

NOT_JSON = (
    b"",
    b"{",
    b"\xff\xfe\x00{",
    b"\x89PNG\r\n",
    DEEP,
    b"{" + b'"a":{' * 50_000,
    b'{"seed": ' + ENORMOUS + b"}",
    b"]",
)
NOT_AN_OBJECT = (b"null", b"[]", b"3", b'"text"', b"true", b"{}", b"[[{}]]", b"NaN")
NO_NAME = (
    "../../secret",
    "/etc/passwd",
    "Pong",
    "a-b",
    "",
    "pong\n",
    "a" * 300 + "/",
    SCRIPT,
    3,
    True,
    ["pong"],
    {},
    1.5,
)
NO_COUNT = (-1, 1.5, "7", [7], {}, float("nan"), float("inf"), 10**400, 1e300)
NO_NUMBER = ("7", [7], {}, float("nan"), float("inf"), -float("inf"), 10**400, None)
NO_OBJECT = (None, [], "text", 3, True)
GONE = object()

RUN = {
    "paper": NO_NAME, "task": NO_NAME, "variant": tuple(v for v in NO_NAME if v != ""), "seed": (GONE, None, *NO_COUNT),
    "settings": (GONE, *NO_OBJECT), "progress": (GONE, *NO_OBJECT), "provenance": (GONE, *NO_OBJECT), "cost": (GONE, *NO_OBJECT),
    "progress.agent_steps": (GONE, None, *NO_COUNT), "progress.frames": (GONE, None, *NO_COUNT),
    "provenance.versions": NO_OBJECT, "provenance.hardware": NO_OBJECT, "provenance.notes": (None, {}, "text", 3),
    "cost.seconds": (GONE, "7", [], {}, 10**400),
}  # fmt: skip
EVALUATION = {
    "score": (GONE, *NO_NUMBER), "episodes": (GONE, None, [], {}, "text", [3], [{}], [{"score": "7"}], [{"score": float("nan")}],
    [{"score": 10**400}], [{"score": 1e308}, {"score": 1e308}]), "protocol": (GONE, *NO_OBJECT),
}  # fmt: skip


def changed(good: dict, where: str, value: object) -> bytes:
    bad = copy.deepcopy(good)
    *path, last = where.split(".")
    inner = bad
    for part in path:
        inner = inner[part]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(bad).encode()


def bad_files(good: dict, table: dict[str, tuple]) -> list[bytes]:
    """Every bad version of a JSON file."""
    return [
        *NOT_JSON,
        *NOT_AN_OBJECT,
        *(changed(good, where, value) for where, values in table.items() for value in values),
    ]


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """A results folder and a paper, as the page's tests have them."""
    folder = tmp_path / "replications" / "toy"
    folder.mkdir(parents=True)
    texts = {"paper.yaml": pages.PAPER_YAML, "published.csv": pages.PUBLISHED_CSV, "train.py": pages.TRAIN_PY}
    for name, text in texts.items():
        (folder / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs_of_page(toy: Path) -> object:
    """What a page reads before it is made; the page itself is made where a file is accepted."""
    return find_runs(pages.target_of(toy), toy / "results")


def try_all(kind: str, path: Path, bad: list[bytes], read: Callable[[], object], named: str = "") -> None:
    """Reads the good file, then each bad one in its place; collects all that were not refused well. named: in the message."""
    good = path.read_bytes()
    read()
    wrong = []
    for content in bad:
        path.write_bytes(content)
        try:
            refused(read, named or path.name)
        except BaseException as problem:
            if isinstance(problem, KeyboardInterrupt):
                raise
            wrong.append(
                f"{content[:60]!r} ... ({len(content)} bytes): {type(problem).__name__}: {str(problem)[:200]}"
            )
    path.write_bytes(good)
    read()
    assert len(bad) >= 10, f"{kind}: {len(bad)} bad files are few"
    assert not wrong, f"{len(wrong)} of {len(bad)}:\n" + "\n".join(wrong)


def test_run_json_on_the_page(toy):
    folder = pages.write_run(toy)
    path = folder / "run.json"
    bad = bad_files(json.loads(path.read_text()), RUN)
    try_all("run.json, page", path, bad, lambda: runs_of_page(toy))


def test_evaluation_json_on_the_page(toy):
    path = pages.write_run(toy) / "evaluation.json"
    bad = bad_files(json.loads(path.read_text()), EVALUATION)
    try_all("evaluation.json, page", path, bad, lambda: runs_of_page(toy))


def test_status_json_on_the_page(toy):
    """It only informs: whatever stands there, the page is made."""
    pages.write_progress(toy)
    path = toy / "results/toy/pong/hour/seed1/checkpoint/status.json"
    good = json.loads(path.read_text())
    table = {
        "agent_steps": (None, *NO_COUNT), "training_steps": (None, 0, *NO_COUNT), "steps_per_second": (None, *NO_NUMBER, -1),
        "state": (None, 3, [], SCRIPT), "message": (None, 3, [], SCRIPT), "updated": (None, 3, [], SCRIPT),
    }  # fmt: skip
    bad, wrong, target = bad_files(good, table), [], pages.target_of(toy)
    for content in bad:
        path.write_bytes(content)
        try:
            with a_second():
                text, _ = build(target, "own", toy / "results")
            assert 'data-verdict="in_progress"' in text
            assert SCRIPT not in text
        except Exception as problem:
            wrong.append(f"{content[:200]!r}: {type(problem).__name__}: {str(problem)[:200]}")
    assert len(bad) >= 10
    assert not wrong, f"{len(wrong)} of {len(bad)}:\n" + "\n".join(wrong)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished tiny CartPole run with its evaluation."""
    from tests.training import train

    short = {"training_steps": 60, "replay_start": 20, "evaluation_period": 60, "evaluation_steps": 20}
    folder = train("dqn", "cartpole", tmp_path_factory.mktemp("finished"), short)
    evaluation.evaluate_run(folder, "cpu")
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "seed1", symlinks=True)


def test_run_json_when_evaluated_or_replayed(copied):
    path = copied / "run.json"
    table = {
        "paper": (GONE, None, *NO_NAME), "task": (GONE, None, *NO_NAME), "variant": (GONE, *NO_NAME[:6], *NO_NAME[7:]),
        "budget": (GONE, None, "../x", "frames-", "frames-x", "frames--1", 3, [], {}), "seed": (GONE, None, *NO_COUNT),
        "settings": (GONE, *NO_OBJECT, {"no_such": 1}), "result": (GONE, *NO_OBJECT, {}),
        "settings.stack": (None, "4", [], 0, -1, 10**400, 1.5), "settings.network": (None, 3, "evil", [], "nature"),
        "settings.frame_skip": ("4", None, 1.5), "settings.noop_max": ("30", None, []),
        "result.best_agent_step": (GONE, "7", [], -1),
    }  # fmt: skip
    bad = bad_files(json.loads(path.read_text()), table)
    try_all("run.json, evaluation", path, bad, lambda: evaluation.Agent(copied, "cpu"), named=str(copied))


def test_evaluation_json_when_replayed(copied):
    path = copied / "evaluation.json"
    table = {
        "episodes": (
            GONE,
            None,
            [],
            {},
            "text",
            [3],
            [{}],
            [{"score": 1}],
            [{"seed": "x", "score": 1, "length": 1}],
        ),
        "weights_sha256": (GONE, None, 3, "0" * 64),
    }
    bad = bad_files(json.loads(path.read_text()), table)
    try_all("evaluation.json, replay", path, bad, lambda: evaluation.replay_recorded(copied, 1, "cpu"))


def test_run_json_and_evaluation_json_when_recorded(copied):
    read = lambda: read_finished(copied)  # noqa: E731
    path = copied / "run.json"
    table = {
        "paper": (GONE, None, *NO_NAME), "task": (GONE, None, *NO_NAME), "variant": (GONE, *NO_NAME[:4], SCRIPT, 3, []),
        "budget": (GONE, None, "../x", "frames-../x", 3, []), "seed": (GONE, None, *NO_COUNT), "settings": (GONE, *NO_OBJECT),
        "provenance": (GONE, *NO_OBJECT), "progress": (GONE, *NO_OBJECT), "result": (GONE, *NO_OBJECT), "cost": (GONE, *NO_OBJECT),
    }  # fmt: skip
    try_all("run.json, record", path, bad_files(json.loads(path.read_text()), table), read)
    path = copied / "evaluation.json"
    table = {
        "score": (GONE, *NO_NUMBER[1:-2], 10**400, None),
        "episodes": EVALUATION["episodes"],
        "weights_sha256": ("0" * 64, 3),
    }
    try_all("evaluation.json, record", path, bad_files(json.loads(path.read_text()), table), read)


# --- CSV ---

NOT_CSV = (
    b"", b"\n", b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n" * 50, b"\0" * 1000, b"a,b\n1,2\n",
    b"agent_steps\n1\n", b"frames\n1\n", DEEP, b'"', b'agent_steps,frames\n"1,2\n',
)  # fmt: skip
BAD_ROWS = (
    "1,4,5",
    "1",
    "x,4",
    "1,x",
    "1,2,3,4,5,6,7,8,9,10,11,12",
    SCRIPT + ",4",
    '"1\n",4,5',
    "=1+1,2",
    "1;4",
    "0x10,4",
)


def test_curve_csv_on_the_page(toy):
    path = pages.write_run(toy) / "curve.csv"
    good = path.read_text()
    cells = good.splitlines()[1].split(",")
    rows = [",".join([*cells[:2], cell, *cells[3:]]) for cell in ("x", SCRIPT, "1e", "--1", "1 2", "\u0661x")]
    bad = [*NOT_CSV, *((good + row + "\n").encode() for row in (*BAD_ROWS, *rows))]
    try_all("curve.csv, page", path, bad, lambda: runs_of_page(toy))


def test_numbers_in_a_curve_that_no_page_can_draw(toy):
    """Not finite, or so large that differences overflow: gaps, or drawn; never an exception, never `nan` in the page."""
    path = pages.write_run(toy) / "curve.csv"
    good = path.read_text()
    cells = good.splitlines()[1].split(",")
    target = pages.target_of(toy)
    values = ("nan", "inf", "-inf", "1e308", "-1e308", "1e400", "1e-320", "9" * 400, "-0", "")
    for value in values:
        for place in (0, 1, 5, 8):
            row = [*cells[:place], value, *cells[place + 1 :]]
            path.write_text(good + ",".join(row) + "\n")
            with a_second():
                text, _ = build(target, "own", toy / "results")
            assert 'data-verdict="reached"' in text


@pytest.mark.parametrize("name", ["curve.csv", "episodes.csv", "timing.csv"])
def test_logs_when_recorded(copied, name):
    path = copied / name
    good = path.read_text()
    bad = [
        content
        for content in NOT_CSV
        if content not in (b"\n", b"a,b\n1,2\n", b"agent_steps\n1\n", b"frames\n1\n")
    ]
    right = good.count(",", 0, good.index("\n")) + 1  # a row of so many numbers is a good one
    bad += [(good + row + "\n").encode() for row in BAD_ROWS if not (right == 3 and row.endswith("4,5"))] + [
        good.rstrip("\n").encode() + b",",
        (good + "1,").encode(),
    ]
    try_all(f"{name}, record", path, bad, lambda: read_finished(copied))


def test_published_csv(toy):
    path = toy / "replications" / "toy" / "published.csv"
    good = path.read_text()
    head = good.splitlines()[0]
    rows = [
        "toy,pong,toy,x,1.3,p,T", "toy,pong,toy,,1.3,p,T", "toy,pong,toy,nan,1.3,p,T", "toy,pong,toy,inf,1.3,p,T",
        "toy,pong,toy,18.9,x,p,T", "toy,pong,toy,18.9,nan,p,T", "toy,pong,toy,18.9,1e400,p,T", "toy,pong,toy", "toy",
        "toy,pong,toy,18.9,1.3,p,T,more,cells", "toy,pong,toy,0x1,1,p,T", f"toy,pong,toy,{SCRIPT},1,p,T", 'toy,"pong',
        "toy,pong,toy,18.9,1.3,p,T", "toy,pong,toy,1 8,1.3,p,T", 'toy,"po"ng,toy,18.9,1.3,p,T',
    ]  # fmt: skip
    bad = [
        b"",
        b"\n",
        b"\xff\xfe\x00",
        b"\0" * 100,
        b"a,b\n1,2\n",
        head.encode(),
        head.replace("value", "v").encode(),
    ]
    bad += [head.replace(column, "x").encode() + b"\n" for column in ("game", "metric", "stdev", "protocol")]
    bad += [(good + row + "\n").encode() for row in rows]

    def read():
        papers.tables._table.cache_clear()
        return papers.load_paper("toy", root=toy / "replications")

    try_all("published.csv", path, bad, read)


# --- YAML ---


def bomb(levels: int = 9, width: int = 9) -> str:
    """A few hundred bytes that stand for a billion."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


BAD_YAML = (
    b"", b"\n", b"text", b"3", b"[]", b"null", b"{", b"a: [", b"a: b: c", b"\t- x", b"\xff\xfe\x00\x00", b"\0", b"@", b"%", DEEP,
    b"paper: toy\npaper: toy\n", b"? [a, b]\n: c\n", b"a: &a [*a]\n", b"&a {a: *a}\n", b"a: *nothing\n",
    b"!!python/object/apply:os.system ['true']\n", b"paper: !!python/name:os.system\n", b"!!python/object/new:os.system [x]\n",
    b"a: !!binary zzz\n", b"a: !<tag:evil> x\n", b"--- a\n--- b\n", b"paper: toy\n...\n---\npaper: b\n", b"a: 2001-13-45\n",
    b"<<: 3\n", bomb().encode(), bomb(30, 2).encode(), b"a: !!float x\n", b"a: !!int x\n", b"a: 0" + b"1" * 5000 + b"\n",
    b"a: " + ENORMOUS + b"\n", b"paper: !!set {a}\n",
)  # fmt: skip
YAML_CHANGES = [
    ("paper: toy", "paper: ../toy"), ("paper: toy", "paper: other"), ("paper: toy", "paper: 3"), ("paper: toy", "paper: [toy]"),
    ("names: [pong, montezuma]", "names: [../pong]"), ("names: [pong, montezuma]", "names: [po-ng]"),
    ("names: [pong, montezuma]", "names: []"), ("names: [pong, montezuma]", "names: pong"), ("names: [pong, montezuma]", "names: [1]"),
    ("file: published.csv, metric: toy", "file: ../../../etc/passwd, metric: toy"),
    ("file: published.csv, metric: toy", "file: /etc/passwd, metric: toy"),
    ("file: published.csv, metric: toy", "file: 3, metric: toy"), ("file: published.csv, metric: toy", "file: no.csv, metric: toy"),
    ("frames_per_agent_step: 4", "frames_per_agent_step: 0"), ("frames_per_agent_step: 4", "frames_per_agent_step: x"),
    ("frames_per_agent_step: 4", "frames_per_agent_step: .nan"), ("frames_per_agent_step: 4", "frames_per_agent_step: -4"),
    ("episodes: 30,", "episodes: -1,"), ("episodes: 30,", "episodes: 1.5,"), ("episodes: 30,", "episodes: many,"),
    ("epsilon: 0.05", "epsilon: 2"), ("epsilon: 0.05", "epsilon: -1"), ("epsilon: 0.05", "epsilon: x"),
    ("max_frames: 18000", "max_frames: -1"), ("max_frames: 18000", "max_frames: x"),
    ("variants:\n  slow:", "variants:\n  ../slow:"), ("variants:\n  slow:", "variants:\n  sl-ow:"),
    ("settings: {learning_rate: 0.0001}", "settings: {learning_rat: 0.0001}"),
    ("settings: {learning_rate: 0.0001}", "settings: {learning_rate: [1]}"),
    ("settings: {learning_rate: 0.0001}", "settings: {learning_rate: x}"),
    ("budgets:\n  smoke:", "budgets:\n  ../smoke:"), ("protocol: nature, paper_frames", "protocol: natur, paper_frames"),
    ("kind: atari", "kind: evil"), ("published: none", "published: nothing"), ("weights: best", "weights: ../best"),
]  # fmt: skip


def test_paper_yaml(toy):
    path = toy / "replications" / "toy" / "paper.yaml"
    good = path.read_text()
    assert all(old in good for old, _ in YAML_CHANGES)
    bad = [*BAD_YAML, (good + bomb()).encode(), (good + "more: 1\n").encode()]
    bad += [good.replace(old, new, 1).encode() for old, new in YAML_CHANGES]
    try_all("paper.yaml", path, bad, lambda: papers.load_paper("toy", root=toy / "replications"))


def test_config_yaml():
    bad = [
        {key: value}
        for key, values in {
            "budget": ("hours", 3, [], "../x", {}), "seeds": (0, -1, 1.5, "many", []), "frames": (0, -4, "x", 1.5, []),
            "device": ("gpu", 3, []), "targets": (3, [3], {}), "source": ("mine", 3), "results": ([], {}, True), "wandb": ("on", 3, []),
            "fresh": ("maybe", 3, []), "checkpoints": ([], {}, 3), "no_such_key": (1,), "__class__": (1,),
        }.items()
        for value in values
        if value is not None
    ]  # fmt: skip
    wrong = []
    for given in bad:
        try:
            refused(lambda given=given: checked_config(given), "config")
        except BaseException as problem:
            wrong.append(f"{given}: {type(problem).__name__}: {str(problem)[:200]}")
    assert len(bad) >= 10
    assert not wrong, "\n".join(wrong)


# --- weights and checkpoints ---


def header(content: dict | bytes, size: int | None = None, data: bytes = b"") -> bytes:
    """A safetensors file with that header, whose length it states as `size`."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def bad_tensors(good: bytes) -> list[bytes]:
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    bad = [
        b"", b"\0" * 8, b"\xff" * 100, DEEP, good[:4], good[:8], good[: len(good) // 2], good[:-1], good + b"\0",
        header({}, 2**63 - 1), header({}, 10**12), header({}, 100_000_001), header(b"{"), header(b"[]"), header(DEEP), header(b"\xff\xff"),
        header({"x": one}), header({"x": one}, data=b"\0" * 7), header({"x": one | {"shape": [-2]}}, data=b"\0" * 8),
        header({"x": one | {"shape": [2**62, 4]}}, data=b"\0" * 8), header({"x": one | {"shape": [3]}}, data=b"\0" * 8),
        header({"x": one | {"data_offsets": [8, 0]}}, data=b"\0" * 8), header({"x": one | {"data_offsets": [0, 2**60]}}, data=b"\0" * 8),
        header({"x": one | {"dtype": "PICKLE"}}, data=b"\0" * 8), header({"x": one | {"dtype": 3}}, data=b"\0" * 8),
        header({"x": one, "y": one}, data=b"\0" * 8), header({"x": {}}, data=b"\0" * 8), header({"x": None}), header({"x": 3}),
        b"PK\x03\x04" + b"\0" * 100, b"\x80\x04\x95" + b"\0" * 100,
    ]  # fmt: skip
    return bad


def test_weights(copied):
    path = copied / "model.safetensors"
    good = path.read_bytes()
    tensors = evaluation.load_tensors(good)
    name = next(iter(tensors))
    other = [
        {}, {"x": torch.zeros(2)}, tensors | {"x": torch.zeros(2)}, {k: v for k, v in tensors.items() if k != name},
        tensors | {name: torch.zeros(1)}, {k: v.T.contiguous() if v.ndim == 2 else v for k, v in tensors.items()}, tensors | {name: torch.zeros(0)},
        {f"../{k}": v for k, v in tensors.items()},
        tensors | {name: torch.full_like(tensors[name], float("nan"))}, tensors | {name: torch.full_like(tensors[name], float("inf"))},
    ]  # fmt: skip
    bad = bad_tensors(good) + [save_tensors(tensors) for tensors in other]
    try_all("model.safetensors, evaluation", path, bad, lambda: evaluation.Agent(copied, "cpu"))
    try_all("model.safetensors, record", path, bad_tensors(good), lambda: read_finished(copied))


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "checkpoint", "k")
    checkpoints.save(1, {"x": np.arange(3.0), "n": 1}, {"curve.csv": b"a\n1\n"})
    checkpoints.wait()
    return checkpoints


def sign(folder: Path) -> None:
    """Makes the manifest fit the files, as a forger would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = {
        n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in manifest["sha256"]
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_checkpoints(checkpoint):
    folder = checkpoint.all()[0]
    path = folder / "manifest.json"
    good = json.loads(path.read_text())
    sums = good["sha256"]
    table = {
        "key": (GONE, None, "other", 3, [], {}, "../k"),
        "sha256": (GONE, *NO_OBJECT, {}, {n: 3 for n in sums}, {n: "0" * 64 for n in sums},
                   *(sums | {bad: "0" * 64} for bad in ("../../secret", "/etc/passwd", "..", ".", "", "a/b", "no_such", "log-../x"))),
    }  # fmt: skip

    def read():
        assert checkpoint.load() is not None

    def refuse(content: bytes, path: Path, signed: bool) -> str | None:
        kept = {p: p.read_bytes() for p in folder.iterdir()}
        path.write_bytes(content)
        if signed:
            sign(folder)
        try:
            text = refused(read, str(checkpoint.folder))
            assert "--fresh" in text
            assert checkpoint.keys() <= {"k", "other", "3", "[]", "{}", "../k", "None"}
        except BaseException as problem:
            return f"{path.name} {content[:80]!r}: {type(problem).__name__}: {str(problem)[:200]}"
        finally:
            for p, old in kept.items():
                p.write_bytes(old)

    read()
    bad = bad_files(good, table)
    wrong = [refuse(content, path, False) for content in bad]
    trees = (
        b"",
        b"{",
        DEEP,
        b"\xff",
        b'{"__tensor__": "no such"}',
        b'{"x": {"__tensor__": 3}}',
        b'{"x": {"__tensor__": []}}',
        ENORMOUS,
    )
    wrong += [refuse(content, folder / "state.json", True) for content in trees]
    tensors = bad_tensors((folder / "state.safetensors").read_bytes())
    wrong += [refuse(content, folder / "state.safetensors", True) for content in tensors]
    read()
    assert len(wrong) >= 20  # tried
    wrong = [text for text in wrong if text]
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong)


def test_state_of_other_shapes_in_a_checkpoint(tmp_path):
    """Right checksums, right key, other content: one error, and what is there stays."""
    run, script, config, _ = open_run(
        "dqn", "cartpole", tmp_path, TINY | {"training_steps": 120, "replay_start": 50}
    )
    kinds = {"q": {}, "rng": {"bit_generator": "MT19937"}, "envs": {"episodes": [1], "actions": []}, "progress": {"agent_steps": "x"},
             "replay": {"actions": np.zeros(3)}, "held_out": np.zeros((1, 2)), "python": [3], "torch": np.zeros(3)}  # fmt: skip
    try:
        good = {}
        real = Checkpoints.save

        def keep(self, step, state, logs, flush=lambda: None):
            good.update(state=state, logs=logs)
            real(self, step, state, logs, flush)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoints, "save", keep)
            patch.setattr(type(run), "finish", lambda self, *_: self.save())
            script.train(config, run)
        run.checkpoints.wait()
    finally:
        run.close()
    for name, value in kinds.items():
        for folder in run.checkpoints.all():
            shutil.rmtree(folder)
        run.checkpoints.save(120, good["state"] | {name: value}, good["logs"])
        run.checkpoints.wait()
        again, script, config, _ = open_run(
            "dqn", "cartpole", tmp_path, TINY | {"training_steps": 120, "replay_start": 50}
        )
        try:
            text = refused(
                lambda script=script, config=config, again=again: script.train(config, again),
                str(run.folder.work),
            )
        finally:
            again.close()
        assert "--fresh" in text, name
        assert len(run.checkpoints.all()) == 1


# --- what a file says never becomes markup, a path or code ---


def strings(value: object, where: str = "") -> list[str]:
    if isinstance(value, dict):
        return [
            path
            for key, inner in value.items()
            for path in strings(inner, f"{where}.{key}" if where else key)
        ]
    return [where] if isinstance(value, str) else []


def test_no_string_of_a_file_becomes_markup(toy):
    """Each string of run.json and evaluation.json in turn is HTML; a page shows it as text, or refuses the file."""
    folder = pages.write_run(toy)
    target = pages.target_of(toy)
    evil = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>'
    tried = 0
    for name in ("run.json", "evaluation.json"):
        path = folder / name
        good = path.read_bytes()
        for where in strings(json.loads(good)):
            path.write_bytes(changed(json.loads(good), where, evil))
            tried += 1
            try:
                text, _ = build(target, "own", toy / "results")
            except UserError:
                continue
            assert "<img src=x" not in text, where
            assert "<script>alert" not in text, where
        path.write_bytes(good)
    assert tried >= 15


@pytest.mark.parametrize(
    "name", ["..", "seed1/../../..", "seed-1", "seed", "seed1.html", "Seed1", "seed\u0661", "seed1\n"]
)
def test_folders_of_odd_names_are_left_alone(toy, name):
    root = pages.write_run(toy).parent
    with contextlib.suppress(OSError):
        (root / name).mkdir()
    ((_, _, runs),), _ = find_runs(pages.target_of(toy), toy / "results")
    assert [run.seed for run in runs] == [1]


def own_python() -> list[Path]:
    folders = ("common", "reports", "replications", "benchmarks")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


UNSAFE = {
    "eval", "exec", "__import__", "pickle.load", "pickle.loads", "cPickle.loads", "dill.load", "dill.loads", "joblib.load", "torch.load",
    "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "marshal.loads", "shelve.open", "os.system", "os.popen", "pandas.read_pickle",
}  # fmt: skip


def unsafe(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            found += [
                name
                for name in modules
                if name.split(".")[0] in ("pickle", "cPickle", "dill", "joblib", "marshal", "shelve")
            ]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in UNSAFE or (
            name == "yaml.load" and "Safe" not in given.get("Loader", "") and given.get("Loader") != "_Loader"
        ):
            found.append(name)
        if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
            found.append(f"{name}({ast.unparse(node)[-60:]})")
    return found


def test_nothing_of_ours_runs_what_it_reads():
    files = own_python()
    assert len(files) > 30
    assert {
        str(path.relative_to(ROOT)): bad for path in files if (bad := unsafe(ast.parse(path.read_text())))
    } == {}
    import yaml

    from common.papers.validation import _Loader

    assert issubclass(_Loader, (yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


@pytest.mark.parametrize(
    "line",
    ["eval('1')", "import pickle", "torch.load('x')", "yaml.load(x)", "yaml.load(x, Loader=yaml.Loader)", "np.load(p, allow_pickle=True)",
     "subprocess.run('ls', shell=True)", "from pickle import loads", "yaml.unsafe_load(x)", "os.system('x')"],
)  # fmt: skip
def test_the_search_finds_it(line):
    assert unsafe(ast.parse(line))
