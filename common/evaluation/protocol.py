"""The papers' evaluation: phases during training, the final episodes that are compared with the printed score, replays.

Every episode has a seed of its own, for its no-ops and for its exploration, so that it can be played again. Episodes are played
in groups of ten with one batched forward pass: the rounding of a batch of another size can differ, and with it a greedy action.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from common.environments.make import make_envs
from common.errors import UserError
from common.evaluation.filming import FPS, ActionValues, action_names, write_values
from common.evaluation.playing import Episode, Policy, play_group, play_steps
from common.files import write_json
from common.learning.layers import make_deterministic
from common.say import say

GROUP = 10  # episodes played together
THREADS = 1  # of PyTorch in the final evaluation, whatever the machine: another number can round differently


def load_weights(module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Loads tensors by parameter name, of any float type. Raises ValueError when names or shapes do not fit."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != given:
        odd = sorted(set(wanted.items()) ^ set(given.items()))[0]
        raise ValueError(f"the weights do not fit the network, first at {odd[0]!r} of shape {odd[1]}")
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds values that are not numbers")
    module.load_state_dict({name: tensor.to(torch.float32) for name, tensor in weights.items()})


def evaluation_phase(
    script,
    config,
    task,
    policy: Policy,
    run_seed: int,
    number: int,
    max_frames: int | None = None,
    check=lambda: None,
) -> np.ndarray:
    """Phase `number` of a training: raw scores of the episodes that ended, in an environment of its own with a seed of its own.

    max_frames: emulator frames after which a game is cut, as in the final evaluation, since scores under different caps cannot
    be compared; None: never, but a game in which nothing changes is cut all the same (`ReplayableEnvs.max_unchanged`).
    """
    seed = int(np.random.SeedSequence((run_seed, 0xEA, number)).generate_state(1)[0] >> 1)
    options = {"max_frames": max_frames} if task.kind == "atari" else {}
    envs = make_envs(config, task, 1, seed, **options)
    rng = np.random.default_rng(seed)
    scores = play_steps(
        policy, envs, config.stack, config.evaluation_steps, config.evaluation_epsilon, rng, check
    )
    envs.close()
    return scores


def episode_seeds(run_seed: int, first: int, count: int) -> np.ndarray:
    """(count,) int64 seeds of the final evaluation's episodes number `first` onwards, 31 bits."""
    return np.array(
        [
            np.random.SeedSequence((run_seed, 0xE7A1, e)).generate_state(1)[0] >> 1
            for e in range(first, first + count)
        ],
        dtype=np.int64,
    )


class Agent:
    """A trained policy with its game, by run folder: what notebooks, evaluation and the page use.

    agent = Agent("replications/dqn/recorded/base/pong/hour/seed1"); print(agent.play(1)[0].score)
    """

    def __init__(self, run_dir: str | Path, device: str = "auto"):
        from common.papers import resolve

        self.folder = Path(run_dir)
        self.run = read_run(self.folder)
        r = self.run
        self.device = (
            torch.device("cuda" if torch.cuda.is_available() else "cpu")
            if device == "auto"
            else torch.device(device)
        )
        try:  # the settings too: of names and types that the script knows
            resolved = resolve(r["paper"], r["variant"], r["task"], r["budget"], r["settings"])
        except UserError as problem:
            why = f"{r['superseded']} ({problem})" if r.get("superseded") else problem
            raise UserError(f"{self.folder / 'run.json'}: {why}") from None
        self.protocol, self.task = resolved.protocol, resolved.task
        self.script = importlib.import_module(f"replications.{r['paper']}.train")
        self.config = self.script.Config(**r["settings"])
        try:
            probe = self._envs(1)
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as problem:
            raise UserError(
                f"{self.folder / 'run.json'}: no environment can be made with its settings ({problem})"
            ) from None
        self.num_actions, self.obs_shape = probe.num_actions, probe.obs_shape
        path = self.folder / "model.safetensors"
        try:
            network = self.script.make_network(self.config, probe).to(self.device)
            load_weights(network, load_tensors(path.read_bytes()))
            self.policy = self.script.make_policy(network, self.config)
        except FileNotFoundError:
            raise UserError(f"{path} is missing: only runs whose weights were kept can be played") from None
        except (SafetensorError, ArithmeticError, RuntimeError, TypeError, ValueError) as problem:
            raise UserError(f"{path} cannot be used ({problem}); train that run again") from None
        finally:
            probe.close()

    def _envs(self, num_envs: int, film: bool = False):
        config = (
            replace(self.config, noop_max=self.protocol.noop_max)
            if hasattr(self.config, "noop_max")
            else self.config
        )
        options = (
            {"max_frames": self.protocol.max_frames, "keep_rgb": film} if self.task.kind == "atari" else {}
        )
        return make_envs(config, self.task, num_envs, 0, **options)

    def play(
        self,
        episodes: int,
        first: int = 0,
        seed: int | None = None,
        film: int | None = None,
        check=lambda: None,
    ) -> list[Episode]:
        """Episodes number `first` onwards by the paper's protocol. film: keep the screens of that one (an episode number)."""
        seeds = episode_seeds(self.run["seed"] if seed is None else seed, first, episodes)
        played: list[Episode] = []
        for start in range(0, episodes, GROUP):
            group = seeds[start : start + GROUP]
            camera = (
                film - first - start if film is not None and 0 <= film - first - start < len(group) else None
            )
            envs = self._envs(len(group), camera is not None)
            played += play_group(
                self.policy, envs, self.config.stack, group, self.protocol.epsilon, camera, check, self.config
            )
            envs.close()
        return played


def read_run(folder: Path) -> dict:
    """run.json, checked for what is needed to evaluate. Raises UserError when it is missing or damaged."""
    from common.papers import NAME

    path = folder / "run.json"
    try:
        run = json.loads(path.read_text())
        missing = [
            k for k in ("paper", "variant", "task", "budget", "seed", "settings", "result") if k not in run
        ]
        if missing:
            raise ValueError(f"no {missing[0]!r}")
        for key in ("paper", "variant", "task"):  # they become folders and a module
            if not (isinstance(run[key], str) and NAME.fullmatch(run[key])) and (
                key != "variant" or run[key] is not None
            ):
                raise ValueError(f"{key} {str(run[key])[:40]!r} is not a name of a-z, 0-9 and _")
        if not isinstance(run["budget"], str):
            raise ValueError("budget is not text")
        if type(run["seed"]) is not int or not 0 <= run["seed"] < 2**63:
            raise ValueError(f"seed {str(run['seed'])[:40]} is not a whole number of 0 or more")
        if not isinstance(run["settings"], dict) or type(run["result"]["best_agent_step"]) is not int:
            raise ValueError("settings is not a mapping, or result.best_agent_step not a number")
        if run["result"]["best_agent_step"] < 0:
            raise ValueError("result.best_agent_step is below 0")
        return run
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: the run has not finished; start the same command again to go on"
        ) from None
    except (ValueError, TypeError, KeyError, RecursionError) as problem:
        raise UserError(
            f"{path} is damaged ({problem}); start the training command again, it writes the file anew"
        ) from None


def evaluate_run(folder: Path, device: str = "auto") -> dict:
    """The final evaluation of a finished run: writes episode.mp4 (the median episode), best.mp4 (the best one, where it is
    better), values.json (what the network said while they were filmed) and evaluation.json there, returns the latter."""
    folder = Path(folder)
    make_deterministic(0, THREADS)
    agent = Agent(folder, device)
    protocol, run = agent.protocol, agent.run
    started = time.monotonic()
    total = protocol.episodes + protocol.extra_episodes
    last_line = [started]

    scores: list[Episode] = []
    extra: list[Episode] = []

    def check() -> None:
        if time.monotonic() - last_line[0] > 10:
            last_line[0] = time.monotonic()
            say(f"evaluation: {len(scores) + len(extra)} of {total} episodes")

    for start in range(0, protocol.episodes, GROUP):
        scores += agent.play(min(GROUP, protocol.episodes - start), start, check=check)
    # a whole number of groups apart, so that the first ones do not depend on how many follow
    first_extra = -(-protocol.episodes // GROUP) * GROUP
    for start in range(0, protocol.extra_episodes, GROUP):
        extra += agent.play(min(GROUP, protocol.extra_episodes - start), first_extra + start, check=check)
    seconds = time.monotonic() - started

    median, best = episodes_to_film([e.score for e in scores])
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    films = {"median": (median, film(agent, scores, median, folder / "episode.mp4", check))}
    if best is None:
        (folder / "best.mp4").unlink(missing_ok=True)
    else:
        films["best"] = (best, film(agent, scores, best, folder / "best.mp4", check))
    write_values(folder, action_names(agent.task, agent.num_actions), films, digest)

    score, of, count = seed_score(protocol.score, run, scores, folder)
    evaluation = {
        "paper": run["paper"], "variant": run["variant"], "task": run["task"], "budget": run["budget"], "seed": run["seed"],
        "weights": protocol.weights, "weights_agent_step": run["result"]["best_agent_step"],
        "weights_sha256": digest, "protocol": asdict(protocol), "score": score, "score_of": {"kind": of, "episodes": count},
        "episodes": [e.as_row() for e in scores], "extra_episodes": [e.as_row() for e in extra],
        "video": {"episode": median, "score": scores[median].score},
        "best_video": None if best is None else {"episode": best, "score": scores[best].score}, "device": str(agent.device),
    }  # fmt: skip
    write_json(folder / "evaluation.json", evaluation)
    say(f"evaluation: mean score {evaluation['score']:.2f} over {len(scores)} episodes in {seconds:.0f} s")
    return evaluation


def episodes_to_film(scores: list[float]) -> tuple[int, int | None]:
    """The numbers of the median episode and of the best one; None for the latter where it is no better."""
    order = np.argsort(scores, kind="stable")
    median, best = int(order[(len(order) - 1) // 2]), int(np.argmax(scores))
    return median, best if scores[best] > scores[median] else None


def film(agent: Agent, played: list[Episode], number: int, path: Path, check=lambda: None) -> ActionValues:
    """Plays the group of an episode again, its camera on, and writes the whole episode as video; returns what the network said."""
    from common.evaluation.video import write_mp4

    group = number - number % GROUP
    size = min(GROUP, agent.protocol.episodes - group)
    filmed = agent.play(size, group, film=number, check=check)[number - group]
    if filmed.as_row() != played[number].as_row():
        raise RuntimeError(
            f"filming changed episode {number}: {filmed.as_row()} instead of {played[number].as_row()}"
        )
    write_mp4(path, filmed.screens, fps=FPS)
    return filmed.action_values


def seed_score(kind: str, run: dict, played: list[Episode], folder: Path) -> tuple[float, str, int | None]:
    """One seed's score as the paper defines it, what it is a mean of, and over how many episodes.

    kind: evaluation_mean, best_phase (whose episodes are not counted: None) or last_100_episodes of training. The last one is
    read from the run's episodes.csv, which UserError says when it cannot be; fewer than 100 may have ended. Without any, and
    without any phase that saw a game end, the score is the mean of the episodes played: evaluation_mean.
    """
    mean = float(np.mean([e.score for e in played])), "evaluation_mean", len(played)
    best = run["result"]["best_score"]
    if kind == "best_phase" and best is not None:
        return best, kind, None
    if kind != "last_100_episodes":
        return mean
    path = folder / "episodes.csv"
    try:
        with open(path, newline="") as file:
            scores = [float(row["score"]) for row in csv.DictReader(file)][-100:]
    except (OSError, KeyError, TypeError, ValueError) as problem:
        raise UserError(
            f"{path} cannot be read ({problem}); start the training again, it writes the file anew"
        ) from None
    if not scores:  # a smoke run of a game with long episodes
        say(f"no training episode ended: the score is the mean of the {len(played)} games just played")
        return mean
    return float(np.mean(scores)), kind, len(scores)


def replay_recorded(folder: Path, episodes: int = 10, device: str = "auto") -> dict:
    """Plays the first recorded episodes again from the recorded weights: how many come out identical, and both means."""
    folder = Path(folder)
    path = folder / "evaluation.json"
    try:
        recorded = json.loads(path.read_text())
        expected = recorded["episodes"][:episodes]
        if not expected or not all(
            isinstance(r[k], int | float) for r in expected for k in ("seed", "score", "length")
        ):
            raise ValueError("its episodes are not lists of seed, score and length")
        if not isinstance(recorded["weights_sha256"], str):
            raise ValueError("weights_sha256 is not text")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as problem:
        raise UserError(
            f"{path} cannot be used ({problem}); evaluate again: python -m common.runs.evaluate {folder}"
        ) from None
    make_deterministic(0, THREADS)
    agent = Agent(folder, device)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != recorded["weights_sha256"]:
        raise UserError(
            f"{folder / 'model.safetensors'} is not the file that {folder / 'evaluation.json'} was made with; restore both"
        )
    started = time.monotonic()
    group = min(GROUP, len(recorded["episodes"]))
    played = agent.play(max(group, len(expected)))[: len(expected)]
    same = sum(
        (e.seed, e.score, e.length) == (r["seed"], r["score"], r["length"])
        for e, r in zip(played, expected, strict=True)
    )
    return {
        "replayed": len(played), "identical": same,
        "recorded_mean": float(np.mean([r["score"] for r in expected])), "replayed_mean": float(np.mean([e.score for e in played])),
        "seconds": round(time.monotonic() - started, 1), "device": str(agent.device),
    }  # fmt: skip
