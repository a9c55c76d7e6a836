"""Jobs that SLURM will never start are told of."""

from common.slurm import never


def test_only_pending_jobs_that_cannot_start_are_named():
    listing = (
        "7|gpu|PENDING|PartitionConfig|rule_train_wildcards_dqn_pong\n8|gpu|PENDING|Resources|a\n"
        "9|gpu|RUNNING|None|b\n10|gpu|PENDING|PartitionTimeLimit|\n"
    )
    found = never(listing)
    assert set(found) == {"7", "10"}
    assert (
        "job 7 (rule_train_wildcards_dqn_pong) in partition gpu will not start: PartitionConfig" in found["7"]
    )
    assert "more time than the partition allows" in found["10"]
    assert never("") == {}
