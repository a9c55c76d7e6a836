"""Priorities over the transitions of a `Replay`: sampling in proportion to them, or by their rank.

    priorities = Priorities(replay, "proportional", exponent=0.6)      # P(i) = p_i^exponent / sum_k p_k^exponent
    indices, probabilities = priorities.draw(rng, batch_size)          # (B, 2) for replay.gather, (B,) float64
    batch = replay.gather(indices)
    ...                                                                # errors of the batch
    priorities.update(indices, new_priorities)                         # (B,) p_i, without the exponent
    len(priorities)                                                    # N: transitions that may be drawn now

Hand `priorities` to `run.resume` beside `replay`; nothing else has to be called when transitions are stored: `draw` looks at what
was written since the last one. A transition that `Replay.may_sample` refuses has no mass: one whose stack or successors cross the
write head, one that was overwritten or lies in the slack, one whose n steps are not over. One that may be sampled enters with the
largest priority there has been (1 at first), and keeps it until `update`.

Schaul et al., "Prioritized Experience Replay", ICLR 2016, Section 3.3 and Appendix B.2.1. What p_i is, the exponent and the weights
that correct the bias are the scripts' business; here are the data structures, in float64, in main memory on CUDA too (a batch
needs two small transfers: its indices and weights to the device, its new priorities back).

Proportional: a sum tree. `draw` cuts the total mass into B equal ranges and draws once, uniformly, in each.

Rank-based: P(i) ~ rank(i)^-exponent, where the rank is the place in the array of a binary heap, which is sorted fully after every
million slots written. The ranks are approximate in between, as in the paper. `draw` cuts the power law into B ranges of equal mass
and draws once in each. Inside a range the paper draws uniformly, here the power law itself decides, so that the returned
probabilities are exactly those of the places drawn from; the law's prefix sums serve every N, none is recomputed.
"""

from __future__ import annotations

from array import array
from typing import Literal

import numpy as np

from common.errors import UserError
from common.learning.replay import Replay

FAN_OUT = 128  # children of a node: three levels hold two million leaves, and each level is a few NumPy calls for a whole batch
SORT_PERIOD = 1_000_000  # slots written between full sorts of the heap; Appendix B.2.1


class SumTree:
    """Non-negative masses of L leaves and the sums over groups of 128 of them, level upon level.

    A sum is always recomputed from all its children, never adjusted, so rounding does not accumulate.
    """

    def __init__(self, leaves: int):
        sizes = [leaves]
        while sizes[-1] > FAN_OUT:
            sizes.append(-(-sizes[-1] // FAN_OUT))
        self.size = leaves
        self._levels = [np.zeros((-(-n // FAN_OUT), FAN_OUT)) for n in sizes]  # the leaves first

    @property
    def masses(self) -> np.ndarray:
        """(L,) float64, a view."""
        return self._levels[0].reshape(-1)[: self.size]

    @property
    def total(self) -> float:
        return float(self._levels[-1].sum())

    def set(self, leaves: np.ndarray, masses: np.ndarray | float) -> None:
        """leaves: (K,) int64; of one that is given twice the last mass counts."""
        self._levels[0].reshape(-1)[leaves] = masses
        node = leaves
        for below, level in zip(self._levels, self._levels[1:], strict=False):
            node = np.unique(node // FAN_OUT)
            level.reshape(-1)[node] = below[node].sum(axis=1)

    def rebuild(self) -> None:
        """All sums from the leaves; the same numbers as `set` leaves behind."""
        for below, level in zip(self._levels, self._levels[1:], strict=False):
            level.reshape(-1)[: len(below)] = below.sum(axis=1)

    def find(self, mass: np.ndarray) -> np.ndarray:
        """The leaf in which each point of [0, total) lies when the masses stand side by side. (K,) -> (K,) int64.

        Never a leaf without mass, whatever the rounding; the total must not be zero.
        """
        node = np.zeros(len(mass), np.int64)
        rows = np.arange(len(mass))
        for level in reversed(self._levels):
            sums = level[node].cumsum(axis=1)
            mass = np.minimum(mass, np.nextafter(sums[:, -1], 0))  # a sum of sums may differ in its last bits
            child = (sums <= mass[:, None]).sum(axis=1)
            mass = mass - np.where(child > 0, sums[rows, child - 1], 0)
            node = node * FAN_OUT + child
        return node


class Proportional:
    """P(i) = p_i^exponent / sum_k p_k^exponent, from a sum tree."""

    def __init__(self, leaves: int, exponent: float):
        self.tree, self.exponent = SumTree(leaves), exponent

    def set(self, leaves: np.ndarray, priorities: np.ndarray) -> None:
        self.tree.set(leaves, priorities**self.exponent)

    def remove(self, leaves: np.ndarray) -> None:
        self.tree.set(leaves, 0.0)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(count,) leaves, one from each of as many equal ranges of the total mass, and their probabilities."""
        total = self.tree.total
        if total <= 0:
            raise RuntimeError(
                "no transition has any mass: give priorities above 0, for instance |error| + 1e-6"
            )
        leaves = self.tree.find((np.arange(count) + rng.random(count)) * (total / count))
        return leaves, self.tree.masses[leaves] / total

    def state_dict(self) -> dict:
        return {"masses": self.tree.masses.copy()}

    def load_state_dict(self, state: dict) -> None:
        self.tree.masses[:] = state["masses"]
        self.tree.rebuild()


class RankBased:
    """P(i) = rank(i)^-exponent / sum_k rank(k)^-exponent, the rank being the place in a heap of the priorities.

    The heap is three arrays: at each place a leaf and its priority, and for each leaf its place. The loops run over
    `array.array`, which is quicker than NumPy one element at a time; `np.frombuffer` sees the same memory.
    """

    def __init__(self, leaves: int, exponent: float):
        self.exponent = exponent
        self._sums = np.cumsum(
            np.arange(1, leaves + 1, dtype=np.float64) ** -exponent
        )  # of the power law, for every N
        self._leaf, self._key, self._place = (
            array("q", bytes(8 * leaves)),
            array("d", bytes(8 * leaves)),
            array("q"),
        )
        self._place.extend([-1] * leaves)
        self._count = 0

    def set(self, leaves: np.ndarray, priorities: np.ndarray) -> None:
        for leaf, priority in zip(leaves.tolist(), priorities.tolist(), strict=True):
            place = self._place[leaf]
            if place < 0:
                place, self._count = self._count, self._count + 1
                self._rise(place, leaf, priority)
            elif priority > self._key[place]:
                self._rise(place, leaf, priority)
            else:
                self._sink(place, leaf, priority)

    def remove(self, leaves: np.ndarray) -> None:
        for leaf in leaves.tolist():
            place, self._place[leaf] = self._place[leaf], -1
            self._count -= 1
            if place == self._count:
                continue
            last, priority = (
                self._leaf[self._count],
                self._key[self._count],
            )  # takes the place that became free
            if place and priority > self._key[(place - 1) >> 1]:
                self._rise(place, last, priority)
            else:
                self._sink(place, last, priority)

    def _rise(self, place: int, leaf: int, priority: float) -> None:
        leaves, keys, places = self._leaf, self._key, self._place
        while place:
            parent = (place - 1) >> 1
            if keys[parent] >= priority:
                break
            leaves[place], keys[place] = moved, _ = leaves[parent], keys[parent]
            places[moved] = place
            place = parent
        leaves[place], keys[place], places[leaf] = leaf, priority, place

    def _sink(self, place: int, leaf: int, priority: float) -> None:
        leaves, keys, places, count = self._leaf, self._key, self._place, self._count
        while (child := 2 * place + 1) < count:
            if child + 1 < count and keys[child + 1] > keys[child]:
                child += 1
            if keys[child] <= priority:
                break
            leaves[place], keys[place] = moved, _ = leaves[child], keys[child]
            places[moved] = place
            place = child
        leaves[place], keys[place], places[leaf] = leaf, priority, place

    def sort(self) -> None:
        """Puts every leaf at its exact rank; equal priorities keep their order. A sorted array is a heap as well."""
        n = self._count
        leaf, key, place = (np.frombuffer(a, a.typecode) for a in (self._leaf, self._key, self._place))
        order = np.argsort(-key[:n], kind="stable")
        leaf[:n], key[:n] = leaf[:n][order], key[:n][order]
        place[leaf[:n]] = np.arange(n)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(count,) leaves, one from each of as many ranges of equal mass of the power law, and their probabilities."""
        if self._count == 0:
            raise RuntimeError("the replay memory holds no transitions to sample")
        sums = self._sums[: self._count]
        points = (np.arange(count) + rng.random(count)) * (sums[-1] / count)
        place = np.minimum(np.searchsorted(sums, points, side="right"), self._count - 1)
        return np.frombuffer(self._leaf, np.int64)[place], (place + 1.0) ** -self.exponent / sums[-1]

    def state_dict(self) -> dict:
        n = self._count
        return {"leaf": np.array(self._leaf[:n], np.int64), "key": np.array(self._key[:n], np.float64)}

    def load_state_dict(self, state: dict) -> None:
        leaf, key, place = (np.frombuffer(a, a.typecode) for a in (self._leaf, self._key, self._place))
        n = self._count = len(state["leaf"])
        leaf[:n], key[:n], place[:] = state["leaf"], state["key"], -1
        place[leaf[:n]] = np.arange(n)


class Priorities:
    """One priority for each transition that may be sampled from `replay`.

    kind: "proportional" or "rank". exponent: alpha of the paper, 0 or more; 0 is uniform.
    """

    def __init__(
        self, replay: Replay, kind: Literal["proportional", "rank"] = "proportional", *, exponent: float
    ):
        if exponent < 0:
            raise UserError(f"a priority exponent of {exponent} is not allowed; 0 (uniform) or more")
        leaves = replay.num_envs * replay.slots
        self.replay = replay
        self.order = {"proportional": Proportional, "rank": RankBased}[kind](leaves, exponent)
        self.max_priority = 1.0  # the largest so far; Algorithm 1, line 2
        self._inside = np.zeros(leaves, bool)
        self._count = 0
        # Logical positions per environment, as of the last look: the window's start, and the first whose outcome was not known
        self._oldest = np.zeros(replay.num_envs, np.int64)
        self._undecided = np.zeros(replay.num_envs, np.int64)
        self._sorts = 0

    def __len__(self) -> int:
        """Transitions that may be drawn: N of the importance weights."""
        self._follow()
        return self._count

    def draw(self, rng: np.random.Generator, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """(batch_size, 2) int64 environment and slot, with replacement, and (batch_size,) float64 their probabilities."""
        self._follow()
        if self._count == 0:
            raise RuntimeError(
                f"the replay memory holds no transitions to sample ({len(self.replay)} slots in use)"
            )
        leaves, probabilities = self.order.draw(rng, batch_size)
        return np.stack(np.divmod(leaves, self.replay.slots), axis=1), probabilities

    def update(self, indices: np.ndarray, priorities: np.ndarray) -> None:
        """New priorities (B,) of what was drawn; of a transition that was drawn twice the last one counts.

        Between `draw` and `update` nothing may be written to the memory.
        """
        priorities = np.asarray(priorities, np.float64)
        if not (np.isfinite(priorities).all() and (priorities >= 0).all()):
            bad = priorities[~(np.isfinite(priorities) & (priorities >= 0))][0]
            raise UserError(
                f"a priority became {bad}, only finite values from 0 on are allowed. Try a smaller learning rate"
            )
        self.order.set(indices[:, 0] * self.replay.slots + indices[:, 1], priorities)
        self.max_priority = max(self.max_priority, float(priorities.max()))

    def _follow(self) -> None:
        """Takes out what may no longer be sampled and lets in what may be now, since the last look."""
        replay, written = self.replay, self.replay.written
        oldest = np.maximum(written - replay.window, 0)
        # What the write head has come too close to: before the window, or a stack that reaches out of it
        env, position = _ranges(np.maximum(self._oldest, oldest - replay.slots), oldest + replay.stack - 1)
        env, position = (x[~replay.may_sample(env, position)] for x in (env, position))
        leaves = np.unique(env * replay.slots + position % replay.slots)
        leaves = leaves[self._inside[leaves]]
        if len(leaves):
            self.order.remove(leaves)
            self._inside[leaves] = False
            self._count -= len(leaves)
        # What has become whole. If the outcome of a transition is known, so are those of all before it
        start = np.maximum(self._undecided, oldest)
        env, position = _ranges(start, written - 1)
        self._undecided = start + np.bincount(
            env, weights=replay.outcome_known(env, position), minlength=len(start)
        ).astype(np.int64)
        keep = replay.may_sample(env, position)
        leaves = env[keep] * replay.slots + position[keep] % replay.slots
        if len(leaves):
            self.order.set(leaves, np.full(len(leaves), self.max_priority))
            self._inside[leaves] = True
            self._count += len(leaves)
        self._oldest = oldest
        if isinstance(self.order, RankBased) and int(written.sum()) // SORT_PERIOD > self._sorts:
            self._sorts = int(written.sum()) // SORT_PERIOD
            self.order.sort()

    def state_dict(self) -> dict:
        return {
            "order": self.order.state_dict(), "max_priority": self.max_priority, "inside": self._inside.copy(),
            "oldest": self._oldest.copy(), "undecided": self._undecided.copy(), "sorts": self._sorts,
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError when the state belongs to a memory of another size."""
        if state["inside"].shape != self._inside.shape:
            raise ValueError(
                f"the priorities are of {len(state['inside'])} slots, this run has {len(self._inside)}"
            )
        self.order.load_state_dict(state["order"])
        self.max_priority, self._sorts = float(state["max_priority"]), int(state["sorts"])
        self._inside[:] = state["inside"]
        self._count = int(self._inside.sum())
        self._oldest, self._undecided = np.array(state["oldest"]), np.array(state["undecided"])


def _ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (environment, position) with first[env] <= position < last[env]; two (K,) int64."""
    counts = np.maximum(last - first, 0)
    env = np.repeat(np.arange(len(first)), counts)
    return env, np.arange(len(env)) - (np.cumsum(counts) - counts)[env] + first[env]
