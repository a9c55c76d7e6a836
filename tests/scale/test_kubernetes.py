"""profiles/kubernetes: what its pods ask for, and a whole page made by pods on a small server (kubernetes_api.py).

Needs ./run python -m pip install -r envs/kubernetes.txt -r envs/tests.txt; skipped without them. KUBERNETES_TESTS=required, as
continuous integration sets before the slow tests, makes that a failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from common import papers
from common.papers.validation import load_yaml
from common.runs import costs
from common.workflow import Flow
from tests.scale.kubernetes_api import Cluster, Refused, check_resources, serve
from tests.training import ROOT, wait_for

PROFILE = ROOT / "profiles" / "kubernetes"
PACKAGES = ("snakemake_executor_plugin_kubernetes", "snakemake_storage_plugin_s3", "moto", "flask_cors")
LACKING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
BIN = Path(sys.executable).parent


# --- the server's own rules ---


@pytest.mark.parametrize(
    ("requests", "limits"),
    [
        ({"nvidia.com/gpu": "1"}, None),  # what the executor asks for without `scale: 0`
        ({"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "2"}),
        ({"nvidia.com/gpu": "0"}, {"cpu": "1"}),
        ({"memory": "2G"}, {"memory": "1999M"}),
        ({"cpu": "1.5 cores"}, {"cpu": "2"}),
    ],
)
def test_the_server_refuses(requests, limits):
    with pytest.raises(Refused):
        check_resources({"requests": requests, "limits": limits})


def test_the_server_accepts():
    check_resources(
        {"requests": {"cpu": "950m", "nvidia.com/gpu": "1"}, "limits": {"cpu": "1", "nvidia.com/gpu": "1"}}
    )
    check_resources({"requests": {"cpu": "950m", "memory": "16000M"}})


# --- without a cluster ---


def test_every_rule_that_asks_for_a_gpu_gets_one_with_a_limit():
    defaults = load_yaml(PROFILE / "config.yaml")["default-resources"]
    assert defaults["gpu_manufacturer"] == "nvidia"
    assert defaults["scale"] == 0
    text = (ROOT / "Snakefile").read_text()
    assert not re.search(
        r"^\s+(gpu_manufacturer|scale|disk_mb)=", text, re.MULTILINE
    )  # no rule says otherwise


def test_what_an_evaluation_and_a_page_read_is_asked_for_where_runs_lie_in_a_storage(tmp_path):
    run = SimpleNamespace(agent="ppo", task="pong", size="smoke", seed="1")
    wanted = {}
    for stored in (False, True):
        flow = Flow({"results": str(tmp_path), "budget": "smoke"}, stored=stored)
        names = [Path(path).name for path in flow.page_runs(SimpleNamespace(target="ppo_pong"))]
        wanted[stored] = {Path(path).name for path in flow.read_in_evaluation(run)}, set(names)
    assert wanted[False][0] == set()
    assert wanted[True][0] == {"curve.csv", "episodes.csv"}  # PPO's score is of its last training episodes
    assert wanted[True][1] - wanted[False][1] == {"best.mp4", "values.json"}


def test_the_stand_in_for_pip_knows_what_is_installed():
    def pip(*arguments: str) -> subprocess.CompletedProcess:
        environment = {"PATH": f"{BIN}:/usr/bin:/bin"}
        return subprocess.run(
            [ROOT / "envs/image/pip", *arguments], env=environment, capture_output=True, text=True
        )

    assert "numpy" in pip("install", "--target", "folder", "numpy", "scipy").stdout
    missing = pip("install", "--target", "folder", "numpy", "no-such-package")
    assert missing.returncode
    assert "no-such-package is not in the image" in missing.stderr
    assert pip("install", "numpy").returncode == 2


# --- a whole page ---


def commands_of(page: Path) -> list[list[str]]:
    """The lines of a page that fetch results: `./run s5cmd ...`."""
    found = re.findall(r"^ *\./run (s5cmd .*)$", page.read_text(), re.MULTILINE)
    return [line.replace("'", "").split() for line in found]


@pytest.fixture
def bucket():
    """An S3 server's address."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def repo(tmp_path) -> Path:
    """A copy with the profile filled in: a claim that is here."""
    root = tmp_path / "repo"
    skip = shutil.ignore_patterns(
        ".venv", ".git", "results", "logs", ".snakemake", "recorded", "__pycache__", "*.html"
    )
    shutil.copytree(ROOT, root, ignore=skip)
    (tmp_path / "claim").mkdir()
    for file in (root / "profiles" / "kubernetes").iterdir():
        file.write_text(file.read_text().replace("/checkpoints", str(tmp_path / "claim")))
    return root


def kubeconfig(path: Path, server: str) -> Path:
    content = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": server}}], "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
@pytest.mark.skipif(
    bool(LACKING) and os.environ.get("KUBERNETES_TESTS") != "required",
    reason=f"not installed: {', '.join(LACKING)} (./run python -m pip install -r envs/kubernetes.txt -r envs/tests.txt)",
)
def test_a_page_is_made_by_pods_and_one_that_was_killed_goes_on(repo, tmp_path, bucket):
    profile = load_yaml(repo / "profiles" / "kubernetes" / "config.yaml")
    prefix = profile["default-storage-prefix"]
    (tmp_path / "pods").mkdir()
    # what the image sets, and the session of whoever starts Snakemake
    image = {
        "PATH": f"{repo}/envs/image:{BIN}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(repo),
        "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled",
    }  # fmt: skip
    keys = {"ACCESS_KEY": "me", "SECRET_KEY": "secret", "ENDPOINT_URL": bucket}
    session = image | {f"SNAKEMAKE_STORAGE_S3_{name}": value for name, value in keys.items()}
    session |= {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "S3_ENDPOINT_URL": bucket}
    cluster = Cluster(
        tmp_path / "pods", {"checkpoints": tmp_path / "claim"}, image, (profile["kubernetes-namespace"],)
    )

    def kill_the_first_once_it_has_saved() -> None:
        if wait_for(lambda: list((tmp_path / "claim").rglob("step-*")), 400):
            cluster.kill(cluster.ran[0]["metadata"]["name"])

    def snakemake(api: str) -> str:
        order = (
            "reports/dqn_pong.html",
            "--workflow-profile",
            "profiles/kubernetes",
            "--config",
            "budget=smoke",
        )
        often = ("--seconds-between-status-checks", "1")  # than after 10 s
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *order, *often], cwd=repo, capture_output=True, text=True,
            env=session | {"KUBECONFIG": str(kubeconfig(tmp_path / "kubeconfig", api))},
        )  # fmt: skip
        logs = "\n".join(log.read_text() for log in sorted((tmp_path / "pods").glob("*.log")))
        assert done.returncode == 0, done.stdout + done.stderr + logs
        return done.stdout + done.stderr

    with serve(cluster) as api:
        killer = threading.Thread(target=kill_the_first_once_it_has_saved, daemon=True)
        killer.start()
        printed = snakemake(api)
        killer.join()
        assert "Nothing to be done" in snakemake(api)

    # the pods: every key of the profile shows
    assert cluster.refusals == []
    trained, again, evaluated = cluster.ran
    logs = [(tmp_path / "pods" / f"{job['metadata']['name']}.log").read_text() for job in cluster.ran]
    limits = {"cpu": "4000m", "ephemeral-storage": "4000M", "nvidia.com/gpu": "1"}
    needed = costs.cost_of(papers.resolve("dqn", None, "pong", "smoke")).memory_mb * costs.margin()
    for job, of in ((trained, {}), (again, {}), (evaluated, {"cpu": "1000m"})):
        spec = job["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        asked = dict(container["resources"]["limits"])
        memory = int(asked.pop("memory").removesuffix("M"))
        spare = 3000 if job is evaluated else 100  # MB; a film needs some
        assert 0 <= memory - needed < spare
        assert asked == limits | of
        assert container["image"] == profile["container-image"]
        assert [toleration["key"] for toleration in spec["tolerations"]] == ["nvidia.com/gpu"]
    assert trained["process"].returncode == -9
    assert re.search(r"resumed at agent step \d+", logs[1])
    assert not [log for log in logs if "Collecting" in log]  # pip
    assert "snakemake-storage-plugin-s3 " in logs[1]
    assert f"Shell command: run=$(dirname .snakemake/storage/s3/{prefix.removeprefix('s3://')}" in printed
    shown = {
        "executor", "configfile", "jobs", "rerun-incomplete", "rerun-triggers", "keep-going", "retries", "printshellcmds",
        "container-image", "kubernetes-namespace", "kubernetes-persistent-volumes", "default-storage-provider",
        "default-storage-prefix", "default-resources",
    }  # fmt: skip
    assert set(profile) == shown, "this test knows each key of the profile"

    # what is fetched, by the documented commands
    commands = commands_of(ROOT / "docs" / "cluster.md")
    assert {target for *_, target in commands} == {"results/", "reports/"}
    for command in commands:
        assert prefix in " ".join(command)
        subprocess.run(
            [BIN / command[0], *command[1:]], cwd=repo, env=session, check=True, capture_output=True
        )
    folder = repo / "results" / "dqn" / "pong" / "smoke" / "seed1"
    run, evaluation = (json.loads((folder / name).read_text()) for name in ("run.json", "evaluation.json"))
    assert run["cost"]["attempts"] == 2
    assert bool(evaluation["best_video"]) == bool((folder / "best.mp4").stat().st_size)
    assert json.loads((folder / "values.json").read_text())["kind"] == "values"
    page = (repo / "reports" / "dqn_pong.html").read_text()
    assert page.count("<video") == 1 + bool(evaluation["best_video"])
    assert 'data-verdict="too_short"' in page
