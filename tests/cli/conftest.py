"""What the command line's tests share: the command, called in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from halfulp.cli.main import run


class Outcome(NamedTuple):
    """Exit code, and what was printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a failed command says."""
        lines = self.err.splitlines()
        assert self.code != 0, self
        assert len(lines) == 1, self
        assert lines[0].startswith("halfulp: "), self
        return lines[0].removeprefix("halfulp: ")


@pytest.fixture
def halfulp(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run the command with these arguments."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Outcome:
        code = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Outcome(code, str(printed.out), str(printed.err))

    return call
