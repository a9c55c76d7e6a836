"""Each rule of the verdict at its boundary."""

import pytest

from common.evaluation.verdict import WORDS, Published, decide, score_alone, score_in_words, state

FULL = 200_000_000


def judge(scores, published=100.0, *, stdev=None, n=None, random=0.0, human=200.0, frames=FULL, **more):
    row = None if published is None else Published(published, stdev, n)
    lengths = [frames] * len(scores) if isinstance(frames, int) else frames
    return decide(
        scores, published=row, random=random, human=human, frames=lengths, paper_frames=FULL, **more
    )


def test_three_equal_seeds_at_the_line():
    assert judge([90.0, 90.0, 90.0]).key == "replicated"  # the interval lies at 0.9
    assert judge([89.9, 89.9, 89.9]).key == "not_replicated"


def test_full_length_verdicts_follow_the_interval_not_the_point():
    # t(df 2) = 4.3027: half-width 4.3027 * sd / sqrt(3)
    assert judge([99.0, 100.0, 101.0]).key == "replicated"  # 97.5 to 102.5
    assert judge([94.0, 95.0, 96.0]).key == "replicated"  # 92.5 to 97.5
    assert judge([91.0, 92.0, 93.0]).key == "undecided"  # 89.5 to 94.5
    assert judge([87.0, 88.0, 89.0]).key == "undecided"  # 85.5 to 90.5
    assert judge([86.0, 87.0, 88.0]).key == "not_replicated"  # 84.5 to 89.5
    g = judge([94.0, 95.0, 96.0]).g
    assert (g.low, g.high) == (pytest.approx(0.925159, abs=1e-5), pytest.approx(0.974841, abs=1e-5))


def test_margins_are_over_random_play():
    """Pong: 39.6 points between random play at -20.7 and the published 18.9; nine tenths of them end at 14.94."""

    def pong(score):
        return judge([score] * 3, published=18.9, random=-20.7, human=9.3)

    assert pong(14.95).key == "replicated"
    assert pong(14.93).key == "not_replicated"
    assert pong(-20.7).g.value == 0
    assert pong(9.3).normalised.value == pytest.approx(1)
    assert "less than 5 %" in judge([0.0], published=-50.0).sentence  # below random play: a margin has a sign


def test_the_published_error_can_turn_replicated_into_undecided():
    assert judge([92.0, 93.0, 93.0, 94.0]).key == "replicated"
    verdict = judge([92.0, 93.0, 93.0, 94.0], stdev=20.0, n=30)
    assert verdict.key == "undecided"
    assert not any("unknown" in note for note in verdict.notes)
    unknown_n = judge([92.0, 93.0, 93.0, 94.0], stdev=20.0)
    assert unknown_n.key == "replicated"
    assert any("unknown" in note for note in unknown_n.notes)


def test_fewer_seeds_or_frames_speak_of_the_run_only():
    assert judge([90.0]).key == "reached"
    assert judge([89.999]).key == "not_reached"
    assert judge([90.0, 90.0]).key == "reached"
    assert judge([100.0] * 3, frames=[FULL, FULL, FULL - 4]).key == "reached"  # the shortest seed counts
    assert judge([100.0] * 3, frames=[FULL + 4] * 3).key == "replicated"
    one = judge([-5.0], frames=2_000_000)
    assert one.fraction == 0.01
    said = "After 1.0 % of the paper's training this agent scores \u22125.0; the paper reports 100, random play 0."
    assert (one.key, one.colour, one.sentence) == ("too_short", "short", said)
    assert one.g.low is None
    assert "After the paper's full training this agent" in judge([90.0]).sentence
    note = " ".join(one.notes)
    assert "3 seeds or more" in note
    assert "the paper's length" in note
    assert "the paper's length" not in " ".join(judge([90.0]).notes)


def test_below_half_the_papers_length_nothing_counts_as_not_reached():
    assert judge([50.0], frames=FULL // 2).key == "not_reached"
    assert judge([50.0] * 3, frames=FULL // 2 - 1).key == "too_short"
    assert judge([90.0], frames=FULL // 100).key == "reached"
    sentence = judge([50.0, 52.0, 54.0], frames=FULL // 2 - 1).sentence
    assert "these 3 agents score 52 ± 5; the paper reports 100, random play 0." in sentence


def test_no_interval_leaves_what_can_be():
    pong = judge([20.0, 21.0, 21.0], published=18.9, random=-20.7, bounds=(-21.0, 21.0))
    assert (pong.score.method, pong.score.low >= 20.0, pong.score.high <= 21.0) == ("bootstrap", True, True)
    assert pong.g.high == pytest.approx((21 + 20.7) / (18.9 + 20.7))
    assert "score 20.7 (seeds 20.0, 21.0, 21.0)" in pong.sentence
    inside = judge([1.0, 2.0, 3.0], published=18.9, random=-20.7, bounds=(-21.0, 21.0))
    assert inside.score.method == "Student"
    equal = judge([21.0] * 3, published=18.9, random=-20.7, bounds=(-21.0, 21.0))
    assert "21.0 in each seed" in equal.sentence
    assert "±" not in equal.sentence
    assert score_alone(equal.score) == "21.0"
    assert score_alone(inside.score) == "2.0"
    assert score_alone(pong.score) == "20.7"


def test_unknown_paper_length_is_never_full():
    verdict = decide([100.0] * 5, published=Published(100.0), random=0.0, human=None, frames=[FULL] * 5)
    assert (verdict.key, verdict.fraction) == ("reached", None)


def test_fewer_evaluation_episodes_than_the_protocol():
    assert judge([100.0] * 3, episodes=29, protocol_episodes=30).key == "reached"
    assert judge([100.0] * 3, episodes=30, protocol_episodes=30).key == "replicated"


def test_far_above():
    assert not any("Far above" in note for note in judge([150.0] * 3).notes)
    for scores in ([150.1] * 3, [151.0]):
        assert any(note.startswith("Far above: check the protocol") for note in judge(scores).notes)


def test_not_testable_by_the_human_margin():
    # 5 % of a human margin of 200 is 10
    assert judge([100.0] * 3, published=9.99).key == "not_testable"
    assert judge([100.0] * 3, published=10.0).key == "replicated"
    assert judge([0.0], published=0.0, human=4753.3).key == "not_testable"  # Montezuma's Revenge
    assert judge([0.0], published=-50.0).key == "not_testable"  # below random play
    assert judge([0.0], published=50.0, random=100.0, human=None).key == "not_testable"
    assert judge([0.0], published=50.0, human=None).key == "not_reached"


def test_not_testable_by_the_published_error():
    # standard error 30 / sqrt(9) = 10; twice that is 20
    assert judge([100.0] * 3, published=20.0, stdev=30.0, n=9).key == "not_testable"
    assert judge([100.0] * 3, published=20.1, stdev=30.0, n=9).key != "not_testable"
    assert (
        judge([100.0] * 3, published=20.0, stdev=30.0).key == "replicated"
    )  # n unknown: no error to compare with
    assert judge([5.0]).score.mean == 5.0
    assert judge([0.0], published=0.0).score.mean == 0.0  # the score is still shown


def test_no_published_counts_our_own_bar():
    verdict = decide(
        [475.0, 500.0, 474.9, 500.0, 500.0],
        published=None,
        random=None,
        bar=475,
        published_reason="not in the paper.",
    )
    assert (verdict.key, verdict.bar_reached, verdict.g) == ("no_published", (4, 5), None)
    assert "4 of 5 reach 475, a bar of our own (95 % interval of that share: 28 to 99 %)" in verdict.sentence
    assert "(not in the paper)" in verdict.sentence
    one = decide([474.0], published=None, random=None, bar=475)
    assert "This agent scores 474.0 and does not reach 475, a bar of our own." in one.sentence
    assert decide([1.0], published=None, random=None).key == "no_published"


def test_no_random_score_is_not_testable():
    assert decide([1.0], published=Published(2.0), random=None).key == "not_testable"


def test_human_normalised_value():
    assert judge([50.0, 50.0]).normalised.value == 0.25
    assert judge([50.0], human=None).normalised is None


def test_every_key_has_a_word_and_states_carry_no_scores():
    assert set(WORDS) == {
        "replicated", "not_replicated", "undecided", "reached", "not_reached", "too_short", "not_testable",
        "no_published",        "own_settings", "not_averaged", "in_progress", "failed", "nothing_yet", "damaged",
    }  # fmt: skip
    verdict = state("nothing_yet", "x", ["y"])
    assert (verdict.key, verdict.score, verdict.notes) == ("nothing_yet", None, ("y",))
    assert score_in_words(judge([18.0, 19.0, 20.0]).score) == "19 ± 2"


def test_bad_scores_are_refused():
    for bad in ([], [float("nan")]):
        with pytest.raises(ValueError, match="seed scores"):
            judge(bad)


def test_a_number_of_another_paper_is_called_so():
    scores = {"scores": [-19.8], "random": -20.7, "frames": [2_400_000], "paper_frames": 320_000_000}
    whose = decide(published=Published(7.0, 19.0, 3, by="Others 2018, column A3C"), **scores)
    assert "the published score of Others 2018, column A3C is 7, random play" in whose.sentence
    assert "the paper reports" not in whose.sentence
    assert "the paper reports 7, random play" in decide(published=Published(7.0, 19.0, 3), **scores).sentence
    long = {
        "published": Published(100.0, by="Others 2018"),
        "random": 0.0,
        "frames": [FULL] * 3,
        "paper_frames": FULL,
    }
    for means, said in (
        ([10.0, 11.0, 12.0], "Others 2018 was not replicated"),
        ([98.0, 99.0, 100.0], "Others 2018 holds"),
    ):
        told = decide(means, **long).sentence
        assert (
            f"The published score of {said}. After a training of the length of the scores compared with,"
            in told
        )
        assert "the paper" not in told
    assert (
        "the length of the scores compared with."
        in decide([10.0], **{**long, "frames": [FULL // 4]}).notes[-1]
    )


def test_only_an_interval_is_said_to_carry_our_error_alone():
    printed = {"published": Published(100.0), "random": 0.0, "frames": [FULL] * 3, "paper_frames": FULL}
    one, three = (" ".join(decide(scores, **printed).notes) for scores in ([50.0], [50.0, 51.0, 52.0]))
    assert "is not printed (unknown)." in one
    assert "is not printed (unknown), so the interval carries only ours." in three
