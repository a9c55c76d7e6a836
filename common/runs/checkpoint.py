"""Checkpoints that survive being killed while they are written.

A checkpoint is a folder named after its agent step. It is written under a temporary name, every file is flushed to the disk,
`manifest.json` with a checksum of every other file comes last, and a rename makes it visible. The one before is kept until a
newer one is complete. Tensors are safetensors, all else is JSON: nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from common.errors import UserError
from common.files import fsync_folder, write_file, write_json
from common.say import say

KEEP = 2  # complete checkpoints: the newest and the one before it
# What reading a damaged or forged file can raise
TORN = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, SafetensorError)


# --- objects with state ---


def get_state(part: Any) -> Any:
    """The state of a module, optimiser, replay, random generator or dataclass, as nested dicts, lists, arrays and scalars."""
    if isinstance(part, np.random.Generator):
        return part.bit_generator.state
    if dataclasses.is_dataclass(part):
        return dataclasses.asdict(part)
    if isinstance(part, torch.Tensor):
        return part
    return part.state_dict()


def set_state(part: Any, state: Any) -> None:
    """Puts `state` into `part`, in place."""
    if isinstance(part, np.random.Generator):
        part.bit_generator.state = state
    elif dataclasses.is_dataclass(part):
        for name, value in state.items():
            setattr(part, name, value)
    elif isinstance(part, torch.Tensor):
        part.data.copy_(torch.as_tensor(state))
    elif isinstance(part, torch.nn.Module):
        part.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
    elif isinstance(part, torch.optim.Optimizer):  # JSON has made text of the numbers of its parameters
        moments = {
            int(number): {name: torch.as_tensor(value) for name, value in own.items()}
            for number, own in state["state"].items()
        }
        part.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
    else:
        part.load_state_dict(state)


def states_of(parts: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The state of every part by name, and of the global random generators."""
    state = {name: get_state(part) for name, part in parts.items()}
    state["torch"] = torch.get_rng_state()
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state | {"python": list(random.getstate())}


def set_states(parts: Mapping[str, Any], state: dict[str, Any], device: torch.device) -> None:
    """Puts what `states_of` gave back, in place."""
    for name, part in parts.items():
        set_state(part, state[name])
    torch.set_rng_state(torch.from_numpy(state["torch"]))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(torch.from_numpy(state["cuda"]))
    random.setstate(_tuples(state["python"]))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def flatten(tree: Any, path: str, tensors: dict[str, np.ndarray]) -> Any:
    """Moves every array of a nested structure into `tensors` (copied); returns the structure with references instead."""
    if isinstance(tree, dict):
        return {key: flatten(value, f"{path}/{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [flatten(value, f"{path}/{i}", tensors) for i, value in enumerate(tree)]
    if isinstance(tree, torch.Tensor):
        tree = tree.detach().cpu().numpy()
    if isinstance(tree, np.ndarray):
        tensors[path] = np.array(tree, order="C", copy=True)
        return {"__tensor__": path}
    if isinstance(tree, np.generic):
        return tree.item()
    return tree


def unflatten(tree: Any, tensors: dict[str, np.ndarray]) -> Any:
    if isinstance(tree, dict):
        if set(tree) == {"__tensor__"}:
            return tensors[tree["__tensor__"]]
        return {key: unflatten(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [unflatten(value, tensors) for value in tree]
    return tree


# --- files ---


def _unused(folder: Path, name: str) -> Path:
    number = 1
    while (path := folder / f"{name}-{number}").exists():
        number += 1
    return path


class Checkpoints:
    """The checkpoints in one folder.

    key: identifies settings and code; a checkpoint with another key is never loaded, but for those in `also`.
    """

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key
        self.also: set[str] = set()
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None

    def all(self) -> list[Path]:
        """Checkpoint folders, newest first, whole or not."""
        return sorted(
            (p for p in self.folder.glob("step-*") if p.is_dir()), key=lambda p: p.name, reverse=True
        )

    def save(self, step: int, state: dict, logs: dict[str, bytes], flush=lambda: None) -> None:
        """Copies the state now and writes it in the background; `flush` is called there before the manifest.

        Waits for the checkpoint before it, and raises what went wrong with that one.
        """
        self.wait()
        tensors: dict[str, np.ndarray] = {}
        tree = flatten(state, "", tensors)
        self._writer = threading.Thread(
            target=self._write, args=(step, tree, tensors, dict(logs), flush), daemon=True
        )
        self._writer.start()

    def wait(self) -> None:
        """Until the checkpoint being written is complete. Raises UserError when it could not be written."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise UserError(
                f"a checkpoint could not be written to {self.folder} ({failure}); the one before it is kept. "
                "Free some space or make the folder writable, then start the same command again"
            ) from failure

    def _write(self, step: int, tree: Any, tensors: dict, logs: dict[str, bytes], flush) -> None:
        try:
            flush()
            final, temporary = self.folder / f"step-{step:012d}", self.folder / f".step-{step:012d}.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            files = {"state.safetensors": save_tensors(tensors), "state.json": json.dumps(tree).encode()}
            files |= {f"log-{name}": content for name, content in logs.items()}
            for name, content in files.items():
                write_file(temporary / name, content)
            checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
            write_json(
                temporary / "manifest.json", {"key": self.key, "agent_step": step, "sha256": checksums}
            )
            fsync_folder(temporary)
            if final.exists() and self._is_whole(
                final
            ):  # the same step again, after a stop: it says the same
                shutil.rmtree(temporary)
                return
            if final.exists():
                final.rename(_unused(self.folder, f"torn-{final.name}"))
            os.replace(temporary, final)
            fsync_folder(self.folder)
            for old in [*self.all()[KEEP:], *self.folder.glob("torn-*")]:
                shutil.rmtree(old)
        except BaseException as failure:
            self._failure = failure

    def load(self) -> tuple[dict, dict[str, bytes]] | None:
        """State and logs of the newest whole checkpoint, or None if there is none at all.

        A torn one is named and skipped. Raises UserError when there are checkpoints and none is whole.
        """
        torn, bad = [], []
        for folder in self.all():
            try:
                state, logs = self._read(folder)
                for other in bad:  # so that they do not count as checkpoints that are kept
                    other.rename(_unused(self.folder, f"torn-{other.name}"))
                return state, logs
            except TORN as problem:
                torn.append(f"{folder.name}: {problem}")
                say(f"checkpoint {folder.name} is damaged ({problem}); trying the one before it")
                bad.append(folder)
        if torn:
            raise UserError(
                f"no checkpoint in {self.folder} can be read ({'; '.join(torn)}). Nothing was deleted; "
                "to start over, add --fresh, which puts them aside"
            )
        return None

    def _read(self, folder: Path) -> tuple[dict, dict[str, bytes]]:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["key"] != self.key and manifest["key"] not in self.also:
            raise ValueError(f"it belongs to key {manifest['key']}, not {self.key}")
        files = {}
        for name, checksum in manifest["sha256"].items():
            if Path(name).name != name:
                raise ValueError(f"{name!r} is not a plain file name")
            files[name] = (folder / name).read_bytes()
            if hashlib.sha256(files[name]).hexdigest() != checksum:
                raise ValueError(f"{name} does not match its checksum")
        tree = json.loads(files["state.json"])
        logs = {
            name.removeprefix("log-"): content for name, content in files.items() if name.startswith("log-")
        }
        return unflatten(tree, load_tensors(files["state.safetensors"])), logs

    def _is_whole(self, folder: Path) -> bool:
        try:
            self._read(folder)
            return True
        except TORN:
            return False

    def keys(self) -> set[str]:
        """The keys of the checkpoints here, as far as they can be read."""
        found = set()
        for folder in self.all():
            try:
                found.add(str(json.loads((folder / "manifest.json").read_text())["key"]))
            except TORN:
                continue
        return found
