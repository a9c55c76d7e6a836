"""What a setting may be: one table, by the name of the field, for the `Config` of every script.

A name says one thing in all papers, so it has one range; where a paper means something else by it, the key is "paper.name".
`check` is called once all layers of settings are known (common/papers/settings.py), before anything takes time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from common.errors import UserError

LARGEST = 10**12  # of whatever has no limit of its own


class Range(NamedTuple):
    """least <= x <= most, or more than `least`, or less than `most`."""

    least: float = -LARGEST
    most: float = LARGEST
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        return (self.least < value if self.above else self.least <= value) and (
            value < self.most if self.below else value <= self.most
        )

    def in_words(self) -> str:
        low = f"more than {self.least:,}" if self.above else f"{self.least:,} or more"
        high = f"less than {self.most:,}" if self.below else f"at most {self.most:,}"
        if self.most == LARGEST:
            return "a finite number" if self.least == -LARGEST else low
        return f"{low}, {high}" if self.above or self.below else f"from {self.least:,} to {self.most:,}"


COUNT, FROM_0, POSITIVE = Range(1), Range(0), Range(0, above=True)
SHARE, DECAY, FINITE = Range(0, 1), Range(0, 1, below=True), Range()

_TABLE = (
    # --- lengths and periods: agent steps, frames, updates, games ---
    (COUNT, "training_steps evaluation_period evaluation_steps log_period target_period update_period replay_start"),
    (COUNT, "final_exploration_step max_frames rollout rollout_steps epochs most_steps updates most_updates"),
    (FROM_0, "q_learning.most_steps"),  # 0: no limit
    (COUNT, "games games_per_checkpoint updates_per_checkpoint window fewest_games gate_games"),
    (FROM_0, "longest_game temperature_moves opening_moves test_games"),
    # --- sizes ---
    (COUNT, "batch_size minibatch_size replay_capacity held_out_states hidden_units stream_units"),
    (COUNT, "blocks filters value_units simulations test_simulations games_at_once"),
    (Range(2), "ddpg.batch_size"),  # batch normalisation needs a variance
    (Range(1, 4096), "num_envs"),
    (Range(1, 1024), "workers"),
    (Range(1, 255), "stack n_step history frame_skip"),
    (Range(0, 10_000), "noop_max"),
    (Range(2, 19), "board"),
    (Range(2, 10_000), "atoms"),
    # --- the learning rule ---
    (SHARE, "discount gae_lambda target_rate constant_step"),
    (SHARE, "first_right floor value_step_size baseline_step_size"),
    (DECAY, "baseline_decay"),
    (Range(0, 1, above=True, below=True), "decay probability"),
    (Range(1000), "draws"),
    (POSITIVE, "spread"),
    (Range(0.5, 1, above=True), "exponent"),
    (Range(1, 1000), "pictures"),
    (POSITIVE, "actor_learning_rate critic_learning_rate"),
    (POSITIVE, "learning_rate error_clip reward_clip gradient_clip max_gradient_norm clip kl_target observation_clip"),
    (POSITIVE, "value_gradient q_gradient c_puct noise_alpha final_layer_bound"),
    (FROM_0, "ppo.reward_clip gradient_norm_clip"),  # 0: no clipping
    (FROM_0, "entropy_coefficient entropy_weight value_coefficient kl_coefficient l2 noisy_sigma first_mean_square"),
    (FROM_0, "weight_decay"),
    (FINITE, "value_min value_max komi"),
    # --- optimisers ---
    (DECAY, "gradient_momentum squared_gradient_momentum squared_gradient_decay momentum adam_beta1 adam_beta2"),
    (POSITIVE, "min_squared_gradient adam_epsilon actor_learning_rate critic_learning_rate final_layer_bound"),
    (Range(0, 1, above=True), "target_rate"),
    (FROM_0, "weight_decay"),
    # --- exploration, priorities, resignation ---
    (SHARE, "initial_exploration final_exploration evaluation_epsilon look_exploration epsilon"),
    (SHARE, "importance_exponent noise_weight played_out false_resignations gate_share"),
    (FROM_0, "noise_theta noise_sigma"),
    (POSITIVE, "noise_step"),
    (Range(0, 10), "priority_exponent rank_alpha proportional_alpha"),
    (FROM_0, "priority_floor priority_offset noise_theta noise_sigma"),
    (POSITIVE, "noise_step"),
    # --- laptop tasks ---
    (COUNT, "vertical horizontal fewest_actions more_actions most_actions grid_points"),
    (COUNT, "theorem_1_draws theorem_2_repetitions repetitions runs steps long_steps plays many_plays"),
    (Range(2, 10), "fitted_actions"),
    (Range(2), "fewest_states most_states arms few_arms many_arms"),
    (COUNT, "tail episodes interim_episodes asymptotic_episodes asymptotic_runs actions other_runs lake_updates"),
    (Range(2, 10_000), "few_actions many_actions"),
    (FROM_0, "asymptotic_skipped deviation noise tail"),
    (SHARE, "success lake_discount constant tdc_step_size tdc_second_step_size emphatic_step_size"),
    (POSITIVE, "step_size tolerance epsilon_c small_gradient_step large_gradient_step"),
    (FROM_0, "initial_scale confidence drift"),
    (SHARE, "small_epsilon large_epsilon best wide_gap narrow_gap"),
    (FINITE, "optimistic_value gradient_mean mean weight"),
)  # fmt: skip

RANGES: dict[str, Range] = {name: allowed for allowed, names in _TABLE for name in names.split()}

# Of two settings: the first may be the second at most (or must be below it)
ORDERED = (
    ("value_min", "value_max", True),
    ("frame_skip", "max_frames", False),
    ("fewest_states", "most_states", False),
    ("fewest_actions", "more_actions", False),
    ("more_actions", "most_actions", False),
)  # fmt: skip

LARGEST_SEED = 2**32 - 1  # what every generator takes


def range_of(paper: str, name: str) -> Range:
    """Of a name that the table lacks: any finite number."""
    return RANGES.get(f"{paper}.{name}") or RANGES.get(name, FINITE)


def check(paper: str, settings: Mapping[str, Any], where: Callable[[str], str]) -> None:
    """UserError for the first setting that is out of its range. where: what a setting of this name comes from."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        allowed = range_of(paper, name)
        if not allowed.holds(value):
            largest = f", at most {LARGEST:,}" if value > LARGEST else ""
            raise UserError(f"{where(name)}.{name}: {value} is not allowed; {allowed.in_words()}{largest}")
    for low, high, below in ORDERED:
        if low in settings and high in settings:
            a, b = settings[low], settings[high]
            if a > b or (below and a == b):
                than = "less than" if below else "at most"
                raise UserError(f"{where(low)}.{low}: {a} is not allowed; {than} {high}, which is {b}")
    # A first minibatch is drawn as soon as this many steps are over: some transition must be whole by then
    least = (settings.get("n_step", 1) - 1) * settings.get("num_envs", 1) + 1
    if (start := settings.get("replay_start", least)) < least:
        raise UserError(
            f"{where('replay_start')}.replay_start: {start} is not allowed; {least} or more, with n_step {settings['n_step']}"
        )


def check_seed(seed: int) -> None:
    """UserError for a seed that not every generator takes, or that no page asks for: they start at 1."""
    if not 1 <= seed <= LARGEST_SEED:
        raise UserError(f"seed {seed} is not allowed; a whole number from 1 to {LARGEST_SEED:,}")
