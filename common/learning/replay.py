"""Replay memory that stores every frame once and rebuilds stacks when it samples.

One ring of slots per environment. A slot holds one observation and, once the action is known, what followed it. The slot that
was written last is the current observation; it has no transition yet. The last observation of an episode has a slot as well,
never with a transition, so that a transition cut by a time cap still has its true successor to bootstrap from.

A transition may be sampled if its stack and its successor are still in the ring: one that reaches across the write head has no
mass. Planes from before an episode's first frame are zero. Sampling is uniform over all transitions that may be sampled; for
other distributions `common/learning/priorities.py` sits on the same slots.

With `n_step`, a transition reaches over n agent steps, or fewer where its episode ends before: a terminal or a time cap within the
n steps is its end. It may be sampled once its n steps, or that end, have been stored.

The ring has `slack` slots beyond the capacity. They are never sampled; they keep what a checkpoint refers to from being
overwritten by frames that come after it, so that the frames themselves need not be copied into checkpoints.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from common.learning.batch import Batch
from common.learning.replay_on_device import ReplayOnDevice
from common.say import say


class Replay:
    """The last `capacity` slots of N environments, uniformly sampled.

    capacity, slack: slots over all environments. stack: frames in a state. n_step: see above; None: plain transitions of one step.
    action_shape: () for numbered actions, below 256; of a vector of floats its shape. folder: where the frames' ring is kept as a
    memory-mapped file; None keeps it in memory. device: where batches go; on CUDA a copy of everything lives there when it fits
    (`on_device`), and makes the batches.
    """

    _small = ("actions", "rewards", "terminals", "complete", "age", "written")

    def __init__(
        self,
        capacity: int,
        obs_shape: tuple[int, ...],
        obs_dtype=np.uint8,
        *,
        num_envs: int = 1,
        stack: int = 4,
        n_step: int | None = None,
        action_shape: tuple[int, ...] = (),
        slack: int = 0,
        folder: Path | None = None,
        device: torch.device | str = "cpu",
    ):
        self.window = capacity // num_envs
        least = stack + 1 + (n_step or 1)
        if self.window < least:
            raise UserError(
                f"a replay capacity of {capacity} is too small for {num_envs} environments: at least {least * num_envs}"
            )
        self.num_envs, self.stack, self.n_step, self.device = num_envs, stack, n_step, torch.device(device)
        self.slots = self.window + -(-slack // num_envs)
        shape = (num_envs, self.slots, *obs_shape)
        self.frames = _ring(folder, shape, np.dtype(obs_dtype))
        # One checksum a frame, where frames are a file beside the checkpoint: a copy or a disk can change it unnoticed
        self.checksums = np.zeros(shape[:2], np.uint32) if folder is not None else None
        self.actions = np.zeros((*shape[:2], *action_shape), np.float32 if action_shape else np.uint8)
        self.rewards = np.zeros(shape[:2], np.float32)
        self.terminals = np.zeros(shape[:2], bool)
        self.complete = np.zeros(shape[:2], bool)  # has a transition: action, reward and successor are known
        self.age = np.zeros(shape[:2], np.uint8)  # slots since the episode began, at most 255
        self.written = np.zeros(num_envs, np.int64)  # slots written so far; the newest is `written - 1`
        self._everyone = np.arange(num_envs)
        self._lags = np.arange(-(stack - 1), 2)  # stack and successor, relative to a transition's slot
        self.on_device = self._make_copy()

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(stack, *obs_shape)"""
        return (self.stack, *self.frames.shape[2:])

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.from_numpy(np.zeros(0, self.frames.dtype)).dtype

    def blank_states(self, count: int) -> torch.Tensor:
        """(count, *state_shape) zeros on the device, of the frames' dtype."""
        return torch.zeros((count, *self.state_shape), dtype=self.torch_dtype, device=self.device)

    def __len__(self) -> int:
        """Slots in use, at most the capacity."""
        return int(np.minimum(self.written, self.window).sum())

    # --- writing ---

    def begin_episodes(self, obs: np.ndarray, mask: np.ndarray | None = None) -> None:
        """The first observation of a new episode in each masked environment. obs: (N, *obs_shape)."""
        envs = self._everyone if mask is None else np.flatnonzero(mask)
        self._append(envs, obs[envs], np.zeros(len(envs), np.uint8))

    def add(self, actions: np.ndarray, rewards: np.ndarray, terminals: np.ndarray, obs: np.ndarray) -> None:
        """Completes the newest transition of every environment and stores the observation that followed. All (N, ...).

        terminals: game over, or a lost life where the paper counts that as an end; never a time cap.
        """
        slot = (self.written - 1) % self.slots
        at = self._everyone, slot
        self.actions[at] = actions
        self.rewards[at] = rewards
        self.terminals[at] = terminals
        self.complete[at] = True
        if self.on_device is not None:
            self.on_device.write(("actions", "rewards", "terminals", "complete"), *at)
        self._append(self._everyone, obs, np.minimum(self.age[at], 254) + 1)

    def _append(self, envs: np.ndarray, obs: np.ndarray, age: np.ndarray) -> None:
        slot = self.written[envs] % self.slots
        self.frames[envs, slot] = obs
        if self.checksums is not None:
            for env, at in zip(envs, slot, strict=True):
                self.checksums[env, at] = _checksum(self.frames[env, at])
        self.age[envs, slot] = age
        self.complete[envs, slot] = False
        self.written[envs] += 1
        if self.on_device is not None:
            self.on_device.write(("age", "complete", "frames"), envs, slot)

    # --- reading ---

    def may_sample(self, env: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Whether the transitions at logical positions (counted from the run's first slot) may be sampled; both (K,)."""
        oldest = self.written[env] - self.window
        slot = position % self.slots
        reach = np.minimum(self.age[env, slot], self.stack - 1)
        return (
            (position >= 0)
            & self.outcome_known(env, position)
            & (position - reach >= oldest)
            & self.complete[env, slot]
        )

    def outcome_known(self, env: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Whether the n successors (one without `n_step`) are stored, or the episode's end before them; (K,) bool.

        If it holds for a position, then for all before it in the same environment.
        """
        newest = self.written[env] - 1
        if self.n_step is None:
            return position < newest
        known = position + self.n_step <= newest
        for k in range(self.n_step):
            slot = (position + k) % self.slots
            known |= (position + k < newest) & (self.terminals[env, slot] | ~self.complete[env, slot])
        return known

    def draw(self, rng: np.random.Generator, batch_size: int) -> np.ndarray:
        """(batch_size, 2) int64: environment and slot, uniform with replacement over all transitions that may be sampled."""
        oldest = np.maximum(self.written - self.window, 0)
        span = int((self.written - oldest).max())
        found: list[np.ndarray] = []
        missing = batch_size
        for _ in range(1000):
            env = rng.integers(self.num_envs, size=missing)
            position = oldest[env] + rng.integers(span, size=missing)
            keep = self.may_sample(env, position)
            found.append(np.stack([env[keep], position[keep] % self.slots], axis=1))
            missing -= int(keep.sum())
            if missing == 0:
                return np.concatenate(found)
        raise RuntimeError(f"the replay memory holds no transitions to sample ({len(self)} slots in use)")

    def newest(self, count: int) -> np.ndarray:
        """(count, 2): the latest `count` transitions that may be sampled, oldest first, for learning without a memory."""
        back = np.repeat(np.arange(1, 4 * count + 9), self.num_envs)
        env = np.tile(self._everyone, 4 * count + 8)
        position = self.written[env] - back
        keep = np.flatnonzero(self.may_sample(env, position))[:count][::-1]
        return np.stack([env[keep], position[keep] % self.slots], axis=1)

    def flat_indices(self, indices: np.ndarray) -> torch.Tensor | np.ndarray:
        """(B, 2) indices (environment, slot), sent to the GPU if the memory is there: what `gather` takes as well."""
        return indices if self.on_device is None else self.on_device.flat_indices(indices)

    def gather(self, indices: np.ndarray | torch.Tensor) -> Batch:
        """The transitions at (B, 2) indices (environment, slot), stacks rebuilt.

        Given `flat_indices` on a GPU it never waits for the host, and may be part of a CUDA graph; the batch then has no indices.
        """
        if isinstance(indices, torch.Tensor):
            return self.on_device.gather(indices)
        if self.on_device is not None:
            return replace(self.on_device.gather(self.on_device.flat_indices(indices)), indices=indices)
        if self.n_step is not None:
            return self._gather_steps(indices)
        env, slot = indices[:, 0], indices[:, 1]
        frames = self._stacked(env, slot, self._lags)
        actions = torch.from_numpy(self._actions_at(env, slot))
        rewards = torch.from_numpy(self.rewards[env, slot])
        terminals = torch.from_numpy(self.terminals[env, slot])
        return Batch(
            states=frames[:, :-1],
            actions=actions.to(self.device, non_blocking=True),
            rewards=rewards.to(self.device, non_blocking=True),
            next_states=frames[:, 1:],
            terminals=terminals.to(self.device, non_blocking=True),
            indices=indices,
        )

    def _gather_steps(self, indices: np.ndarray) -> Batch:
        env, slot = indices[:, 0], indices[:, 1]
        slots = (slot[:, None] + np.arange(self.n_step)) % self.slots
        terminal, complete = self.terminals[env[:, None], slots], self.complete[env[:, None], slots]
        # A step counts if it was taken (the last observation of an episode has none) and no terminal came before it
        counts = np.logical_and.accumulate(complete, axis=1)
        counts[:, 1:] &= ~np.logical_or.accumulate(terminal & complete, axis=1)[:, :-1]
        steps = counts.sum(axis=1)
        host = (
            self._actions_at(env, slot),
            np.where(counts, self.rewards[env[:, None], slots], np.float32(0)),
            terminal[np.arange(len(env)), steps - 1],
            steps,
        )
        actions, rewards, terminals, steps_there = (
            torch.from_numpy(x).to(self.device, non_blocking=True) for x in host
        )
        return Batch(
            states=self._stacked(env, slot, self._lags[:-1]),
            actions=actions,
            rewards=rewards,
            next_states=self._stacked(env, (slot + steps) % self.slots, self._lags[:-1]),
            terminals=terminals,
            indices=indices,
            steps=steps_there,
        )

    def sample(self, rng: np.random.Generator, batch_size: int) -> Batch:
        return self.gather(self.draw(rng, batch_size))

    def current(self) -> torch.Tensor:
        """(N, stack, *obs_shape): the state each environment is in now."""
        newest = (self.written - 1) % self.slots
        if self.on_device is not None:
            return self.on_device.current(newest)
        return self._stacked(self._everyone, newest, self._lags[:-1])

    def _actions_at(self, env: np.ndarray, slot: np.ndarray) -> np.ndarray:
        """(B,) int64, or (B, *action_shape) float32."""
        actions = self.actions[env, slot]
        return actions if actions.ndim > 1 else actions.astype(np.int64)

    def _stacked(self, env: np.ndarray, slot: np.ndarray, lags: np.ndarray) -> torch.Tensor:
        """Frames at slot + lags, (B, len(lags), *obs_shape), zero where the lag reaches before the episode's start."""
        slots = (slot[:, None] + lags) % self.slots
        before_start = -lags > self.age[env, slot][:, None]
        frames = self.frames[env[:, None], slots]
        if before_start.any():
            frames[before_start] = 0
        return torch.from_numpy(frames).to(self.device, non_blocking=True)

    def _make_copy(self) -> ReplayOnDevice | None:
        if self.device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(self.device)
        if self.frames.nbytes > 0.8 * free:
            say(
                f"replay: {self.frames.nbytes / 1e9:.1f} GB of frames stay in main memory, the GPU has {free / 1e9:.1f} GB free"
            )
            return None
        return ReplayOnDevice(self, self.device)

    # --- state ---

    def flush(self) -> None:
        """Forces the frames written so far onto the disk."""
        if isinstance(self.frames, np.memmap):
            if sys.platform == "linux":  # flushes mapped pages too, and lets other threads run meanwhile
                with open(self.frames.filename, "rb") as file:
                    os.fsync(file.fileno())
            else:
                self.frames.flush()

    def digest(self) -> str:
        """SHA-256 of everything in the memory, frames included; of these not the slack, which nothing refers to."""
        digest = hashlib.sha256()
        for name in self._small:
            digest.update(name.encode() + getattr(self, name).tobytes())
        digest.update(b"frames")
        for env, written in enumerate(self.written):
            kept = np.arange(max(written - self.window, 0), written) % self.slots
            for start in range(0, len(kept), 65_536):
                digest.update(self.frames[env, kept[start : start + 65_536]].tobytes())
        return digest.hexdigest()

    def state_dict(self) -> dict:
        """All but the frames, which are on disk already; with an in-memory ring, the frames too."""
        state = {name: getattr(self, name).copy() for name in self._small}
        apart = {"frames": self.frames} if self.checksums is None else {"checksums": self.checksums}
        return state | {name: array.copy() for name, array in apart.items()}

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            mine = getattr(self, name)
            if mine.shape != value.shape or mine.dtype != value.dtype:
                raise ValueError(
                    f"replay {name} is {value.dtype}{value.shape}, this run's is {mine.dtype}{mine.shape}"
                )
            mine[...] = value
        if "checksums" in state:
            self._check_frames()
        elif self.checksums is not None:  # of a checkpoint from before there were any
            for env, slot in np.ndindex(self.checksums.shape):
                self.checksums[env, slot] = _checksum(self.frames[env, slot])
        if self.on_device is not None:
            self.on_device.load()

    def _check_frames(self) -> None:
        """UserError unless the file holds the frames that were written when the checkpoint was made."""
        for env in range(self.num_envs):
            kept = range(max(int(self.written[env]) - self.window, 0), int(self.written[env]))
            wrong = [
                k
                for k in kept
                if _checksum(self.frames[env, k % self.slots]) != self.checksums[env, k % self.slots]
            ]
            if wrong:
                raise UserError(
                    f"{self.frames.filename}, the replay memory's frames, does not hold what the checkpoint refers to "
                    f"({len(wrong):,} of {len(kept):,} frames differ): it was damaged, or copied at another moment. "
                    "Nothing was changed; copy the whole folder again, or add --fresh to start over"
                )


def _checksum(frame: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(frame))


def _ring(folder: Path | None, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The frames' ring. A new file has all its disk space reserved: a disk that fills up later must not kill the run."""
    if folder is None:
        return np.zeros(shape, dtype)
    path = folder / "frames.bin"
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if not path.exists():
        _reserve(path, size)
    elif path.stat().st_size != size:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes, the replay memory needs {size:,}: it was cut or belongs to another run. "
            "Nothing was changed; to start over, add --fresh"
        )
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)


def _reserve(path: Path, size: int) -> None:
    message = (
        f"the replay memory needs {size / 1e9:.2f} GB on the disk of {path.parent}, and {{}}; "
        "free some space, choose another --results folder, or a smaller --replay-capacity"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise UserError(message.format(f"{free / 1e9:.2f} GB are free"))
    temporary = path.with_suffix(".new")
    try:
        with open(temporary, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        os.replace(temporary, path)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise UserError(message.format(f"they could not be had ({problem.strerror})")) from None
