"""./run, exercised in throw-away repositories whose packages are wheels of a few bytes: no network, real pip."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "run"
TOOLS = (
    "sh",
    "awk",
    "cat",
    "cmp",
    "cp",
    "date",
    "df",
    "dirname",
    "env",
    "mv",
    "rm",
    "sed",
    "sleep",
    "true",
    "uname",
)


def make_wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel with one module that holds its version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


def make_gated_package(folder: Path) -> None:
    """A source package whose build writes a line to `built` and then waits for as long as `gate` exists."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "gated"\nversion = "1"\n'
    )
    (folder / "backend.py").write_text(
        textwrap.dedent(f"""\
        import os, shutil, time
        HERE = {str(folder)!r}
        def build_wheel(directory, config_settings=None, metadata_directory=None):
            open(HERE + "/built", "a").write("x\\n")
            while os.path.exists(HERE + "/gate"):
                time.sleep(0.05)
            return os.path.basename(shutil.copy(HERE + "/gated-1-py3-none-any.whl", directory))
        """)
    )
    make_wheel(folder, "gated", "1")
    (folder / "gate").touch()


class Repository:
    """A folder with `run` and a requirements.txt, and the environment its commands see."""

    def __init__(self, base: Path, name: str = "a clone"):
        self.base, self.root, self.wheels = base, base / name, base / "wheels"
        self.root.mkdir()
        self.wheels.mkdir(exist_ok=True)
        shutil.copy(RUN, self.root / "run")
        tools = base / "bin"
        tools.mkdir(exist_ok=True)
        for tool in TOOLS:
            if (path := shutil.which(tool)) and not (tools / tool).exists():
                (tools / tool).symlink_to(path)
        python = getattr(sys, "_base_executable", sys.executable)
        if not (tools / "python3").exists():
            (tools / "python3").write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
            (tools / "python3").chmod(0o755)
        self.environment = {
            "PATH": str(tools),
            "HOME": str(base),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_NO_CACHE_DIR": "1",
        }

    def require(self, text: str) -> None:
        (self.root / "requirements.txt").write_text(text + "\n")

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [str(self.root / "run"), *command],
            env=self.environment | environment,
            cwd=self.base,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        process = self.start(*command, **environment)
        output, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def would_install(self, **environment: str) -> bool:
        """Whether a call would install, found out by hiding every Python it could do that with."""
        python = self.base / "bin/python3"
        python.rename(self.base / "hidden")
        result = self.run("true", **environment)
        (self.base / "hidden").rename(python)
        return result.returncode == 1 and "no Python 3.11 to 3.14 was found" in result.stderr


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


@pytest.mark.slow
def test_installs_once_runs_in_it_and_installs_again_when_the_lock_changed(repository):
    make_wheel(repository.wheels, "tiny", "1.0")
    make_wheel(repository.wheels, "tiny", "2.0")
    repository.require("tiny==1.0")
    show = "import sys, os, tiny; print(tiny.version, sys.prefix, os.environ['VIRTUAL_ENV'], os.getcwd(), sys.argv[1:])"
    venv = repository.root.resolve() / ".venv"

    first = repository.run("python", "-c", show, "a b", "")
    assert (first.returncode, first.stdout) == (
        0,
        f"1.0 {venv} {venv} {repository.base.resolve()} ['a b', '']\n",
    )
    assert "first use" in first.stderr
    assert "ready" in first.stderr

    second = repository.run("python", "-c", show)
    assert (second.returncode, second.stderr) == (0, "")
    assert repository.run("sh", "-c", "exit 7").returncode == 7
    (repository.root / "mine.py").touch()
    assert (
        repository.run("python", "-c", "import mine").returncode == 0
    )  # from another folder, as a notebook's

    # another run uses the environment: a changed lock must not pull it away
    user = repository.start(
        "sh", "-c", "echo started; read line; python -c 'import tiny; print(tiny.version)'"
    )
    assert user.stdout.readline() == "started\n"
    repository.require("tiny==2.0")
    waiting = repository.start("python", "-c", show)
    assert f"in use by process {user.pid} sh; waiting" in waiting.stderr.readline()
    output, _ = user.communicate("go\n", timeout=30)
    assert output == "1.0\n"
    output, errors = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert output.startswith("2.0 ")
    assert "changed" in errors

    # a moved folder: the environment's scripts point to where it was
    assert not repository.would_install()
    repository.root = repository.root.rename(repository.base / "moved")
    assert repository.would_install()


@pytest.mark.slow
def test_killed_install_never_passes_for_complete_and_two_at_once_install_once(repository):
    gated = repository.base / "gated"
    make_gated_package(gated)
    repository.require(f"gated @ file://{gated}")
    built = lambda: len((gated / "built").read_text()) // 2 if (gated / "built").exists() else 0  # noqa: E731

    killed = repository.start("true")
    wait_for(lambda: built() == 1)
    killed.kill()  # the script alone: its pip lives on as an orphan, and still owns the folder
    killed.wait()
    assert not (repository.root / ".venv/complete").exists()

    pair = [repository.start("python", "-c", "import gated; print(gated.version)") for _ in range(2)]
    for process in pair:
        assert "waiting" in process.stderr.readline()
    (gated / "gate").unlink()
    for process in pair:
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, output) == (0, "1\n"), errors
    assert built() == 2  # the orphan's, and one for both
    killed.stdout.close(), killed.stderr.close(), killed.stdin.close()

    (repository.root / ".venv/complete").unlink()
    assert repository.would_install()


@pytest.mark.slow
def test_install_killed_with_everything_is_made_again(repository):
    gated = repository.base / "gated"
    make_gated_package(gated)
    repository.require(f"gated @ file://{gated}")
    with repository.start("true") as process:
        wait_for((gated / "built").exists)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert (repository.root / ".venv").exists()
    (gated / "gate").unlink()
    result = repository.run("python", "-c", "import gated; print(gated.version)")
    assert (result.returncode, result.stdout) == (0, "1\n"), result.stderr
    assert "was not finished" in result.stderr


@pytest.mark.slow
def test_failed_install_says_so_and_is_not_complete(repository):
    repository.require("absent==1.0")
    result = repository.run("python", "-c", "print('ran')")
    assert (result.returncode, result.stdout) == (1, "")
    assert "absent==1.0" in result.stderr
    assert "Needed: PyPI or a mirror" in result.stderr
    assert repository.would_install()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has several builds of PyTorch")
class TestTorch:
    SHOW = ("python", "-c", "import torch; print(torch.version)")

    @pytest.fixture
    def wheels(self, repository):
        make_wheel(repository.wheels, "torch", "2.13.0")
        repository.require("torch==2.13.0")
        return lambda *builds: [make_wheel(repository.wheels, "torch", f"2.13.0+{build}") for build in builds]

    def test_without_gpu_the_cpu_build(self, repository, wheels):
        wheels("cpu")
        assert repository.run(*self.SHOW).stdout == "2.13.0+cpu\n"
        assert not repository.would_install(TORCH="cpu")
        assert repository.would_install(TORCH="cuda")

    @pytest.mark.slow
    def test_another_build_on_request(self, repository, wheels):
        wheels("cpu", "cu126")
        assert repository.run(*self.SHOW).stdout == "2.13.0+cpu\n"
        changed = repository.run(*self.SHOW, TORCH="cu126")
        assert changed.stdout == "2.13.0+cu126\n"
        assert "changed" in changed.stderr
        kept = repository.run(*self.SHOW)  # not asked for: what is there stays
        assert (kept.stdout, kept.stderr) == ("2.13.0+cu126\n", "")

    def test_with_gpu_never_the_cpu_build(self, repository, wheels):
        wheels("cpu")
        smi = repository.base / "bin/nvidia-smi"
        smi.write_text("#!/bin/sh\n")
        smi.chmod(0o755)
        assert repository.run(*self.SHOW).stdout == "2.13.0\n"

    def test_build_asked_for_is_not_replaced_by_another(self, repository, wheels):
        refused = repository.run(*self.SHOW, TORCH="cpu")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "2.13.0+cpu could not be had" in refused.stderr
        assert repository.would_install()

    def test_no_cpu_build_in_reach(self, repository, wheels):
        result = repository.run(*self.SHOW)
        assert (result.returncode, result.stdout) == (0, "2.13.0\n")
        assert "2.7 GB" in result.stderr

    def test_full_disk_is_said_before_the_download(self, repository, wheels):
        wheels("cpu")
        (repository.base / "bin/df").unlink()
        (repository.base / "bin/df").write_text(
            "#!/bin/sh\necho 'Filesystem 1024-blocks Used Available Capacity Mounted on'\n"
            "echo 'map auto home 9000000 8488000 512000 95% /the disk'\n"
        )
        (repository.base / "bin/df").chmod(0o755)
        result = repository.run(*self.SHOW)
        assert result.returncode == 1
        assert "500 MB are free" in result.stderr
        assert "needs 2000 MB" in result.stderr

    def test_unknown_build(self, repository, wheels):
        result = repository.run("true", TORCH="gpu")
        assert result.returncode == 1
        assert "TORCH=gpu" in result.stderr
        assert "cpu, cuda" in result.stderr


def test_usage(repository):
    result = repository.run()
    assert (result.returncode, result.stdout) == (2, "")
    assert "./run snakemake reports/dqn_pong.html" in result.stderr
    for what in (
        "./run targets pong",
        "source=recorded",
        "reports.watch",
        "settings=",
        "complete -o default -W",
    ):
        assert what in result.stderr
    assert repository.run("--help").stdout == result.stderr


def test_no_suitable_python(repository):
    repository.require("tiny==1.0")
    python = repository.base / "bin/python3"
    python.write_text("#!/bin/sh\necho version 3.9; echo /usr/bin/python3.9\n")
    result = repository.run("true")
    assert result.returncode == 1
    assert "no Python 3.11 to 3.14 was found" in result.stderr
    assert "python3 is 3.9" in result.stderr
    python.write_text("#!/bin/sh\necho venv 3.12; echo /usr/bin/python3.12\n")
    assert "apt install python3-venv" in repository.run("true").stderr
    assert not (repository.root / ".venv").exists()


def test_an_environment_of_somebody_elses_python_is_called_so(repository):
    repository.require("tiny==1.0")
    python = repository.root / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("no program")  # cannot be executed, as behind a folder that only its owner may enter
    (repository.root / ".venv/complete").touch()
    result = repository.run("true")
    assert result.returncode == 1
    assert "cannot be executed by you" in result.stderr
    assert "a clone of your own" in result.stderr.replace("\n", " ")
    assert python.exists()


def test_a_folder_behind_a_link_is_not_emptied(repository):
    """Installing empties .venv, and would empty what a link leads to."""
    repository.require("tiny==1.0")
    foreign = repository.base / "elsewhere"
    foreign.mkdir()
    (foreign / "complete").write_text("folder /somewhere/else/.venv\n")
    (repository.root / ".venv").symlink_to(foreign)
    result = repository.run("true")
    assert result.returncode == 1
    assert ".venv is a link" in result.stderr.replace("\n", " ")
    assert (foreign / "complete").exists()


def test_outside_its_repository(repository):
    result = repository.run("true")
    assert result.returncode == 1
    assert "requirements.txt cannot be read" in result.stderr
