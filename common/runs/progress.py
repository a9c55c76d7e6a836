"""What a training has done so far, counted."""

from __future__ import annotations

from dataclasses import dataclass


def times_due(period: int, before: int, after: int) -> int:
    """How many multiples of `period` lie in (before, after]: what is due when a counter moves by more than one."""
    return after // period - before // period


@dataclass
class Progress:
    """All that is counted; part of every checkpoint. A script may add fields of its own in a subclass.

    agent_steps: decisions of all environments together. updates: steps of the optimiser. episodes: whole games that ended.
    target_copies: copies of the learning network into the target network. evaluations: evaluation phases.
    best_score, best_agent_step: of the best evaluation phase; None and 0 before the first.
    """

    agent_steps: int = 0
    updates: int = 0
    episodes: int = 0
    target_copies: int = 0
    evaluations: int = 0
    updates_logged: int = 0  # updates at the last row of the curve
    best_score: float | None = None
    best_agent_step: int = 0
    before: int = 0  # agent steps before the last `advance`

    def advance(self, agent_steps: int) -> None:
        """The environments are about to take this many agent steps, all together."""
        self.before, self.agent_steps = self.agent_steps, self.agent_steps + agent_steps

    def times_due(self, period: int) -> int:
        """How many multiples of `period` agent steps the last `advance` passed: 0 or 1 with one environment."""
        return times_due(period, self.before, self.agent_steps)

    def passed(self, step: int) -> bool:
        """True once: when the last `advance` reached this agent step."""
        return self.before < step <= self.agent_steps

    def keep_best(self, scores, network, best) -> None:
        """Copies `network` into `best` when this phase's mean score is above that of all phases before.

        scores: (episodes,) of the phase; one in which no game ended counts for nothing.
        """
        if len(scores) and (self.best_score is None or scores.mean() > self.best_score):
            self.best_score, self.best_agent_step = float(scores.mean()), self.agent_steps
            best.load_state_dict(network.state_dict())
