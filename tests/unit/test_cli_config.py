"""`inferd config`: where each setting came from, and that no secret is shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from inferd.cli import configuration
from inferd.cli.main import app
from inferd.config import Settings

TEXT = """# a comment
listen = [
  "127.0.0.1:7411",
  # [limits] in an array is none
]
drain_s = 7.0

[limits]
tasks = 50
[store]
url = "postgresql://u:s3cret@h/d"
key_command = ["pass", "s3cret"]
[hosts]
labels = {zone = "a"}

[[quotas]]
tenants = "a*"
tasks = 5

[limits.nothing]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INFERD_CONFIG", "")  # restored afterwards, whatever the test makes of it
    monkeypatch.delenv("INFERD_STORE__KEY_FILE", raising=False)
    path = tmp_path / "config.toml"
    path.write_text(TEXT.replace("[limits.nothing]", ""))
    return path


def shown(*arguments: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["config", *arguments, "-o", "json"])
    assert done.exit_code == code, done.output
    assert "s3cret" not in done.output
    return json.loads(done.output)


def test_each_value_is_told_with_its_origin(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags go before variables, these before the file, whose line is the one where the value begins."""
    monkeypatch.setenv("INFERD_LIMITS__TASKS", "51")
    monkeypatch.setenv("INFERD_LIMITS", '{"models": 7}')
    told = shown("show", "--changed", "--config", str(file), "--listen", "127.0.0.1:1")["settings"]
    origins = {each["name"]: (each["value"], each["origin"]) for each in told}
    place = str(file)
    assert origins["listen"] == (["127.0.0.1:1"], {"kind": "flag", "place": "--listen"})
    assert origins["limits.tasks"] == (51, {"kind": "environment", "place": "INFERD_LIMITS__TASKS"})
    assert origins["limits.models"] == (7, {"kind": "environment", "place": "INFERD_LIMITS"})
    assert origins["drain_s"] == (7.0, {"kind": "file", "place": place, "line": 6})
    assert origins["store.url"] == ("postgresql://u:***@h/d", {"kind": "file", "place": place, "line": 11})
    assert origins["store.key_command"][0] == ["pass", "***"]
    assert origins["hosts.labels"][1]["line"] == 14
    assert origins["quotas"][1]["line"] == 16
    assert len(origins) == 8


def test_lines_are_those_of_the_keys(file: Path) -> None:
    """A value over several lines begins at its first one, and a bracket in it begins no table."""
    lines = configuration.lines_of(file)
    assert lines["listen",] == 2
    assert lines["limits", "tasks"] == 9
    file.write_text("a = 1\n" * (configuration.MOST_LINES + 1))
    assert configuration.lines_of(file) == {}


def test_all_settings_are_told_by_name_or_group(file: Path) -> None:
    """Without a name all are, by a group's what is in it; one that is none is told with the command to type next."""
    told = shown("show", "--config", str(file))["settings"]
    assert [each["name"] for each in told] == [each.name for each in configuration.all_settings()]
    assert {each.path[0] for each in configuration.all_settings()} == set(Settings.model_fields)
    assert all(each["description"] for each in told if each["name"] != "quotas.nothing")
    assert {each["name"] for each in shown("show", "store.postgres")["settings"]} > {"store.postgres.schema_name"}
    error = shown("show", "limts.tasks", code=1)["error"]
    assert error["message"].endswith("inferd config show limits.tasks")


def test_a_check_names_each_mistake(file: Path) -> None:
    """A file that is right is said to be, with how much it changes; a wrong one is an error with the field."""
    assert shown("check", "--config", str(file)) == {"file": str(file), "exists": True, "changed": 7}
    file.write_text(TEXT)
    assert "'limits.nothing'" in shown("check", "--config", str(file), code=1)["error"]["message"]
