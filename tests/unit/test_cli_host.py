"""What the command of an agent says, and where."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from inferd.cli import host
from inferd.cli.hosts import drain
from inferd.cli.output import CommandError, Format, Output
from inferd.config import Settings
from inferd.log_lines import LogLines
from inferd_api.v1 import host_pb2 as hp
from inferd_client.absence import nobody
from inferd_client.errors import UnauthenticatedError


class RefusedAgent:
    """An agent that no kernel knows."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    async def run(self, _: asyncio.Event) -> None:
        raise UnauthenticatedError("this call needs a login")


def test_an_agent_logs_as_a_kernel_does_and_says_how_it_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines stay those of people once it serves; without a credential it says where that is looked for."""

    async def here(_: Settings) -> Any:
        return SimpleNamespace(facts=lambda *_: None)

    installed = list[Any]()
    monkeypatch.setattr(host, "Found", SimpleNamespace(here=here))
    monkeypatch.setattr(host, "Agent", RefusedAgent)
    monkeypatch.setattr(host, "set_up_logs", lambda: None)
    monkeypatch.setattr(host, "forbid_cores", lambda: None)
    monkeypatch.setattr("inferd.cli.host.descriptors.raise_limit", lambda: None)
    monkeypatch.setattr("inferd.cli.host.logs.install", lambda *, write: installed.append(write))
    settings = Settings(state_dir=tmp_path / "state", data_dir=tmp_path / "data")
    with pytest.raises(CommandError) as told:
        host.serve_host(Output(Format.TABLE), settings, ["127.0.0.1:9"], name="b", labels={}, token_file=None)
    assert installed == [LogLines.write]
    assert f"host 'b' has no credential in {tmp_path}/state" in told.value.message
    assert "inferd hosts invite --host b" in told.value.message
    assert "needs a login" not in told.value.message  # whose advice is for who is no host
    with pytest.raises(CommandError, match="--name is 'local'; it must be"):
        host.serve_host(Output(Format.TABLE), settings, ["127.0.0.1:9"], name="local", labels={}, token_file=None)


def test_a_drained_kernel_is_not_to_be_switched_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the kernel's own host no command says that it may be switched off or removed."""
    for name, said in (("local", "the kernel serves with the others"), ("b", "inferd hosts rm b")):
        drained = hp.Host(host_id=name, state=hp.HOST_STATE_DRAINING, drained=True)
        monkeypatch.setattr("inferd.cli.hosts.connected", lambda _, each=drained: Client(each))
        drain(Output(Format.TABLE), "", name, waits=True, reason="")
        assert said in capsys.readouterr().out


class Client:
    """A client of a kernel with one drained host."""

    def __init__(self, host: hp.Host) -> None:
        self.host = host

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def drain_host(self, _: str, *, reason: str) -> list[hp.Host]:  # noqa: ARG002 - the client's
        """It is drained already."""
        return [self.host]


def test_an_address_with_tls_that_closes_is_taken_for_a_kernel_that_ends() -> None:
    """Certificates of clients are the first guess at mtls: addresses alone."""
    assert "it ends or is starting; or it asks for certificates, as at mtls:k:1" in nobody("tls:k:1", "Socket closed")
    assert "takes certificates of clients alone" in nobody("mtls:k:1", "Socket closed")
