"""The verdict on claims, at each boundary."""

import math

import pytest

from common.evaluation.verdict import decide_claims, judge_claim

T3 = 4.302652729911275  # Student's quantile for three seeds


def claim(*values, at_least=None, at_most=None, factor=False, name="a"):
    return judge_claim(name, values, at_least, at_most, factor)


def test_a_claim_holds_by_its_whole_interval():
    half = T3 / math.sqrt(3)  # of 1, 2, 3
    assert claim(1, 2, 3, at_least=2 - half - 1e-9).key == "holds"
    assert claim(1, 2, 3, at_least=2 - half + 1e-9).key == "open"
    assert claim(1, 2, 3, at_least=2 + half - 1e-9).key == "open"
    assert claim(1, 2, 3, at_least=2 + half + 1e-9).key == "fails"
    assert claim(1, 2, 3, at_most=2 + half + 1e-9).key == "holds"
    assert claim(1, 2, 3, at_most=2 - half - 1e-9).key == "fails"
    assert claim(1, 2, 3, at_least=2 - half - 1e-9, at_most=2 + half - 1e-9).key == "open"
    assert claim(1, 2, 3, at_least=2 - half - 1e-9, at_most=2 + half + 1e-9).key == "holds"


def test_equal_values_and_one_seed_are_judged_by_the_value():
    assert claim(1.0, 1.0, 1.0, at_least=1).key == "holds"
    assert claim(1.0, 1.0, 1.0, at_most=0.999).key == "fails"
    assert claim(1.0, at_least=1).key == "holds"
    assert claim(0.999, at_least=1).key == "fails"


def test_a_ratio_is_judged_by_its_logarithm():
    found = claim(1, 10, 100, at_least=1, factor=True)
    assert found.score.mean == pytest.approx(10)
    half = math.log(10) * T3 / math.sqrt(3)
    assert found.score.low == pytest.approx(10 * math.exp(-half))
    assert found.score.high == pytest.approx(10 * math.exp(half))
    assert found.key == "open"
    assert claim(99, 100, 101, at_least=90, factor=True).key == "holds"
    with pytest.raises(ValueError, match="0 is no ratio"):
        claim(0, 1, at_least=1, factor=True)


HOLDS, FAILS = claim(2, 2, 2, at_least=1, name="h"), claim(0, 0, 0, at_least=1, name="f")
OPEN = claim(0, 1, 2, at_least=1, name="o")


def test_the_verdict_is_that_of_the_worst_claim():
    assert decide_claims([HOLDS, HOLDS], full=True).key == "replicated"
    assert decide_claims([HOLDS, OPEN], full=True).key == "undecided"
    found = decide_claims([HOLDS, OPEN, FAILS], full=True)
    assert (found.key, found.notes) == ("not_replicated", ("Fails: f.", "Open: o."))
    assert "1 of 3 claims hold over 3 seeds at the paper's own size" in found.sentence


def test_fewer_seeds_or_a_smaller_size_speak_of_the_run_only():
    two = claim(2, 2, at_least=1)
    assert decide_claims([two], full=True).key == "reached"
    assert "3 seeds or more." in decide_claims([two], full=True).notes[-1]
    assert decide_claims([HOLDS], full=False).key == "reached"
    assert "the paper's size" in decide_claims([HOLDS], full=False).notes[-1]
    assert decide_claims([HOLDS, OPEN], full=False).key == "too_short"
    assert decide_claims([two, claim(0, 0, at_least=1)], full=True).key == "not_reached"
    assert (
        decide_claims([HOLDS, claim(0, at_least=1)], full=True).key == "not_reached"
    )  # the fewest seeds count


def test_a_task_that_is_not_in_the_paper_has_a_size_of_its_own():
    judged = [judge_claim("a", [1.0, 1.0, 1.0], 1.0, None)]
    assert "at the paper's own size" in decide_claims(judged, full=True).sentence
    assert "at the task's own size" in decide_claims(judged, True, "the task").sentence
    assert "less than the task's size" in decide_claims(judged, False, "the task").sentence


def test_claims_are_told_in_words():
    found = decide_claims([claim(0, 0, 0, at_least=1), HOLDS], full=True, words={"a": "It grows."})
    assert found.notes[0] == "Fails: It grows."


def test_claims_without_chance_are_no_claims_over_seeds():
    fixed, random = claim(1, 1, 1, at_least=0), claim(1, 2, 3, at_least=-9)
    assert "nothing in them is random" in decide_claims([fixed, fixed], full=True).sentence
    assert "over 3 seeds" not in decide_claims([fixed], full=True).sentence
    both = decide_claims([fixed, random], full=True).sentence
    assert "one came out the same with every seed" in both
    assert "the same with every seed" not in decide_claims([random], full=True).sentence


def test_one_claim_says_and_holds():
    one = claim(5, at_least=0)
    assert "did what the claim says." in decide_claims([one], full=True).sentence
    assert "did not do what the claim says." in decide_claims([claim(-1, at_least=0)], full=True).sentence
    assert "did what all 2 claims say." in decide_claims([one, one], full=True).sentence
    assert decide_claims([HOLDS], full=True).sentence.startswith("The claim holds ")
