"""The search's trees in arrays: games x nodes x actions. What is searched and how stands in train.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from replications.alphago_zero.games import Game, colour, winner


class Trees:
    """One search tree for each of `games` games, side by side. Node 0 of a tree is its root.

    visits N(s, a), total W(s, a), prior P(s, a), child: (games, nodes, actions); a child that is not there is -1.
    W counts for who moves at s. An illegal move's prior is -inf. history (games, nodes, T, cells), colour, over, result (Black's),
    parent, action: (games, nodes). states: OpenSpiel's, states[game][node].
    """

    FIELDS = ("visits", "total", "prior", "child", "history", "colour", "over", "result", "parent", "action")

    def __init__(self, game: Game, games: int, history: int, nodes: int):
        self.game, shape, each = game, (games, nodes), (games, nodes, game.actions)
        self.visits, self.total = np.zeros(each, np.float32), np.zeros(each, np.float32)
        self.prior, self.child = np.zeros(each, np.float32), np.full(each, -1, np.int32)
        self.history = np.zeros((*shape, history, game.cells), np.int8)
        self.colour, self.over, self.result = (
            np.zeros(shape, np.int8),
            np.zeros(shape, bool),
            np.zeros(shape, np.int8),
        )
        self.parent, self.action = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        self.states: list[list[Any]] = [[] for _ in range(games)]
        for g in range(games):
            self.restart(g)

    def restart(self, g: int) -> None:
        """Game g is at the empty board."""
        self.plant(g, *self.game.replay(()))

    def plant(self, g: int, state: Any, boards: Sequence[np.ndarray]) -> None:
        """Game g is at `state`, with nothing searched. boards: up to it, the newest last."""
        self.states[g] = [state]
        self.child[g, 0], self.visits[g, 0], self.total[g, 0], self.prior[g, 0] = -1, 0, 0, 0
        self.history[g, 0], self.colour[g, 0], self.over[g, 0] = 0, colour(state), state.is_terminal()
        newest = np.stack(boards[: -self.history.shape[2] - 1 : -1])
        self.history[g, 0, : len(newest)] = newest

    def advance(self, g: int, action: int) -> None:
        """Game g goes on with `action`: its subtree is kept with all that was counted in it, the rest is dropped."""
        top = self.child[g, 0, action]
        if top < 0:  # it was never searched
            state = self.states[g][0].clone()
            state.apply_action(int(action))
            past = [board for board in self.history[g, 0, ::-1]]
            return self.plant(g, state, [*past, self.game.board(state)])
        kept, new = (
            [int(top)],
            np.full(len(self.states[g]) + 1, -1, np.int32),
        )  # new[-1]: of a child that is not there
        new[top] = 0
        for node in range(top + 1, len(self.states[g])):
            if new[self.parent[g, node]] >= 0:
                new[node] = len(kept)
                kept.append(node)
        for name in self.FIELDS:
            field = getattr(self, name)[g]
            field[: len(kept)] = field[kept]
        self.child[g, : len(kept)] = new[self.child[g, : len(kept)]]
        self.parent[g, : len(kept)] = new[self.parent[g, : len(kept)]]
        self.states[g] = [self.states[g][node] for node in kept]

    def grow(self, nodes: int) -> None:
        """Makes room for trees of this many nodes."""
        have = self.visits.shape[1]
        if nodes > have:
            for name in self.FIELDS:
                field = getattr(self, name)
                wider = np.zeros((field.shape[0], max(nodes, 2 * have), *field.shape[2:]), field.dtype)
                wider[:, :have] = field
                setattr(self, name, wider)

    def add(self, g: np.ndarray, parents: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """A new node below each (game, parent) by its action; returns their numbers, (B,)."""
        boards, nodes, over, results = [], [], [], []
        for i, parent, action in zip(g.tolist(), parents.tolist(), actions.tolist(), strict=True):
            state = self.states[i][parent].clone()
            state.apply_action(action)
            nodes.append(len(self.states[i]))
            self.states[i].append(state)
            boards.append(self.game.board(state))
            over.append(state.is_terminal())
            results.append(winner(state) if over[-1] else 0)
        self.child[g, parents, actions] = nodes
        self.child[g, nodes], self.visits[g, nodes], self.total[g, nodes] = -1, 0, 0
        self.history[g, nodes, 1:], self.history[g, nodes, 0] = self.history[g, parents, :-1], boards
        self.colour[g, nodes], self.over[g, nodes], self.result[g, nodes] = (
            -self.colour[g, parents],
            over,
            results,
        )
        self.parent[g, nodes], self.action[g, nodes] = parents, actions
        return np.array(nodes)

    def values(self, g: np.ndarray, actions: np.ndarray | None = None) -> np.ndarray:
        """The roots' values W / N, (B,), or those of an action each; of who is to move there. 0 where there was no visit."""
        total, visits = self.total[g, 0], self.visits[g, 0]
        if actions is None:
            return total.sum(axis=1) / np.maximum(visits.sum(axis=1), 1)
        rows = np.arange(len(g))
        return total[rows, actions] / np.maximum(visits[rows, actions], 1)

    def state_dict(self) -> dict:
        """All but OpenSpiel's states, which `load` plays again."""
        sizes = [len(states) for states in self.states]
        return {"sizes": sizes} | {name: getattr(self, name)[:, : max(sizes)] for name in self.FIELDS}

    def load(self, state: dict, played: Sequence[Sequence[int]]) -> None:
        """played: each game's actions up to its root."""
        self.grow(state["visits"].shape[1])
        for name in self.FIELDS:
            getattr(self, name)[:, : state[name].shape[1]] = state[name]
        for g, (actions, size) in enumerate(zip(played, state["sizes"], strict=True)):
            self.states[g] = [self.game.replay(actions)[0]]
            for node in range(1, size):
                child = self.states[g][self.parent[g, node]].clone()
                child.apply_action(int(self.action[g, node]))
                self.states[g].append(child)
