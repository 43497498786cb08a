"""What `inferd http` tells once it serves."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from inferd.cli import http
from inferd.cli.http import tell
from inferd.cli.output import Format, Output
from inferd_api.v1.auth_pb2 import KEY_STATE_ACTIVE, Key
from inferd_client.credentials import write_credential
from inferd_client.errors import UnauthenticatedError

URL = "http://127.0.0.1:7413"


@pytest.mark.parametrize("keyless", [False, True])
def test_where_the_dashboard_is(*, keyless: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """People and programs are told the dashboard's address, without the key; where it is off, neither is."""
    for dashboard in (True, False):
        for form in (Format.TABLE, Format.JSON):
            tell(Output(form), URL, "unix:/a", Path("/a/http.key"), "", keyless=keyless, dashboard=dashboard)
            told = capsys.readouterr().out
            if form is Format.JSON:
                assert json.loads(told)["dashboard"] == (f"{URL}/dashboard/" if dashboard else None)
            else:
                assert (f"dashboard: {URL}/dashboard/\n" in told) == dashboard


@pytest.mark.parametrize("kept", [False, True])
def test_where_the_kernel_has_keys_a_command_puts_one_where_callers_read_it(
    *, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no key is made, the command that makes one is told whole; it takes a key that holds no more away first."""
    file = tmp_path / "a folder" / "http.key"
    if kept:
        file.parent.mkdir()
        write_credential(file, f"inferd_{'a' * 8}_{'b' * 43}")
    monkeypatch.setattr(http, "connected", lambda *_, **__: nullcontext(Keys()))
    monkeypatch.setattr(http, "credential_of", lambda _, path: path.read_text())
    credential, note = http.own_key(file, "")
    assert credential == ""
    make = f"inferd keys create me --role user --write '{file}'"
    assert note.endswith(f": rm '{file}' && {make}" if kept else f": {make}")


class Keys:
    """A kernel that has a key, and knows not the one that is kept."""

    def whoami(self) -> None:
        raise UnauthenticatedError("no such key")

    def list_keys(self) -> list[Key]:
        return [Key(state=KEY_STATE_ACTIVE)]
