"""How many games AlphaGo Zero plays against itself in a second: 5x5, 64 simulations a move, 4 blocks of 32 filters.

    ./run python -m benchmarks.self_play [--workers 2] [--seconds 60] [--out benchmarks/self_play.json]

The network is untrained and nobody resigns, so games are as long as in early training. Prints JSON; writes it only with --out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import psutil
import torch

from benchmarks import machine
from common import papers
from common.learning.workers import Workers, share_parameters, shared_zeros
from replications.alphago_zero import train
from replications.alphago_zero.plumbing import for_search

FOREVER = 10**9  # games


class Counted(train.SelfPlay):
    """Says how many moves it made, beside the games that ended."""

    def work(self) -> list:
        return [len(self.moves), *super().work()]


def cpu_seconds(pids: list[int]) -> float:
    """Of these processes so far: on a busy machine they have less than a core each."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def measure(workers: int, seconds: float, warm_up: float) -> dict:
    """Moves and games in a second, all workers together, after `warm_up` seconds in which games drift apart."""
    load, began = machine.load_average(), time.monotonic()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = train.Config(**papers.resolve("alphago_zero", None, "go_5x5", "paper").settings)
    network = for_search(train.Network(config, train.make_game(config)))
    share_parameters(network)
    never = shared_zeros(2, dtype=torch.float64).fill_(-torch.inf)
    heard: list = []
    with Workers(workers, lambda i: Counted(config, network, never, 1, i)) as processes:
        processes.run(FOREVER, warm_up, lambda: False)
        start, used = time.monotonic(), cpu_seconds(processes.pids)
        processes.run(FOREVER, seconds, lambda: False, hear=heard.append)
        took, used = time.monotonic() - start, cpu_seconds(processes.pids) - used
    moves = sum(news for news in heard if isinstance(news, int)) / took
    games = [news for news in heard if not isinstance(news, int)]
    found = {
        "workers": workers,
        "games_per_second": round(len(games) / took, 2),
        "moves_per_second": round(moves, 1),
        "moves_per_game": round(sum(len(g.actions) for g in games) / len(games), 1) if games else None,
        "cpu_microseconds_per_simulation": round(1e6 * used / took / moves / config.simulations, 1),
        "cores_used": round(used / took, 2),
    }
    return found | {"complaints": machine.complaints(load[0], None), "about": machine.about(began, load, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm-up", type=float, default=60.0)
    parser.add_argument("--out", type=Path, help="a file for the figures")
    arguments = parser.parse_args()
    found = json.dumps(measure(arguments.workers, arguments.seconds, arguments.warm_up), indent=1)
    print(found)
    if arguments.out:
        arguments.out.write_text(found + "\n")


if __name__ == "__main__":
    main()
