"""What calls of the Open Inference Protocol tell of a kernel's own settings, and where shared memory is not reached."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from inferd.errors import InferdError, InvalidFieldError, PermissionDeniedError
from inferd.inference_settings import Inference
from inferd.runtime.front.regions import Regions
from inferd.services.inference.datatypes import NotOfferedError
from inferd.services.inference.requests import refuse_in_ensembles
from inferd.services.inference.shared_tensors import Reach
from inferd.services.inference.told import Told
from inferd.telemetry_settings import Logs, Otel
from inferd_api.inference import grpc_service_pb2 as gp

Traced = gp.TraceSettingRequest.SettingValue
Logged = gp.LogSettingsRequest.SettingValue


def traces(told: Told, **settings: list[str]) -> dict[str, list[str]]:
    request = gp.TraceSettingRequest(settings={name: Traced(value=value) for name, value in settings.items()})
    return {name: list(each.value) for name, each in told.traces(request).settings.items()}


def test_traces_are_told_as_they_are() -> None:
    """Without a collector nothing is traced; with one, so many of the tasks as its settings say."""
    off = traces(Told(Logs(), Otel()))
    assert (off["trace_level"], off["trace_mode"], off["trace_rate"]) == (["OFF"], ["triton"], ["1"])
    on = traces(Told(Logs(), Otel(endpoint="http://127.0.0.1:4318", sample=0.001)))
    assert (on["trace_level"], on["trace_mode"], on["trace_rate"]) == (["TIMESTAMPS"], ["opentelemetry"], ["1000"])


def test_traces_are_not_changed_by_a_call() -> None:
    """What holds already, or is to be as configured, is answered; what would change it, or is unknown, is refused."""
    told = Told(Logs(), Otel())
    assert traces(told, trace_level=["OFF"], trace_rate=[]) == traces(told)
    with pytest.raises(NotOfferedError, match=r"'trace_level' is \['OFF'\] and cannot be set"):
        traces(told, trace_level=["TIMESTAMPS"])
    with pytest.raises(InvalidFieldError, match="Unknown trace setting: 'colour'"):
        traces(told, colour=["red"])


def test_logs_are_told_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels are those from which on lines are written now, and no call changes them."""
    own = logging.getLogger("inferd")
    monkeypatch.setattr(own, "level", logging.WARNING)
    own.manager._clear_cache()
    told = Told(Logs(format="json"), Otel())
    answer = told.logs(gp.LogSettingsRequest()).settings
    assert [answer[name].bool_param for name in ("log_info", "log_warning", "log_error")] == [False, True, True]
    assert (answer["log_verbose_level"].uint32_param, answer["log_format"].string_param) == (0, "ISO8601")
    same = gp.LogSettingsRequest(settings={"log_info": Logged(bool_param=False)})
    assert told.logs(same).settings == answer
    for settings, kind in (
        ({"log_info": Logged(bool_param=True)}, NotOfferedError),
        ({"log_info": Logged(uint32_param=1)}, InvalidFieldError),
        ({"colour": Logged(bool_param=True)}, InvalidFieldError),
    ):
        with pytest.raises(kind):
            told.logs(gp.LogSettingsRequest(settings=settings))
    own.manager._clear_cache()


@pytest.mark.parametrize(
    ("peer", "allowed", "refused"),
    [
        ("unix:", ("a*",), None),
        ("ipv4:127.0.0.1:5000", ("a*",), None),
        ("ipv6:%5B::1%5D:5000", ("a*",), None),
        ("ipv4:10.0.0.1:5000", ("a*",), PermissionDeniedError),
        ("ipv6:%5B2001:db8::1%5D:5000", ("a*",), PermissionDeniedError),
        ("unix:", (), NotOfferedError),
    ],
)
def test_shared_memory_is_for_its_own_host(
    peer: str, allowed: tuple[str, ...], refused: type[InferdError] | None
) -> None:
    """Callers of this host reach it where the configuration names some; others never do."""
    call: Any = SimpleNamespace(peer=lambda: peer, caller=SimpleNamespace(tenant="t"))
    nothing: Any = None
    reach = Reach(Regions(Inference(shared_memory=allowed), share=1.0), call, nothing, most_bytes=1)
    if refused is None:
        assert reach.check() == "t"
    else:
        with pytest.raises(refused):
            reach.check()


@pytest.mark.parametrize("where", ["inputs", "outputs"])
@pytest.mark.parametrize("name", ["shared_memory_region", "classification"])
def test_ensembles_refuse_what_they_do_not_pass_on(where: str, name: str) -> None:
    """A tensor of an ensemble in shared memory, or as classes, is refused by its place, and never taken without."""
    request = gp.ModelInferRequest()
    getattr(request, where).add(name="x").parameters[name].string_param = "r"
    with pytest.raises(NotOfferedError, match=rf"{where}\[0\]\.parameters has '{name}'"):
        refuse_in_ensembles(request)
