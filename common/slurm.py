"""What SLURM says of jobs that will never start: Snakemake waits for them in silence."""

from __future__ import annotations

import subprocess
import threading

from common.say import say_aside

EVERY = 20  # seconds
# Reasons of squeue(1) that no waiting mends
IMPOSSIBLE = {
    "PartitionConfig": "no node of the partition has what it asks for",
    "PartitionNodeLimit": "it asks for more nodes, or nodes with more, than the partition allows",
    "PartitionTimeLimit": "it asks for more time than the partition allows",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "BadConstraints": "no node meets its constraints",
    "AccountNotAllowed": "its account may not use the partition",
    "InvalidAccount": "its account is unknown",
    "InvalidQOS": "its quality of service is unknown",
    "QOSNotAllowed": "its quality of service may not use the partition",
}


def never(listing: str) -> dict[str, str]:
    """Job -> words, of the pending jobs in `squeue`'s lines JOB|PARTITION|STATE|REASON|COMMENT that cannot start."""
    found = {}
    for line in listing.splitlines():
        job, partition, state, reason, comment = (line.split("|", 4) + [""] * 5)[:5]
        if state != "PENDING" or reason not in IMPOSSIBLE:
            continue
        found[job] = (
            f"SLURM job {job} ({comment or 'no comment'}) in partition {partition} will not start: {reason}, {IMPOSSIBLE[reason]}. "
            f"See `scontrol show job {job}` and `scontrol show partition {partition}`; partitions, longest_job and what jobs "
            f"may ask for are set in profiles/slurm; `scancel {job}` ends it"
        )
    return found


def watch() -> threading.Thread:
    """Tells of each such job once, for as long as this process lives."""
    thread = threading.Thread(target=_keep_looking, daemon=True)
    thread.start()
    return thread


def _keep_looking() -> None:
    told: set[str] = set()
    command = ["squeue", "--me", "--noheader", "--format", "%i|%P|%T|%r|%k"]
    while True:
        try:
            listing = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            listing = ""  # the controller is away for a moment; Snakemake waits for it too
        for job, words in never(listing).items():
            if job not in told:
                told.add(job)
                say_aside(words)
        threading.Event().wait(EVERY)
