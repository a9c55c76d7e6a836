import json
import shutil
from pathlib import Path

import pytest

from common import papers
from common.errors import UserError, run_main
from common.papers import (
    check_defaults,
    load_paper,
    parse_target,
    resolve,
    run_dir,
    settings_json,
    settings_key,
    targets,
)
from common.papers.config_fields import config_fields
from tests.toy import write_toy


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy(tmp_path)


def edit(root: Path, old: str, new: str, file: str = "paper.yaml") -> None:
    path = root / "toy" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# --- the papers that are here ---


@pytest.mark.parametrize("name", papers.discover())
def test_every_config_default_is_the_papers_value_or_a_listed_deviation(name):
    assert check_defaults(load_paper(name)) == []


@pytest.mark.parametrize("name", papers.discover())
def test_config_read_from_source_is_config_imported(name):
    from dataclasses import asdict
    from importlib import import_module

    paper = load_paper(name)
    for script in {task.script for variant in paper.variants.values() for task in variant.tasks.values()}:
        config = import_module(f"replications.{name}.{script}").Config()
        assert {key: field.default for key, field in paper.fields(script).items()} == asdict(config)


def test_every_task_resolves_at_every_budget_and_every_difference_has_a_reason():
    assert len(papers.discover()) >= 10
    for name in papers.discover():
        paper = load_paper(name)
        for variant in paper.variants.values():
            for task in variant.tasks:
                full = resolve(paper, variant.name or None, task, "paper").settings
                for budget in papers.BUDGETS:
                    resolved = resolve(paper, variant.name or None, task, budget)
                    assert [d for d in resolved.deviations if not d.reason] == []
                    # runs of the paper's length are judged as the paper's: so they have its settings
                    assert (resolved.paper_fraction or 0) < 1 or resolved.settings == full


def test_a_dry_look_at_the_papers_imports_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; from common.papers import targets; assert targets(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=papers.REPLICATIONS.parent)


# --- loading ---


def test_what_is_loaded(toy):
    paper = load_paper("toy", toy)
    constants = {c.name: c for c in paper.constants}
    assert (constants["target period"].expected, constants["target period"].ours) == (160, 160)  # 40 updates
    assert constants["training length"].expected == 50_000  # 200,000 frames
    pong = paper.tasks["pong"]
    assert (pong.published.value, pong.published.stdev, pong.published.protocol) == (18.9, 1.3, "noop30")
    assert (pong.random.value, pong.random.stdev) == (-20.7, None)
    assert (pong.game, pong.title, paper.tasks["ms_pacman"].title) == ("pong", "Pong", "Ms Pacman")
    assert (pong.default_seeds, paper.tasks["cartpole"].default_seeds, paper.tasks["ring"].default_seeds) == (
        1,
        5,
        10,
    )
    assert paper.tasks["cartpole"].published is None
    assert list(paper.variants) == ["", "no_replay"]
    assert check_defaults(paper) == []


def test_check_defaults_sees_a_changed_default_and_a_field_that_no_constant_names(toy):
    edit(toy, "frame_skip: int = 4", "frame_skip: int = 3\n    extra: int = 1", "train.py")
    first, second = check_defaults(load_paper("toy", toy))
    assert "frame_skip is 3, paper.yaml says 4 frames" in first
    assert "extra" in second
    assert "engineering" in second


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("short: Toy (2020)", "shrot: Toy", "unknown key 'shrot' .did you mean 'short'"),
        ("unit: transitions, ", "", "constants.3.: key 'unit' is missing .*updates"),
        ("paper: toy\n", "paper: other\n", "'other' is not the folder's name; write 'toy'"),
        ("title: A toy\n", "title: A toy\ntitle: B\n", "line 5: not valid YAML: key 'title' is given twice"),
        ("summary: It", "summary: [It", "not valid YAML"),
        ("kinds: [atari]}", "kinds: [atari], tasks: [pnog]}", "unknown task 'pnog' .did you mean 'pong'"),
        ("field: capacity", "field: capacty", "'capacty' is not in Config of .*did you mean 'capacity'"),
        (
            "ours: 1000, reason: memory",
            "ours: 1000",
            "constant 'capacity': ours 1000 is not the paper's 2000 transitions",
        ),
        ("paper: 40, unit: updates", "paper: 40, unit: games", "'games' is not a unit of time"),
        (
            "protocol: full",
            "protocol: fll",
            r"tasks\[0\] \(pong\): protocol: unknown 'fll' .did you mean 'full'",
        ),
        (
            "    published_reason: not in the paper\n",
            "",
            "cartpole.: published: none needs a published_reason",
        ),
        ("published: {file: published.csv, metric: dqn}", "bar: 1", "key 'published' is missing"),
        (
            "published: {file: published.csv, metric: dqn}",
            "published: maybe",
            "'maybe' is not allowed; 'none', or a mapping",
        ),
        (
            "published.csv, metric: dqn",
            "published.csv, metrc: dqn",
            "unknown key 'metrc' .did you mean 'metric'",
        ),
        (
            "published.csv, metric: dqn",
            "published.csv, metric: dqm",
            "unknown metric 'dqm' .did you mean 'dqn'",
        ),
        ("published.csv, metric: dqn", "none.csv, metric: dqn", "none.csv: the file is missing"),
        ("published.csv, metric: dqn", "../../x.csv, metric: dqn", "lies outside the replications"),
        ("names: [pong, ms_pacman]", "names: [pong, ms-pacman]", "'ms-pacman' does not match .*lower-case"),
        ("names: [pong, ms_pacman]", "names: [pong, pong]", "task 'pong' is given twice"),
        ("names: [pong, ms_pacman]", "names: [pong, zaxxon]", "zaxxon.*: published: .*unknown game 'zaxxon'"),
        (
            "settings: {training_steps: 100,",
            "settings: {trainig_steps: 100,",
            "budgets.smoke.*unknown setting 'trainig_steps'",
        ),
        ("{training_steps: 100,", "{training_steps: 1.5,", "1.5 is of type float, not int"),
        ("{training_steps: 100,", "{training_steps: true,", "True is of type bool, not int"),
        ("network: mlp, capacity", "network: lstm, capacity", "'lstm' is not allowed; there are: conv, mlp"),
        (
            'reasons: {"*": smoke size}',
            "reasons: {}",
            "budgets.smoke.settings.training_steps differs from the paper; say why",
        ),
        (
            "reasons: {training_steps: a fifth}",
            "reasons: {training_steps: a, x: b}",
            "reasons.x explains no setting",
        ),
        ("    script: ring\n", "", "kind claims needs the key 'script'"),
        ("    env_id: CartPole-v1\n", "", "kind gym needs the key 'env_id'"),
        (
            "    tasks:\n      - names: [pong]",
            "    tasks:\n      - cartpol\n      - names: [pong]",
            r"variants.no_replay.tasks\[0\]: no task and no group of the paper is called 'cartpol' .did you mean 'cartpole'",
        ),
        (
            "names: [cartpole]",
            "like: ring",
            r"tasks\[1\]: no task and no group of the paper is called 'ring'",
        ),
        ("    title: CartPole\n", "", r"tasks\[1\] .cartpole.: key 'title' is missing"),
        (
            "  - names: [cartpole]\n",
            "  - seeds: 5\n",
            r"tasks\[1\]: key 'names' is missing",
        ),
        (
            "paper: 0.0025, unit",
            "paper: {atari: 0.0025}, unit",
            "constant 'learning rate': paper says nothing for tasks of kind gym.*kinds: .atari.",
        ),
        ("paper: 0.0025, unit", "paper: {atari: 0.0025, gin: 1}, unit", "constants.2..*'gin'.*atari, gym"),
        ("script: ring", "script: rings", "rings.py: the file is missing"),
        ("kind: gym", "kind: gin", "'gin' is not allowed; there are: atari, gym, claims"),
        ("episodes: 30", "episodes: 0", "protocols.full.episodes: 0 is too small; at least 1"),
        ("expect: days", "expects: days", "unknown key 'expects' .did you mean 'expect'"),
        ("  paper: {settings: {}, expect: days}", "", "budgets: key 'paper' is missing"),
        ("field: clip, paper: null, ours: null", "field: clip, paper: null", "the paper does not say .*ours"),
    ],
)
def test_each_mistake_is_one_message_with_file_key_and_fix(toy, old, new, message):
    edit(toy, old, new)
    with pytest.raises(UserError, match=message) as caught:
        load_paper("toy", toy)
    assert str(toy / "toy") in str(caught.value)


def test_numbers_in_exponent_form_are_numbers(toy):
    edit(toy, "paper: 0.0025", "paper: 25e-4")  # YAML 1.1 would make it text
    assert check_defaults(load_paper("toy", toy)) == []


def test_unknown_paper_and_no_way_out_of_the_folder(toy):
    with pytest.raises(UserError, match=r"unknown paper 'tyo' .did you mean 'toy'"):
        load_paper("tyo", toy)
    for name in ("../replications/toy", "", "toy/", "."):
        with pytest.raises(UserError, match="unknown paper"):
            load_paper(name, toy)


# --- published tables ---


def test_find_row(toy):
    table = toy / "toy" / "published.csv"
    assert papers.find_row(table, "pong", "human", "b").value == 14.6
    assert papers.find_row(table, "pong", "human", "b").line == 7
    with pytest.raises(UserError, match=r"several rows .* .lines 6, 7.; name one protocol of a, b"):
        papers.find_row(table, "pong", "human")
    with pytest.raises(UserError, match="no row has game 'ms_pacman', metric 'human'; add it"):
        papers.find_row(table, "ms_pacman", "human")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("toy2020,pong,x,abc,,p,s", "line 8: value 'abc' is not a number"),
        ("toy2020,pong,x,,,p,s", "line 8: value '' is not a number"),
        ("toy2020,pong,x,nan,,p,s", "line 8: value 'nan' is not a finite number"),
        ("toy2020,pong,x,1,a,p,s", "line 8: stdev 'a' is not a number"),
        ("toy2020,pong,x,1,2", "line 8: 7 cells are needed"),
        ("toy2020,pong,x,1,2,p,s,t", "line 8: 7 cells are needed"),
        ('toy2020,pong,x,1,2,p,"s', "cannot be read as CSV"),
    ],
)
def test_malformed_tables_name_the_line(toy, line, message):
    table = toy / "toy" / "published.csv"
    table.write_text(table.read_text() + line + "\n")
    with pytest.raises(UserError, match=message):
        papers.find_row(table, "pong", "dqn")


def test_a_table_without_a_column(toy):
    edit(toy, "metric,value", "metric,score", "published.csv")
    with pytest.raises(UserError, match="line 1: column 'value' is missing"):
        load_paper("toy", toy)


# --- Config, read from source ---


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x: int", "Config.x: no default"),
        ("x: list = 3", "type 'list' is not supported"),
        ("x: int = foo()", "is not a constant"),
        ("x: int = 'a'", "'a' is of type str, not int"),
        ("x: int = 9 ** 9 ** 9", "exponent above 64"),
        ("x: int = (", "not valid Python"),
    ],
)
def test_config_fields_that_cannot_be_read(toy, line, message):
    edit(toy, "log_every: int = 10", line, "train.py")
    with pytest.raises(UserError, match=message):
        config_fields(toy / "toy" / "train.py")


def test_config_fields(toy):
    fields = config_fields(toy / "toy" / "train.py")
    assert fields["training_steps"] == ("int", 50_000)
    assert fields["learning_rate"] == ("float", 0.0025)
    assert fields["capacity"].default == 1000  # by a name
    assert fields["clip"] == ("float | None", None)
    (toy / "toy" / "train.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="no `class Config`"):
        config_fields(toy / "toy" / "train.py")


# --- targets ---


def test_targets_and_close_matches(toy):
    assert list(targets(toy)) == [
        "toy_pong",
        "toy_ms_pacman",
        "toy_cartpole",
        "toy_ring",
        "toy-no_replay_pong",
    ]
    found = parse_target("reports/toy-no_replay_pong.html", toy)
    assert (found.paper, found.variant, found.task, found.agent) == (
        "toy",
        "no_replay",
        "pong",
        "toy-no_replay",
    )
    with pytest.raises(UserError, match=r"unknown target 'toy_pnog' .did you mean 'toy_pong'"):
        parse_target("toy_pnog", toy)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("summary: It", "summary: [It", "not valid YAML"),
        ("short: Toy (2020)", "shrot: Toy", "unknown key 'shrot'"),
        ("unit: transitions, ", "", "key 'unit' is missing"),
        ("metric: dqn}", "metric: dqm}", "unknown metric 'dqm'"),
    ],
)
def test_a_broken_paper_keeps_its_own_targets_only(toy, capsys, old, new, said):
    other = toy / "toy_two"
    shutil.copytree(toy / "toy", other)
    (other / "paper.yaml").write_text(
        (other / "paper.yaml").read_text().replace("paper: toy\n", "paper: toy_two\n", 1)
    )
    edit(toy, old, new)
    assert parse_target("toy_two_pong", toy).paper == "toy_two"
    for name in ("toy_pong", "reports/toy-no_replay_pong.html", "toy"):
        with pytest.raises(UserError, match=said) as caught:
            parse_target(name, toy)
        assert str(toy / "toy" / "paper.yaml") in str(caught.value)
    with pytest.raises(UserError, match=r"unknown target 'toy_two_pnog' .did you mean 'toy_two_pong'"):
        parse_target("toy_two_pnog", toy)
    assert list(papers.load_papers(toy)) == ["toy_two"]
    printed = capsys.readouterr().err
    assert said in printed
    assert "there are no pages of toy\n" in printed


def test_a_folder_that_no_target_can_be_named_after_is_no_ones_trouble_but_its_own(toy):
    shutil.copytree(toy / "toy", toy / "toy-2")
    broken = {}
    assert list(papers.load_papers(toy, broken)) == ["toy"]
    assert "lower-case letters, digits and underscores only" in str(broken["toy-2"])


def test_two_pages_of_one_name_are_an_error(toy):
    shutil.copytree(toy / "toy", toy / "toy_ms")
    text = (toy / "toy" / "paper.yaml").read_text().replace("paper: toy\n", "paper: toy_ms\n", 1)
    (toy / "toy_ms" / "paper.yaml").write_text(
        text.replace("names: [pong, ms_pacman]", "names: [pacman]\n    game: pong", 1)
    )
    with pytest.raises(UserError, match="the target 'toy_ms_pacman' stands for"):
        targets(toy)


# --- resolving ---


def test_order_of_settings(toy):
    def get(task, budget, variant=None, **overrides):
        return resolve("toy", variant, task, budget, overrides, root=toy)

    pong = get("pong", "paper")
    assert (pong.settings["training_steps"], pong.sources["training_steps"]) == (50_000, "paper")
    assert (pong.frames, pong.paper_fraction) == (200_000, 1.0)
    ablation = get("pong", "paper", "no_replay")
    assert (ablation.settings["learning_rate"], ablation.sources["learning_rate"]) == (0.001, "variant")
    smoke = get("pong", "smoke", "no_replay")  # the budget wins over the variant
    assert (smoke.settings["learning_rate"], smoke.sources["learning_rate"]) == (0.1, "budget")
    assert smoke.settings["replay"] is False
    given = get("pong", "smoke", "no_replay", learning_rate=3)
    assert (given.settings["learning_rate"], given.sources["learning_rate"]) == (3.0, "command line")
    assert isinstance(given.settings["learning_rate"], float)
    cartpole = get("cartpole", "smoke")  # the task's budget wins over the paper's
    assert (cartpole.settings["training_steps"], cartpole.settings["learning_rate"]) == (20, 0.1)
    assert (cartpole.settings["network"], cartpole.sources["network"]) == ("mlp", "task")
    assert (cartpole.frames, cartpole.expect) == (
        20,
        "a blink",
    )  # one frame an agent step outside the emulator
    ring = get("ring", "smoke")  # a script of its own: paper-wide budgets do not reach it
    assert ring.settings == {"states": 4}
    assert get("ring", "hour").settings == {"states": 16}


def test_a_variant_wins_over_its_task(toy):
    edit(
        toy,
        "        published_reason: not printed\n",
        "        published_reason: not printed\n        settings: {learning_rate: 0.002}\n        reasons: {'*': Table 3}\n",
    )
    found = resolve("toy", "no_replay", "pong", "paper", root=toy)
    assert (found.settings["learning_rate"], found.sources["learning_rate"]) == (0.001, "variant")
    base = resolve("toy", None, "pong", "paper", root=toy)
    assert base.sources["learning_rate"] == "paper"


def test_a_constant_has_a_value_for_each_kind_of_task(toy):
    edit(
        toy,
        "{name: learning rate, field: learning_rate, paper: 0.0025, unit: none, source: T1}",
        "{name: learning rate, field: learning_rate, paper: {atari: 0.0025, gym: 0.5}, unit: none, "
        "source: {atari: T1, gym: T2}}",
    )
    edit(
        toy,
        "unit: frames, field_unit: agent steps, source: T1",
        "unit: frames, field_unit: agent steps, source: {atari: T1, gym: T2}",
    )
    edit(toy, "paper: 200000, unit", "paper: {atari: 200000, gym: 700}, unit")
    edit(toy, "name: replay, field", "name: replay, kinds: [atari], field")
    paper = load_paper("toy", toy)
    assert check_defaults(paper) == []  # Config holds the value of the first task's kind
    pong, cartpole = (resolve(paper, None, task, "paper") for task in ("pong", "cartpole"))
    assert (pong.settings["learning_rate"], pong.settings["training_steps"]) == (0.0025, 50_000)
    assert (cartpole.settings["learning_rate"], cartpole.sources["learning_rate"]) == (0.5, "paper")
    assert cartpole.settings["training_steps"] == 700  # a frame is an agent step outside of the emulator
    assert {d.field for d in cartpole.deviations} == {"network", "capacity"}
    said = {
        kind: {c.name: c.source for c in constants} for kind, constants in paper.constants_by_kind.items()
    }
    assert (said["atari"]["learning rate"], said["gym"]["learning rate"]) == ("T1", "T2")
    assert "replay" in said["atari"]
    assert "replay" not in said["gym"]
    assert {d.field: d.paper for d in resolve(paper, None, "cartpole", "hour").deviations}[
        "training_steps"
    ] == 700
    shorter = resolve(paper, "no_replay", "pong", "paper", {"learning_rate": 0.5})
    assert {d.field: (d.paper, d.source) for d in shorter.deviations}["learning_rate"] == (0.0025, "T1")


def test_a_reason_is_needed_where_a_setting_differs_for_one_kind_only(toy):
    edit(
        toy,
        "field: clip, paper: null, ours: null",
        "field: clip, paper: {atari: null, gym: 0.5}, ours: {atari: null, gym: 0.5}",
    )
    edit(toy, "{training_steps: 10000, log_every: 5}", "{training_steps: 10000, clip: null}")
    with pytest.raises(UserError, match=r"budgets.hour.settings.clip differs from the paper; say why"):
        load_paper("toy", toy)
    edit(toy, "  hour:\n", "  hour:\n    kinds: [atari]\n")
    with pytest.raises(
        UserError, match=r"tasks.cartpole.: budgets.hour of the paper does not concern kind gym; add"
    ):
        load_paper("toy", toy)


def test_what_a_variant_changes_for_one_kind_of_task_lies_above_what_it_changes_for_all(toy):
    edit(
        toy,
        "    reasons: {replay: the ablation itself, learning_rate: Table 2}\n",
        "    reasons: {replay: the ablation itself, learning_rate: Table 2}\n"
        "    kinds: {atari: {settings: {learning_rate: 0.003}, reasons: {'*': Table 9}}}\n",
    )
    assert resolve("toy", "no_replay", "pong", "paper", root=toy).settings["learning_rate"] == 0.003
    assert resolve("toy", None, "pong", "paper", root=toy).settings["learning_rate"] == 0.0025
    edit(toy, "learning_rate: 0.003", "lerning_rate: 0.003")
    with pytest.raises(UserError, match=r"no_replay.kinds.atari.*lerning_rate.*learning_rate"):
        resolve("toy", None, "pong", "paper", root=toy)
    edit(
        toy,
        "kinds: {atari: {settings: {lerning_rate: 0.003}",
        "kinds: {gym: {settings: {learning_rate: 0.003}",
    )
    with pytest.raises(
        UserError, match=r"no_replay.kinds.gym: the variant has no task of this kind; remove it"
    ):
        load_paper("toy", toy)


def test_a_budget_concerns_the_kinds_of_task_that_it_names(toy):
    edit(
        toy,
        "  smoke:\n    settings: {training_steps: 100",
        "  smoke:\n    kinds: [atari]\n    settings: {training_steps: 100",
    )
    cartpole = resolve("toy", None, "cartpole", "smoke", root=toy)
    assert (cartpole.settings["training_steps"], cartpole.settings["learning_rate"]) == (20, 0.0025)
    assert cartpole.protocol.extra_episodes == 100
    assert resolve("toy", None, "pong", "smoke", root=toy).settings["learning_rate"] == 0.1


# --- short forms ---


def with_tasks(root: Path, tasks: str) -> dict[str, papers.Task]:
    """The tasks of the toy's variant, whose list reads `tasks`."""
    path = root / "toy" / "paper.yaml"
    text = path.read_text()
    start, end = (
        text.index("    tasks:\n      - names: [pong]"),
        text.index("\nbudgets:\n  smoke:\n    settings: {training_steps: 100"),
    )
    path.write_text(text[:start] + f"    tasks: {tasks}" + text[end:])
    return load_paper("toy", root).variants["no_replay"].tasks


def test_a_variant_names_a_group_or_a_task_of_the_paper(toy):
    edit(toy, "  - names: [pong, ms_pacman]", "  - group: games\n    names: [pong, ms_pacman]")
    base = load_paper("toy", toy).tasks
    tasks = with_tasks(toy, "[games, cartpole]")
    assert tasks == {name: base[name] for name in ("pong", "ms_pacman", "cartpole")}


def test_like_repeats_a_task_but_for_what_is_said_anew(toy):
    edit(toy, "  - names: [pong, ms_pacman]", "  - group: games\n    names: [pong, ms_pacman]")
    edit(
        toy,
        "    published: {file: published.csv, metric: dqn}",
        "    published: none\n    published_reason: lost",
    )
    base = load_paper("toy", toy).tasks
    tasks = with_tasks(
        toy,
        "[{like: games, published: {file: published.csv, metric: dqn}}, {like: cartpole, names: [pole], seeds: 2, title: '{Name}: {name}'}]",
    )
    assert list(tasks) == ["pong", "ms_pacman", "pole"]
    assert (tasks["pong"].published.value, tasks["pong"].published_reason) == (18.9, None)
    assert tasks["ms_pacman"].random == base["ms_pacman"].random
    assert (tasks["pole"].env_id, tasks["pole"].default_seeds, tasks["pole"].title) == (
        "CartPole-v1",
        2,
        "Pole: Pole",
    )
    assert tasks["pole"].budgets == base["cartpole"].budgets


def test_tasks_of_the_paper_can_be_like_those_above_them(toy):
    edit(
        toy,
        "\nvariants:\n",
        "\n  - {like: pong, names: [beam_rider], game: pong, title: '{Name}', frames_per_agent_step: 3}\nvariants:\n",
    )
    task = load_paper("toy", toy).tasks["beam_rider"]
    assert (task.game, task.title, task.frames_per_agent_step) == ("pong", "BeamRider", 3)


def test_evaluation_is_shortened_by_the_budget_and_never_lengthened(toy):
    smoke = resolve("toy", None, "pong", "smoke", root=toy)
    assert (smoke.protocol.episodes, smoke.protocol.extra_episodes, smoke.protocol.max_frames) == (
        2,
        0,
        18000,
    )
    assert resolve("toy", None, "cartpole", "smoke", root=toy).protocol.episodes == 3
    assert resolve("toy", None, "pong", "hour", root=toy).protocol.episodes == 30


def test_a_deviation_of_one_task_is_told_of_that_task_alone(toy):
    edit(toy, "theirs is lost, kinds: [atari]}", "theirs is lost, kinds: [atari], tasks: [pong]}")
    for task, told in (("pong", True), ("ms_pacman", False)):
        found = {d.what for d in resolve("toy", None, task, "paper", root=toy).deviations}
        assert ("another emulator" in found) is told


def test_every_difference_is_a_deviation_with_its_reason(toy):
    found = {d.what: d for d in resolve("toy", None, "pong", "paper", root=toy).deviations}
    assert set(found) == {"another emulator", "capacity"}
    capacity = found["capacity"]
    assert (capacity.paper, capacity.ours, capacity.unit) == (2000, 1000, "transitions")
    assert (capacity.reason, capacity.origin) == ("memory", "paper")

    smoke = {
        d.what: d for d in resolve("toy", "no_replay", "pong", "smoke", {"clip": 1.0}, root=toy).deviations
    }
    origins = {
        what: (d.paper, d.ours, d.reason, d.origin) for what, d in smoke.items() if what != "another emulator"
    }
    assert origins == {
        "capacity": (2000, 1000, "memory", "paper"),
        "training length": (50_000, 100, "smoke size", "budget"),
        "learning rate": (0.0025, 0.1, "smoke size", "budget"),
        "replay": (True, False, "the ablation itself", "variant"),
        "clip": (None, 1.0, "given on the command line", "command line"),
        "final evaluation: episodes": (30, 2, "smoke size", "budget"),
    }
    hour = {d.what for d in resolve("toy", None, "cartpole", "hour", root=toy).deviations}
    assert hour == {
        "training length",
        "network",
        "capacity",
    }  # log_every teaches nothing; the emulator is not used


def test_a_setting_that_comes_back_to_the_papers_value_is_no_deviation(toy):
    found = {
        d.what for d in resolve("toy", "no_replay", "pong", "paper", {"replay": True}, root=toy).deviations
    }
    assert "replay" not in found


def test_a_length_in_which_nothing_is_learned_is_refused():
    message = r"frames=100: 25 agent steps are too few; .*step 1,024: at least frames=4096"
    with pytest.raises(UserError, match=message):
        resolve("ppo", None, "pong", "frames-100")
    assert resolve("ppo", None, "pong", "frames-4096").settings["training_steps"] == 1024
    assert resolve("ppo", None, "pong", "frames-512", {"num_envs": 1}).frames == 512
    with pytest.raises(UserError, match="dqn cartpole learns nothing before agent step 1,000"):
        resolve("dqn", None, "cartpole", "frames-999")


@pytest.mark.parametrize(
    ("frames", "steps", "log_every"),
    [(4, 1, 5), (1003, 250, 5), (40_000, 10_000, 5), (40_001, 10_000, 10), (99_999, 24_999, 10)],
)
def test_a_length_of_ones_own_takes_the_hours_settings_up_to_an_hour(toy, frames, steps, log_every):
    resolved = resolve("toy", None, "pong", f"frames-{frames}", root=toy)
    assert (resolved.settings["training_steps"], resolved.settings["log_every"]) == (steps, log_every)
    assert resolved.budget == f"frames-{frames}"


@pytest.mark.parametrize(
    ("task", "budget", "overrides", "message"),
    [
        (
            "pong",
            "hours",
            {},
            "unknown budget 'hours' .did you mean 'hour'..; there are: smoke, hour, day, paper; or frames-N",
        ),
        ("pong", "frames-0", {}, "unknown budget 'frames-0'"),
        ("pong", "frames-3", {}, "less than one agent step; at least 4"),
        ("ring", "frames-100", {}, "has no setting training_steps; use a budget"),
        ("pnog", "hour", {}, "unknown task 'pnog' of toy .did you mean 'pong'"),
        ("pong", "hour", {"lr": 1}, "settings: unknown setting 'lr'"),
        ("pong", "hour", {"replay": 1}, "settings.replay: 1 is of type int, not bool"),
        ("pong", "hour", {"learning_rate": float("nan")}, "nan is not a number"),
    ],
)
def test_what_cannot_be_resolved(toy, task, budget, overrides, message):
    with pytest.raises(UserError, match=message):
        resolve("toy", None, task, budget, overrides, root=toy)


def test_unknown_variant(toy):
    with pytest.raises(UserError, match=r"unknown variant 'no_reply' of toy .did you mean 'no_replay'"):
        resolve("toy", "no_reply", "pong", "hour", root=toy)


def test_settings_json_is_one_line_and_the_key_follows_every_setting(toy):
    resolved = resolve("toy", None, "pong", "hour", root=toy)
    text = settings_json(resolved, 1)
    assert "\n" not in text
    assert json.loads(text)["settings"] == resolved.settings
    other = resolve("toy", None, "pong", "hour", {"learning_rate": 0.5}, root=toy)
    keys = {settings_key(resolved, 1), settings_key(resolved, 2), settings_key(other, 1)}
    assert [len(key) for key in keys] == [12, 12, 12]
    assert settings_key(resolved, 1) == settings_key(resolve("toy", None, "pong", "hour", root=toy), 1)


def test_sizes_seeds_and_places(toy):
    tasks = load_paper("toy", toy).tasks
    auto = {
        (name, device): papers.resolve_budget("auto", tasks[name], device)
        for name in tasks
        for device in ("cpu", "cuda")
    }
    assert (auto["pong", "cpu"], auto["pong", "cuda"]) == ("hour", "paper")
    assert auto["ring", "cpu"] == auto["ring", "cuda"] == "paper"
    assert papers.resolve_budget("smoke", tasks["ring"], "cpu") == "smoke"
    assert (papers.default_seeds(tasks["ring"], "paper"), papers.default_seeds(tasks["ring"], "smoke")) == (
        10,
        1,
    )
    assert run_dir("dqn", None, "pong", "hour", 3) == Path("results/dqn/pong/hour/seed3")
    assert run_dir("dqn", "fast", "pong", "frames-400", 1, "r") == Path("r/dqn-fast/pong/frames-400/seed1")
    assert papers.recorded_dir("dqn", None, "pong", "hour", 1, root=Path("R")) == Path(
        "R/dqn/recorded/base/pong/hour/seed1"
    )


def test_run_main_prints_and_exits_with_2(capsys):
    def fail():
        raise UserError("seeds: 0; at least 1")

    with pytest.raises(SystemExit) as caught:
        run_main(fail)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: seeds: 0; at least 1\n"
    assert run_main(lambda: 3) == 3
