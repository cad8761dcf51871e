"""The third engine: hypothesis, round after round of the properties and of the replica's state machine.

python -m tests.fuzz.generative --seed 1 --seconds 60

A counterexample is made small before it is told, and ends the process with another status.
"""

from __future__ import annotations

import argparse
import importlib
from itertools import count
from time import monotonic

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

EXAMPLES = 100
"""Examples of each property a round; of the state machine, runs of several steps, a tenth."""


def main() -> None:
    """Run whole rounds until the time is over; a round is a few seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    unhurried = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
    rounds = settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=unhurried, print_blob=True
    )
    settings.register_profile("rounds", rounds)
    settings.load_profile("rounds")
    # Properties take the profile that is loaded when they are defined.
    module = importlib.import_module(".test_properties", __package__)
    properties = [value for name, value in vars(module).items() if name.startswith("test_")]
    follower = importlib.import_module(".test_stateful", __package__).Follower

    end, done = monotonic() + given.seconds, 0
    for number in count(given.seed):
        for each in properties:
            seed(number)(each)()
        seed(number)(follower)
        run_state_machine_as_test(follower, settings=settings(rounds, max_examples=EXAMPLES // 10))
        done += EXAMPLES * len(properties) + EXAMPLES // 10
        if monotonic() > end:
            break
    print(f"{done} examples of {len(properties) + 1} properties")


if __name__ == "__main__":
    main()
