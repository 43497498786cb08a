"""That no kernel answers, for people: why, and what to do."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from inferd_client import places, tls
from inferd_client.returning import UNCONNECTED

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_ADDRESS = "127.0.0.1:7411"
"""Of the loopback: where a kernel listens that has no folder for a socket; it is never looked for."""
WHY: Mapping[str, str] = {
    "Connection refused": "the connection was refused",
    "No such file or directory": "there is no such socket",
    "Permission denied": "you may not use it",
    "resolv": "its name is not known",
    "Timeout": "it did not answer in time",
}
"""What the transport says, in short; its own words name the address again, twice."""
LONGEST_WHY = 120


def nobody(address: str, details: str | None) -> str:
    """That no kernel answers, why, and the command that starts one there; the address stands in it once."""
    why = next((why for said, why in WHY.items() if said in (details or "")), (details or "")[:LONGEST_WHY])
    path = places.path_of(address)
    if UNCONNECTED in (details or "") and path in (usual := places.sockets()):
        tried = "; ".join(f"{each} ({places.look(each) or 'it listens, and does not answer'})" for each in usual)
        return f"no kernel answers; tried {tried}; start one with: inferd serve, or name one: --address, INFERD_ADDRESS"
    if path is not None and why == WHY["Permission denied"]:
        return f"the kernel at {address} may not be used by you: {places.why_denied(path)}"
    if closed := tls.why_closed(address, details or ""):
        return f"no kernel answers at {address}: {closed}"
    brackets = f" ({why})" if why else ""
    local = address.startswith(("unix:", "127.", "localhost:", "[::1]:"))
    if local and address != DEFAULT_ADDRESS:
        return f"no kernel answers{brackets}; start one with: inferd serve --listen {shlex.quote(address)}"
    return f"no kernel answers at {address}{brackets}" + ("; start one with: inferd serve" if local else "")
