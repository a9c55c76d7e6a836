"""The final evaluation of a finished run, by the paper's protocol: writes evaluation.json and episode.mp4 into its folder.

./run python -m common.runs.evaluate results/dqn/pong/hour/seed1
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.errors import UserError, run_main
from common.evaluation.protocol import evaluate_run
from common.runs import tracking


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m common.runs.evaluate", description=__doc__.split("\n")[0]
    )
    parser.add_argument("run_dir", type=Path, help="a finished run, e.g. results/dqn/pong/hour/seed1")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    arguments = parser.parse_args()
    if (measures := arguments.run_dir / "measures.json").exists():
        raise UserError(
            f"{arguments.run_dir} is of a task with claims and needs no evaluation: {measures.name} holds what it measured"
        )
    tracking.mode()
    evaluate_run(arguments.run_dir, arguments.device)
    tracking.final(arguments.run_dir)


if __name__ == "__main__":
    run_main(main)
