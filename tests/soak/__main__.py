"""Let real nodes run for long while all kinds of things befall them; status 1 if a limit is broken.

python -m tests.soak --nodes 8 --rounds 1000      what `make soak` does: a fault every 30 s, then the same without any
python -m tests.soak --nodes 4 --seconds 60       a short one, for every change: a fault every 8 s

Nodes are processes on the loopback interface that train the digits task on a random graph of degree 4. One after the
other is killed, stopped for 5 s, sent away, or joined by a newcomer, as drawn from the seed; a hostile peer sends
damaged requests at 5 a second all the time. The first half of the nodes is never restarted: their descriptors and
threads are followed from the first rounds to the last. A short run is too short for the slope of memory and for a
comparison of accuracy; it goes without them.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryDirectory

from .limits import judged, table
from .session import Session, play


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    given = arguments()
    print(f"seed {given.seed}", flush=True)
    session = Session(nodes=given.nodes, seed=given.seed, rounds=given.rounds, every_s=given.every or 30.0)
    if not given.rounds:
        session = replace(session, seconds=given.seconds, every_s=given.every or 8.0, sample_s=1.0, local_steps=20)
    figures = _played(session)
    if given.rounds:
        calm = _played(replace(session, every_s=0.0))
        figures["accuracy_lost_points"] = 100 * (calm["accuracy"] - figures["accuracy"])
    verdict = judged(figures, short=not given.rounds)
    print(table(verdict))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(any(not figure.kept for figure in verdict))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=0, help="of every node that is never restarted")
    parser.add_argument("--seconds", type=float, default=60.0, help="where no rounds are given")
    parser.add_argument("--every", type=float, help="seconds between two faults, more than 6 (30; 8 in a short run)")
    parser.add_argument("--seed", type=int, default=SystemRandom().getrandbits(31))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write flat figures here")
    return parser.parse_args()


def _played(session: Session) -> dict[str, float]:
    with TemporaryDirectory(prefix="peermerge-soak-") as folder:
        return play(session, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
