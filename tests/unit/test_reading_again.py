"""SIGHUP: the declared models of the configuration are read again, and the levels of logs."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from inferd.runtime.declaring import Declarations
from inferd.serving import Reading


class Declaring:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.declarations = Declarations("config.toml", (), Mock())
        self.given: list[Any] = []

    async def read_again(self, given: Any) -> None:
        self.given.append([each["name"] for each in given])


async def test_what_comes_together_is_read_once_and_what_cannot_be_read_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two signals at once read what is there now; a file that is no TOML or is wrong leaves all as it is."""
    config = tmp_path / "config.toml"
    monkeypatch.setenv("INFERD_CONFIG", str(config))
    declaring, lines = Declaring(), Mock()
    reading = Reading(declaring, lines)  # type: ignore[arg-type] # what it needs of one
    again = '[[models]]\nname = "b"\n[logs]\nlevel = "debug"\n'
    for text in ('[[models]]\nname = "a"\n', "[[models", "nosuch = 1", again):
        config.write_text(text, encoding="utf-8")
        reading.signalled()
        reading.signalled()
        await reading.done()
    assert declaring.given == [["a"], ["b"]]
    assert [call.args[0].level for call in lines.set_levels.call_args_list] == ["info", "debug"]
    await reading.end()
