"""How mistakes in the settings are told."""

from pathlib import Path

import pytest

from inferd.cli.output import CommandError
from inferd.cli.settings import read_settings
from inferd.config import Settings


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INFERD_CONFIG", "")  # restored afterwards, whatever the test makes of it
    return tmp_path / "config.toml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lisen = ['127.0.0.1:1']", "there is no setting 'lisen'; did you mean 'listen'?"),
        ("[limits]\nqueud_tasks = 5", "there is no setting 'limits.queud_tasks'; did you mean 'limits.queued_tasks'?"),
        ("[workers]\nzzz = 5", "there is no setting 'workers.zzz'; known are start_timeout_s"),
        ("[limits]\nqueued_tasks = 0", "'limits.queued_tasks' is 0: Input should be greater than or equal to 1"),
        ("[limits]\nqueued_tasks = 'x'", "'limits.queued_tasks' is 'x'"),
        ("listen = ", "is not TOML"),
    ],
)
def test_mistakes_name_the_setting(file: Path, text: str, said: str) -> None:
    """An unknown name is told with the nearest known one, a wrong value with its bound, a broken file as such."""
    file.write_text(text)
    with pytest.raises(CommandError) as caught:
        read_settings(config=file)
    assert said in caught.value.message
    assert caught.value.reason == "SETTINGS_INVALID"


def test_several_mistakes_are_several_lines(file: Path) -> None:
    """All mistakes are told at once."""
    file.write_text("a = 1\nb = 2")
    with pytest.raises(CommandError) as caught:
        read_settings(config=file)
    assert len(caught.value.message.splitlines()) == 3


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """A configuration that was named and is not there is an error, not the defaults."""
    with pytest.raises(CommandError, match="does not exist"):
        read_settings(config=tmp_path / "none.toml")


def test_a_list_in_the_environment_is_json(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is not JSON is told with the form that it must have."""
    monkeypatch.setenv("INFERD_CONFIG", str(file))
    monkeypatch.setenv("INFERD_LISTEN", "127.0.0.1:1")
    with pytest.raises(CommandError, match=r"written as JSON"):
        read_settings()


def test_the_command_line_wins(file: Path) -> None:
    """What is given wins over the file."""
    file.write_text("listen = ['127.0.0.1:1']\nplugin_timeout_s = 3")
    settings = read_settings(config=file, listen=("127.0.0.1:2",))
    assert settings.listen == ("127.0.0.1:2",)
    assert settings.plugin_timeout_s == 3


def test_a_tenant_meets_its_own_bound_of_streams_before_that_of_its_connection() -> None:
    """By default a client with too many streams is refused by name; the transport would only break calls off."""
    settings = Settings()
    assert settings.limits.concurrent_streams > settings.scheduler.tenant_streams
