"""`inferd train` where it is left by who waits for it."""

from collections.abc import Iterator
from typing import Any

import pytest

from inferd.cli import trainings
from inferd.cli.output import Format, Output
from inferd_api.v1 import training_pb2 as tp


class Left:
    """A client whose user presses Ctrl-C as it follows a training."""

    def watch_training(self, training_id: str) -> Iterator[Any]:
        yield tp.Training(training_id=training_id)
        raise KeyboardInterrupt


def test_who_leaves_a_training_is_told_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends the command only, which tells so, and how the training is followed and ended."""
    left: Any = Left()
    with pytest.raises(KeyboardInterrupt):
        trainings._follow(Output(Format.TABLE), left, "abc")
    told = capsys.readouterr()
    assert not told.out
    assert "training abc goes on" in told.err
    assert "inferd trainings watch abc" in told.err
    assert "inferd trainings cancel abc" in told.err
