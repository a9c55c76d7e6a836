"""Training speed-up with parallel actor-learners, Table 2 of Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning",
ICML 2016.

The four asynchronous methods are trained by `train.py` with 1, 2, 4, 8 and 16 workers until an evaluation phase reaches a fixed
reference score. The speed-up of n workers is the time that one worker takes, over the time that n take, averaged over games.
Each worker needs a core of its own: what this machine has no cores for is not run, and the claims about it stay open.
`paper.yaml` holds the constants and the claims that are checked.

    ./run python -m replications.a3c.speedup --seed 1 --budget smoke
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from common import papers
from common.errors import UserError, suggestion
from common.files import write_json
from common.papers.units import plural
from common.runs.command_line import prepare
from common.runs.laptop import Findings, main
from common.runs.progress import Progress
from common.runs.run import Run
from common.say import say
from replications.a3c import train

METHODS = {  # a value of train.Config.algorithm: its name
    "one_step_q": "1-step Q",
    "one_step_sarsa": "1-step Sarsa",
    "n_step_q": "n-step Q",
    "a3c": "A3C",
}
COLUMNS = (2, 4, 8, 16)  # workers of Table 2, beside the one that all is measured against
PUBLISHED = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's, or ours where it does not say."""

    methods: str = "one_step_q,one_step_sarsa,n_step_q,a3c"  # Table 2
    workers: str = "1,2,4,8,16"  # processes; Table 2
    references: str = (  # game=score; the games are Table 2's, the scores are ours
        "beam_rider=1250,breakout=50,enduro=50,pong=-15,qbert=2000,seaquest=400,space_invaders=300"
    )
    fewest_games: int = 5  # in which one worker reaches the reference score, for an average to be taken
    most_steps: int = 20_000_000  # agent steps of a training, all workers together; then it is given up
    evaluation_period: int = 100_000  # agent steps between two looks at the score
    evaluation_steps: int = 12_500  # agent steps of such a look
    look_exploration: float = 0.05  # epsilon of value-based methods in a look; A3C's policy is sampled


@dataclass(frozen=True)
class Plan:
    """A Config's texts, read and checked."""

    methods: tuple[str, ...]
    workers: tuple[int, ...]
    references: dict[str, float]


def read_plan(config: Config) -> Plan:
    """UserError for a method, a game or a number that cannot be."""
    methods = tuple(word.strip() for word in config.methods.split(","))
    for method in methods:
        if method not in METHODS:
            raise UserError(f"methods: unknown {method!r}{suggestion(method, METHODS)}")
    try:
        workers = tuple(sorted({int(word) for word in config.workers.split(",")}))
    except ValueError:
        raise UserError(f"workers {config.workers!r}: write whole numbers with commas, e.g. 1,2,4") from None
    if workers[0] != 1:
        raise UserError(
            f"workers {config.workers!r}: numbers of 1 or more, with 1 among them: the others are set against it"
        )
    games = {name: task for name, task in papers.load_paper("a3c").tasks.items() if task.script == "train"}
    references = {}
    for word in config.references.split(","):
        game, _, score = (part.strip() for part in word.partition("="))
        if game not in games:
            raise UserError(f"references: unknown game {game!r}{suggestion(game, games)}")
        try:
            references[game] = float(score)
        except ValueError:
            raise UserError(
                f"references {word!r}: write GAME=SCORE with commas, e.g. pong=-15,breakout=50"
            ) from None
    if min(config.most_steps, config.evaluation_period, config.evaluation_steps, config.fewest_games) < 1:
        raise UserError("most_steps, evaluation_period, evaluation_steps and fewest_games must be 1 or more")
    if config.fewest_games > len(references):
        raise UserError(
            f"fewest_games {config.fewest_games}: references has {len(references)} games; allowed is 1 to that"
        )
    return Plan(methods, workers, references)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- one training, timed ---


class Timed(Run):
    """A training by `train.py` that ends when an evaluation phase reaches `reference`, or at `most_steps`.

    Its time is that in which workers play and learn, over all attempts: evaluation phases are left out. A checkpoint keeps it,
    so a training that was stopped goes on with the time it had.
    """

    def __init__(self, *arguments: Any, reference: float, most_steps: int, **options: Any):
        super().__init__(*arguments, stop_when_reached=True, **options)
        self.reference, self.most_steps = reference, most_steps

    def has_it(self, progress: Progress) -> bool:
        return progress.best_score is not None and progress.best_score >= self.reference

    def published_score_reached(self) -> bool:
        progress = self.parts["progress"]
        return self.has_it(progress) or progress.agent_steps >= self.most_steps

    def finish(self, progress: Progress, model: Any, replay: Any = None) -> None:
        seconds = self._seconds() - self._evaluation_seconds
        write_json(self.folder.path / "time.json", {"seconds": seconds, "reached": self.has_it(progress)})
        super().finish(progress, model)

    def _start_tracker(self) -> None:
        self.tracker = None

    def _announce(self, replay: Any) -> None:
        workers = plural(self.settings["workers"], "worker")
        method = METHODS[self.settings["algorithm"]]
        say(
            f"{method} on {self.task.name}, {workers}: until {self.reference:g}, or {self.most_steps:,} agent steps"
        )


def time_to_reference(
    config: Config, method: str, game: str, workers: int, seed: int, folder: Path
) -> float | None:
    """Seconds that `workers` workers train until the game's reference score; None where they do not get there.

    What is in `folder` from an earlier attempt is gone on with, or, where it was finished, read again.
    """
    settings = {"algorithm": method, "workers": workers}
    settings |= {name: getattr(config, name) for name in ("evaluation_period", "evaluation_steps")}
    if not train.METHODS[method].actor_critic:  # a greedy policy that is stuck would never end a game
        settings["evaluation_epsilon"] = config.look_exploration
    resolved = papers.resolve("a3c", None, game, "paper", settings)
    if resolved.settings["training_steps"] < config.most_steps:  # the learning rate falls to 0 at its end
        raise UserError(
            f"most_steps {config.most_steps}: {game} has {resolved.settings['training_steps']} at most"
        )
    prepare(seed, 1)  # the same initial weights whatever was trained before it
    name, reference = f"{method}_{workers}", read_plan(config).references[game]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    run = Timed(
        resolved,
        seed,
        device="cpu",
        threads=1,
        results=folder / name,
        reference=reference,
        most_steps=config.most_steps,
    )
    try:
        if not run.open():
            train.train(train.Config(**resolved.settings), run)
    finally:
        run.close()
        for number, handler in before.items():  # a training that is over must not swallow a signal
            signal.signal(number, handler)
    found = json.loads((run.folder.path / "time.json").read_text())
    how = "reached" if found["reached"] else "did not reach"
    who = f"{METHODS[method]} on {game}, {plural(workers, 'worker')}"
    say(f"{who}: {how} {reference:g} in {found['seconds']:.1f} s")
    return found["seconds"] if found["reached"] else None


# --- Table 2 ---


def speed_up(
    times: dict[str, dict[int, float | None]], workers: int, fewest: int
) -> tuple[float | None, str]:
    """The average over games of one worker's time over that of `workers`; None, and why, where it cannot be had.

    times: game -> workers -> seconds, None where the reference score was not reached. A game in which one worker does not reach
    it has nothing to be set against and is left out; `fewest` must remain.
    """
    games = [game for game, by in times.items() if by[1] is not None]
    if len(games) < fewest:
        return (
            None,
            f"one worker reached the reference score in {len(games)} of {len(times)} games, {fewest} are needed",
        )
    missed = [game for game in games if times[game][workers] is None]
    if missed:
        return None, f"{workers} workers did not reach the reference score in {', '.join(missed)}"
    return fmean(times[game][1] / times[game][workers] for game in games), ""


def printed(method: str, workers: int) -> float:
    """The paper's own speed-up."""
    return papers.find_row(PUBLISHED, "average_of_7_games", f"speed_up_{method}", f"{workers}_workers").value


def experiment(config: Config, seed: int, kept: Path | None = None) -> Findings:
    """kept: where trainings are kept until all are done, so that one that was stopped goes on; a temporary folder unless given."""
    if kept is None:
        with tempfile.TemporaryDirectory() as folder:
            return experiment(config, seed, Path(folder))
    plan, here = read_plan(config), cores()
    able = [n for n in plan.workers if n <= here]
    measures, undecided, points = {"cores": float(here)}, {}, []
    for method in plan.methods:
        times: dict[str, dict[int, float | None]] = {game: {} for game in plan.references}
        for game in times:
            for n in able:
                seconds = times[game][n] = time_to_reference(config, method, game, n, seed, kept)
                if seconds is not None:
                    measures[f"{method}_{n}_{game}_seconds"] = seconds
        for n in (n for n in able if n > 1):
            value, why = speed_up(times, n, config.fewest_games)
            if value is None:
                undecided[f"{method}_{n}"] = why
                continue
            measures[f"{method}_{n}"] = value
            points.append(("table_2", f"{METHODS[method]}, here", n, value))
    for method in METHODS:
        points += [("table_2", f"{METHODS[method]}, printed", n, printed(method, n)) for n in (1, *COLUMNS)]
        for n in COLUMNS:
            if f"{method}_{n}" not in measures | undecided:
                undecided[f"{method}_{n}"] = why_not(plan, method, n, here)
    return Findings(measures, points, undecided)


def why_not(plan: Plan, method: str, workers: int, here: int) -> str:
    """Why a cell of Table 2 was not measured."""
    if method not in plan.methods or workers not in plan.workers:
        return "not part of this size"
    return f"{workers} workers need {workers} cores, this machine gives {here}"


if __name__ == "__main__":
    main("a3c", "speedup", Config, experiment, keeps=True)
