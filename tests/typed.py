"""Commands as a person types them, run in this process: starting a new one for each takes seconds."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest

from basinet.cli import main


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def basinet(*arguments: object) -> Done:
    """Run a command in this process: starting a new one for each takes seconds."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["basinet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return Done(ended.value.code if isinstance(ended.value.code, int) else 0, stdout.getvalue(), stderr.getvalue())
