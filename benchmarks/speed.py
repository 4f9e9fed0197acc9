"""Run the speed scripts one after the other: python -m benchmarks.speed [NAME ...]  (`make bench`).

Each in a process of its own with one thread; its table goes to benchmarks/speed/NAME.json.  Leave the machine
alone meanwhile: CPU-seconds stand a busy machine, the columns of wall time do not.
"""

import os
import subprocess
import sys

from common.cli import run_main
from common.errors import UserError

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # read when numpy is imported
SCRIPTS = ("envs", "paper1_rollouts", "iris", "dreamer_update")


def main(argv: list[str] | None = None) -> None:
    names = (sys.argv[1:] if argv is None else argv) or SCRIPTS
    if unknown := [name for name in names if name not in SCRIPTS]:
        raise UserError(f"no speed script {unknown[0]!r}: choose from {', '.join(SCRIPTS)}")
    for name in names:
        print(f"== {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], env={**os.environ, **ONE_THREAD})
        if done.returncode:
            raise UserError(
                f"benchmarks.{name} failed (exit code {done.returncode}): its own words are above"
            )


if __name__ == "__main__":
    run_main(main)
