"""How mistakes in the settings are told."""

from pathlib import Path

import pytest

from inferd.cli.output import CommandError
from inferd.cli.settings import read_settings
from inferd.config import Settings
from inferd.testing.extremes import most_of_each_float


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INFERD_CONFIG", "")  # restored afterwards, whatever the test makes of it
    return tmp_path / "config.toml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lisen = ['127.0.0.1:1']", "there is no setting 'lisen'; did you mean 'listen'?"),
        ("[limits]\nqueud_tasks = 5", "there is no setting 'limits.queud_tasks'; did you mean 'limits.queued_tasks'?"),
        ("[workers]\nzzz = 5", "there is no setting 'workers.zzz'; known are "),
        ("[limits]\nqueued_tasks = 0", "'limits.queued_tasks' is 0: Input should be greater than or equal to 1"),
        ("[limits]\nqueued_tasks = 'x'", "'limits.queued_tasks' is 'x'"),
        ("[store]\nurl = 'kernel.sqlite'", "'store.url'"),
        ("[store]\nurl = 'mysql://h/d'", "names no store that there is; write sqlite:/var/lib/inferd/kernel.sqlite"),
        ("[store]\nurl = 'sqlite:kept'", "its absolute path, as sqlite:/var/lib/inferd/kernel.sqlite"),
        ("[[quotas]]\nmodle = 'a'\ntasks = 1", "did you mean 'quotas.0.models'?"),
        ("[[moderation.rules]]\nname = 'a'\nwordz = ['a']", "did you mean 'moderation.rules.0.words'?"),
        ("[tls]\ncert_file = '/c'", ": cert_file and key_file belong together"),
        ("[standby]\nlook_s = 2.0", "look_s is 2 and silence_s is 2.5: "),
        ("[standby]\nbeat_s = 1.0", "silence_s is 2.5 and beat_s is 1: "),
        ("listen = ", "is not TOML"),
    ],
)
def test_mistakes_name_the_setting(file: Path, text: str, said: str) -> None:
    """An unknown name is told with the nearest known one, a wrong value with its bound, a broken file as such."""
    file.write_text(text)
    with pytest.raises(CommandError) as caught:
        read_settings(config=file)
    assert said in caught.value.message
    assert "Value error" not in caught.value.message
    assert caught.value.reason == "SETTINGS_INVALID"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("INFERD_STORE__URL", "postgres:/u:s3cret@h/d"),
        ("INFERD_STORE__URL", "mysql://u:s3cret@h/d"),
        ("INFERD_STORE__URL", "s3cret"),
        ("INFERD_STORE", '"postgresql://u:s3cret@h/d"'),
        ("INFERD_STORE__RETENTION_S", "postgresql://u:s3c@ret@h/d?password=s3cret"),
        ("INFERD_STORE_URL", "postgresql://u:s3cret@h/d"),
    ],
)
def test_a_mistake_in_a_url_tells_no_password(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """A URL of a store that is wrong, or stands in a wrong place, is told without what may be its password."""
    monkeypatch.setenv("INFERD_CONFIG", str(file))
    monkeypatch.setenv(variable, value)
    with pytest.raises(CommandError, match="store") as caught:
        read_settings()
    assert "s3c" not in caught.value.message
    assert "ret@" not in caught.value.message


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


def test_a_list_in_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list in a variable is one text, several between commas, or JSON; broken JSON is told with the variable."""
    monkeypatch.setenv("INFERD_CONFIG", str(file))
    for text in ("unix:/x,127.0.0.1:1", '["unix:/x", "127.0.0.1:1"]'):
        monkeypatch.setenv("INFERD_LISTEN", text)
        assert read_settings().listen == ("unix:/x", "127.0.0.1:1")
    monkeypatch.setenv("INFERD_LISTEN", "unix:/x")
    assert read_settings().listen == ("unix:/x",)
    monkeypatch.setenv("INFERD_LISTEN", '["x"')
    with pytest.raises(CommandError, match=r"INFERD_LISTEN cannot be read.*written as a,b or as JSON"):
        read_settings()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("INFERD_FOO", "1", r"no setting 'foo' \(INFERD_FOO\); known are listen"),
        ("INFERD_LIMITZ", "3", r"\(INFERD_LIMITZ\); did you mean 'INFERD_LIMITS'"),
        ("INFERD_LIMTS__X", "3", r"\(INFERD_LIMTS__X\); did you mean 'INFERD_LIMITS'"),
        ("INFERD_LIMITS__QUEUD_TASKS", "3", "did you mean 'INFERD_LIMITS__QUEUED_TASKS'"),
        ("INFERD_QUEUED_TASKS", "3", "did you mean 'INFERD_LIMITS__QUEUED_TASKS'"),
        ("INFERD_ADRESS", "x", "did you mean 'INFERD_ADDRESS'"),
        ("INFERD_LIMITS__QUEUED_TASKS", "x", r"\(INFERD_LIMITS__QUEUED_TASKS\) is 'x'"),
        ("INFERD_LIMITS", "3", r"'limits' \(INFERD_LIMITS\) is 3"),
    ],
)
def test_unknown_variables(file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    """A variable that stands for no setting is an error that names it and the nearest one, as a wrong value is."""
    monkeypatch.setenv("INFERD_CONFIG", str(file))
    monkeypatch.setenv("INFERD_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("INFERD_LEASE", "x")
    assert read_settings()
    monkeypatch.setenv(variable, value)
    with pytest.raises(CommandError, match=said):
        read_settings()


def test_no_number_is_without_bounds(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting that is a fraction has a largest value; infinity and no number at all are refused by name."""
    monkeypatch.setenv("INFERD_CONFIG", str(file))
    most = most_of_each_float()
    for path, bound in most.items():
        group, _, name = path.rpartition(".")
        longer = {"standby": f"silence_s = {most['standby.silence_s']!r}\n"} if name != "silence_s" else {}
        for value in ("inf", "nan", "1e300"):
            file.write_text(f"[{group}]\n{name} = {value}" if group else f"{name} = {value}")
            with pytest.raises(CommandError, match=f"'{path}' is {value.replace('1e300', '1e[+]300')}"):
                read_settings()
        beside = longer.get(group, "")  # it bounds the others of its group
        file.write_text(f"[{group}]\n{beside}{name} = {bound!r}" if group else f"{name} = {bound!r}")
        assert read_settings()


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
