import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.papers.units import TIME_UNITS, agent_steps_to_frames, convert, frames_to_agent_steps, plural

RATIOS = {"frames_per_agent_step": 4, "agent_steps_per_update": 4}


def test_the_nature_papers_length_in_all_three_units():
    assert convert(200_000_000, "frames", "agent steps", **RATIOS) == 50_000_000
    assert convert(50_000_000, "agent steps", "updates", **RATIOS) == 12_500_000
    assert convert(12_500_000, "updates", "frames", **RATIOS) == 200_000_000
    assert convert(18_000, "frames", "agent steps", **RATIOS) == 4_500
    assert isinstance(convert(18_000, "frames", "agent steps", **RATIOS), int)
    assert convert(6, "frames", "agent steps", **RATIOS) == 1.5  # never rounded silently


def test_updates_and_agent_steps_need_no_emulator():
    assert convert(10, "updates", "agent steps", agent_steps_per_update=4) == 40


@given(st.integers(1, 10**9), st.sampled_from(TIME_UNITS), st.sampled_from(TIME_UNITS))
def test_there_and_back(value, a, b):
    assert convert(convert(value, a, b, **RATIOS), b, a, **RATIOS) == value


def test_missing_ratio_and_foreign_unit_are_errors():
    with pytest.raises(ValueError, match="agent_steps_per_update"):
        convert(1, "updates", "frames", frames_per_agent_step=4)
    with pytest.raises(
        ValueError, match="'games' is not a unit of time; there are: frames, agent steps, updates"
    ):
        convert(1, "games", "frames", **RATIOS)


def test_whole_steps_only():
    assert frames_to_agent_steps(1003, 4) == 250
    assert agent_steps_to_frames(250, 4) == 1000
    assert plural(200_000_000, "frames") == "200M frames"
    assert plural(2500, "updates") == "2.5k updates"
