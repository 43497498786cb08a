"""How a kernel traces and logs, in the words of Triton's settings: as it is configured, and no call changes it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from inferd.errors import InvalidFieldError
from inferd.services.inference.datatypes import NotOfferedError
from inferd.telemetry_settings import Logs, Otel
from inferd_api.inference import grpc_service_pb2 as gp

OWN = "inferd"


class Told:
    """Tells it.

    Args:
        logs: How lines are written; from which level on is looked up.
        otel: Where traces go.
    """

    def __init__(self, logs: Logs, otel: Otel) -> None:
        self._json = logs.format == "json"
        self._traces: Mapping[str, Sequence[str]] = _traces(otel)

    def traces(self, request: gp.TraceSettingRequest) -> gp.TraceSettingResponse:
        """How requests are traced.

        Raises:
            InvalidFieldError: A setting is none.
            NotOfferedError: One is to be changed.
        """
        for name, wanted in request.settings.items():
            have = _known(name, self._traces, "trace")
            if wanted.value and list(wanted.value) != list(have):  # without a value it is as the configuration says
                raise _fixed(name, list(wanted.value), list(have), "otel")
        told = gp.TraceSettingResponse()
        for name, values in self._traces.items():
            told.settings[name].value.extend(values)
        return told

    def logs(self, request: gp.LogSettingsRequest) -> gp.LogSettingsResponse:
        """What is logged; raises as `traces`."""
        own = logging.getLogger(OWN)
        told = gp.LogSettingsResponse()
        told.settings["log_file"].string_param = ""
        for name, level in (("log_info", logging.INFO), ("log_warning", logging.WARNING), ("log_error", logging.ERROR)):
            told.settings[name].bool_param = own.isEnabledFor(level)
        told.settings["log_verbose_level"].uint32_param = int(own.isEnabledFor(logging.DEBUG))
        told.settings["log_format"].string_param = "ISO8601" if self._json else "default"
        for name, wanted in request.settings.items():
            have = _known(name, told.settings, "log")
            kind, wants = have.WhichOneof("parameter_choice"), wanted.WhichOneof("parameter_choice")
            if kind != wants:
                raise InvalidFieldError(
                    f"log setting '{name}' is {wants or 'not given'}; it must be a {kind}", field="settings"
                )
            if wanted != gp.LogSettingsRequest.SettingValue(**{str(kind): getattr(have, str(kind))}):
                raise _fixed(name, getattr(wanted, str(kind)), getattr(have, str(kind)), "logs")
        return told


def _traces(otel: Otel) -> Mapping[str, Sequence[str]]:
    on = bool(otel.endpoint) and otel.sample > 0
    return {
        "trace_file": [""],
        "trace_level": ["TIMESTAMPS" if on else "OFF"],
        "trace_rate": [str(round(1 / otel.sample) if otel.sample > 0 else 0)],
        "trace_count": ["-1"],
        "log_frequency": ["0"],
        "trace_mode": ["opentelemetry" if otel.endpoint else "triton"],
    }


def _known(name: str, known: Mapping[str, Any], what: str) -> Any:
    if name not in known:
        raise InvalidFieldError(
            f"Unknown {what} setting: '{name[:80]}'; there are {', '.join(sorted(known))}", field="settings"
        )
    return known[name]


def _fixed(name: str, wanted: object, have: object, section: str) -> NotOfferedError:
    return NotOfferedError(
        f"'{name}' is {have!r} and cannot be set to {str(wanted)[:80]!r} by a call: see `{section}` of the kernel's"
        " configuration",
        field="settings",
    )
