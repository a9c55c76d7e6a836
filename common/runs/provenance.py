"""Where a run's numbers come from: commit, code, packages, ROM, machine. An allow-list, never the whole environment."""

from __future__ import annotations

import ast
import datetime
import hashlib
import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch

from common import papers
from common.learning.fast import has_bfloat16

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "ale_py", "gymnasium", "numpy", "opencv-python-headless")
# The modules that numbers depend on, by the beginning of their names. Plumbing (folders, logs, tracking) is not among them; what
# is resolved from paper.yaml stands in the key of the settings.
COUNTED = (
    "replications.", "common.environments.", "common.learning.", "common.evaluation.protocol", "common.evaluation.playing",
    "common.runs.progress", "common.runs.checkpoint", "common.runs.laptop",
)  # fmt: skip
PASSED_THROUGH = ("common.runs.run",)  # not counted itself, but what it imports is
STOPS = ("common.runs.laptop",)  # counted itself, and what it imports is plumbing


def provenance(paper: str, task: papers.Task, device: str, threads: int, command: str) -> dict:
    """What is written into run.json, taken at the start: files may change while a run goes on."""
    commit, diff = _git("rev-parse", "HEAD"), uncommitted()
    lock = ROOT / "uv.lock"
    return {
        "commit": commit.strip() if commit else None,
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
        "code_sha256": code_fingerprint(paper, task.script),
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else None,
        "rom_sha256": rom_sha256(task),
        "versions": {"python": platform.python_version()} | {name.split("-")[0]: version(name) for name in PACKAGES},
        "hardware": {
            "cpu": cpu_name(), "cores": os.cpu_count(), "memory_gb": round(memory_gb(), 1),
            "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
            "bfloat16": has_bfloat16(device),
        },
        "device": device, "threads": threads,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "command": command, "started": now(),
    }  # fmt: skip


def uncommitted() -> str:
    """The changes that no commit has in what numbers come from: scripts, papers as data, packages; recorded runs are none of it."""
    new = _git(
        "ls-files",
        "--others",
        "--exclude-standard",
        "--",
        "common/*.py",
        "replications/*.py",
        "replications/*.yaml",
    )
    changed = _git(
        "diff", "HEAD", "--", "common", "replications", "uv.lock", ":(exclude)replications/*/recorded/*"
    )
    return (changed or "") + (new or "")


def key_of(provenance: dict) -> str:
    """12 hex digits of code, packages and ROM."""
    parts = (provenance[name] or "" for name in ("code_sha256", "lock_sha256", "rom_sha256"))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def machine(provenance: dict) -> str:
    """What the bytes of a run depend on beside settings, code, packages and ROM."""
    p = provenance
    processor = p["hardware"]["gpu"] or p["hardware"]["cpu"]
    return f"{p['device']}, {p['threads']} threads, {processor}, torch {p['versions']['torch']}"


def code_fingerprint(paper: str, script: str = "train") -> str:
    """SHA-256 of a script and of every module it imports that numbers depend on; comments and layout do not count."""
    digest = hashlib.sha256()
    for name in sorted(modules_that_count(f"replications.{paper}.{script}")):
        digest.update(f"{name} {_code(_file(name))}".encode())
    return digest.hexdigest()


def modules_that_count(script: str, root: Path = ROOT) -> set[str]:
    """Names of the modules, the script's own included, found by following imports from it."""
    counted, seen, waiting = set(), set(), [script]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        counts = any(name == prefix or name.startswith(prefix) for prefix in COUNTED)
        if counts:
            counted.add(name)
        if (counts and name not in STOPS) or name in PASSED_THROUGH:
            waiting += imported(_file(name, root), root)
    return counted


def imported(path: Path, root: Path = ROOT) -> set[str]:
    """Names of the repository's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if _file(name, root).is_file()}


def _file(module: str, root: Path = ROOT) -> Path:
    return root / (module.replace(".", "/") + ".py")


@lru_cache(maxsize=256)
def _code_at(path: Path, mtime_ns: int) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _code(path: Path) -> str:
    return _code_at(path, path.stat().st_mtime_ns)


def rom_sha256(task: papers.Task) -> str | None:
    if task.kind != "atari":
        return None
    from common.environments.atari import check_rom

    return check_rom(task.game)


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def memory_gb() -> float:
    """Main memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
