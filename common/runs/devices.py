"""Which device a job runs on. Nothing here imports torch: a dry run would wait for it."""

from __future__ import annotations

import ast
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

PLACES = 64  # trainings on one GPU; beyond, the first GPU is shared
_held = []  # open lock files: a lock lives as long as its file


def torch_has_cuda() -> bool:
    """Whether the installed PyTorch was built for CUDA, read from its version file."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^cuda\b[^=]*=\s*['\"]", text, re.MULTILINE) is not None


def visible_gpus() -> list[str]:
    """Names of the NVIDIA GPUs a process here may use, as CUDA_VISIBLE_DEVICES lists them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",")]
        return names[: names.index("-1")] if "-1" in names else [name for name in names if name]
    count = 0
    if shutil.which("nvidia-smi"):
        try:
            listing = subprocess.run(
                ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True
            ).stdout
            count = len(re.findall(r"^GPU \d+:", listing, re.MULTILINE))
        except (OSError, subprocess.SubprocessError):
            count = 0
    count = count or sum(1 for path in Path("/dev").glob("nvidia[0-9]*"))
    return [str(number) for number in range(count)]


def detect_device() -> str:
    """ "cuda" where there are a GPU and a PyTorch that can use it, else "cpu"."""
    return "cuda" if torch_has_cuda() and visible_gpus() else "cpu"


def claim_gpu() -> int | None:
    """Takes the GPU that the fewest trainings on this machine have, for the life of this process; None where there is none.

    With several GPUs, CUDA_VISIBLE_DEVICES is narrowed to the one taken, whose place in the list of visible ones is
    returned. Call it before anything of CUDA starts (torch.cuda.is_available() already does). With one GPU there is
    nothing to choose, and nothing is set.
    """
    gpus = visible_gpus()
    if len(gpus) < 2:
        return 0 if gpus else None
    for place in range(
        PLACES
    ):  # the first training of each GPU, then the second of each: 8 on 2 GPUs are 4 and 4
        for index, name in enumerate(gpus):
            if not _take(f"{re.sub(r'[^A-Za-z0-9-]', '_', name)}{f'-{place}' if place else ''}"):
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = name
            return index
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
    return 0


def _take(place: str) -> bool:
    """A lock that lives as long as this process. False where another has it, or none can be had in the temp folder."""
    try:
        lock = open(Path(tempfile.gettempdir()) / f"deep-rl-gpu-{os.getuid()}-{place}.lock", "a")  # noqa: SIM115
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return False
    _held.append(lock)
    return True


@lru_cache(maxsize=256)
def own_device(script: Path) -> str | None:
    """The constant DEVICE of a script that runs on one device only, read from its source as its Config is; else None."""
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="DEVICE")], value=ast.Constant(value=str(device))):
                return device
    return None
