"""`python -m foundations.tssm COMMAND --flags`: see foundations/tssm/commands.py."""

from common.cli import run_main
from foundations.commands import run_command
from foundations.tssm.commands import COMMANDS

if __name__ == "__main__":
    run_main(lambda: run_command("foundations.tssm", COMMANDS))
