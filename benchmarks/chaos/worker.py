"""A worker that ends itself at a step: ``python -m benchmarks.chaos.worker STEP SIGNAL TIMES``.

It is ``crm-streams worker`` with settings from the environment, but for one thing: when the step
comes for the n-th time, of whatever partition, it sends the signal to itself.
"""

import os
import signal
import sys

from streams.settings import load_here
from streams.steps import Step
from streams.worker import Worker


def main() -> None:
    """Run until the step comes, or as any worker does."""
    step, number, times = Step(sys.argv[1]), signal.Signals(int(sys.argv[2])), int(sys.argv[3])
    seen = 0

    def strike(passed: Step, partition: int) -> None:
        nonlocal seen
        del partition
        seen += passed is step
        if passed is step and seen == times:
            os.kill(os.getpid(), number)

    Worker(load_here({}), on_step=strike).run()


if __name__ == "__main__":
    main()
