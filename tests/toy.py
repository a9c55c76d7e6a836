"""A paper of a few lines, for tests of what reads papers."""

from __future__ import annotations

from pathlib import Path

TRAIN = '''"""A toy."""
from dataclasses import dataclass
from typing import Literal

CAPACITY = 1_000


@dataclass(frozen=True)
class Config:
    training_steps: int = 50_000  # agent steps
    frame_skip: int = 4
    learning_rate: float = 0.01 / 4
    capacity: int = CAPACITY
    target_period: int = 16 * 10
    network: Literal["conv", "mlp"] = "conv"
    replay: bool = True
    clip: float | None = None
    log_every: int = 10


if __name__ == "__main__":
    from common.toy_run import main

    main()
'''

PAPER = """
paper: toy
short: Toy (2020)
title: A toy
citation: {authors: A. Body, venue: Nowhere, year: 2020, bibtex: "@misc{toy}"}
summary: It does nothing.
frames_per_agent_step: 4
agent_steps_per_update: 4
engineering: [log_every]
constants:
  - {name: training length, field: training_steps, paper: 200000, unit: frames, field_unit: agent steps, source: T1}
  - {name: action repeat, field: frame_skip, paper: 4, unit: frames, source: T1}
  - {name: learning rate, field: learning_rate, paper: 0.0025, unit: none, source: T1}
  - {name: capacity, field: capacity, paper: 2000, unit: transitions, source: T1, ours: 1000, reason: memory}
  - {name: target period, field: target_period, paper: 40, unit: updates, field_unit: agent steps, source: T1}
  - {name: network, field: network, paper: conv, unit: architecture, source: Figure 1}
  - {name: replay, field: replay, paper: true, unit: switch, source: Algorithm 1}
  - {name: clip, field: clip, paper: null, ours: null, unit: none, source: not stated}
  - {name: filters, field: null, paper: 32 of 8x8, unit: filters, source: Figure 1}
deviations:
  - {what: another emulator, reason: theirs is lost, kinds: [atari]}
protocols:
  full: {starts: no-ops, epsilon: 0.05, max_frames: 18000, episodes: 30, extra_episodes: 100, noop_max: 30,
         weights: best, score: evaluation_mean, description: thirty games, source: Methods}
tasks:
  - names: [pong, ms_pacman]
    kind: atari
    title: "{name}"
    protocol: full
    paper_frames: 200000
    published: {file: published.csv, metric: dqn}
    random: {file: published.csv, metric: random}
  - names: [cartpole]
    kind: gym
    env_id: CartPole-v1
    title: CartPole
    in_paper: false
    protocol: full
    published: none
    published_reason: not in the paper
    bar: 475
    settings: {network: mlp, capacity: 500}
    reasons: {network: "four numbers, no screen", "*": a small problem}
    budgets:
      smoke: {settings: {training_steps: 20}, reasons: {"*": short}, evaluation: {episodes: 3}, expect: a blink}
  - names: [ring]
    kind: claims
    script: ring
    title: Ring
    protocol: full
    published: none
    published_reason: claims are inequalities
    settings: {states: 16}
    reasons: {states: the larger of two}
    budgets:
      smoke: {settings: {states: 4}, reasons: {states: quick}}
variants:
  no_replay:
    title: without replay
    description: The ablation.
    settings: {replay: false, learning_rate: 0.001}
    reasons: {replay: the ablation itself, learning_rate: Table 2}
    tasks:
      - names: [pong]
        kind: atari
        title: "{name}"
        protocol: full
        paper_frames: 200000
        published: none
        published_reason: not printed
budgets:
  smoke:
    settings: {training_steps: 100, learning_rate: 0.1}
    reasons: {"*": smoke size}
    evaluation: {episodes: 2, extra_episodes: 0, max_frames: 20000}
    expect: a second
  hour:
    settings: {training_steps: 10000, log_every: 5}
    reasons: {training_steps: a fifth}
    expect: {cpu: an hour, cuda: a minute}
  paper: {settings: {}, expect: days}
"""

PUBLISHED = """paper,game,metric,value,stdev,protocol,source
toy2020,pong,dqn,18.9,1.3,noop30,Table 2
toy2020,pong,random,-20.7,,random,Table 2
toy2020,ms_pacman,dqn,2311,525,noop30,Table 2
toy2020,ms_pacman,random,307.3,,random,Table 2
toy2020,pong,human,9.3,,a,Table 2
toy2020,pong,human,14.6,,b,Table 2
"""

RING = """
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    states: int = 8


if __name__ == "__main__":
    from common.toy_run import main

    main()
"""


def write_toy(folder: Path) -> Path:
    """Makes `folder`/replications with the paper `toy` in it, and returns it."""
    root = folder / "replications"
    (root / "toy").mkdir(parents=True)
    (root / "__init__.py").touch()
    (root / "toy" / "__init__.py").touch()
    for name, text in (
        ("train.py", TRAIN),
        ("paper.yaml", PAPER),
        ("published.csv", PUBLISHED),
        ("ring.py", RING),
    ):
        (root / "toy" / name).write_text(text)
    return root
