"""By which names the HTTP gateway may be called, behind a proxy too, and where it listens."""

import pytest
from starlette.responses import PlainTextResponse

from inferd.http.door import Door
from inferd.http.serving import ListenError, listen
from inferd.http_settings import Http

NAMES = frozenset({"localhost", "ai.example"})


async def status(headers: dict[str, str], **settings: object) -> int:
    """With which status a request of these headers is answered."""
    sent = []

    async def send(message: object) -> None:
        sent.append(message)

    door = Door(PlainTextResponse("in"), Http(**settings), NAMES)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": raw}
    await door(scope, None, send)  # type: ignore[arg-type] # no body is read
    found: int = sent[0]["status"]  # type: ignore[index]
    return found


@pytest.mark.parametrize(
    ("behind", "forwarded", "origin", "answered"),
    [
        (True, "ai.example", "https://ai.example", 200),
        (True, "evil.example, ai.example", "https://ai.example", 200),  # the first one anybody may write
        (True, "ai.example, evil.example", "https://ai.example", 421),
        (True, "evil.example", "https://evil.example", 421),
        (True, "ai.example", "https://evil.example", 403),
        (False, "ai.example", "https://ai.example", 403),
        (False, "evil.example", "", 200),
    ],
)
async def test_what_a_proxy_says_of_how_it_was_called(
    *, behind: bool, forwarded: str, origin: str, answered: int
) -> None:
    """`X-Forwarded-Host` counts behind a proxy alone, for pages of a name that is known, and opens no other name."""
    headers = {"host": "localhost:7413", "x-forwarded-host": forwarded, **({"origin": origin} if origin else {})}
    assert await status(headers, behind_proxy=behind) == answered
    assert await status({**headers, "host": "evil.example"}, behind_proxy=behind) == 421


@pytest.mark.parametrize("behind", [True, False])
def test_nothing_opens_a_plain_listener_to_others(*, behind: bool) -> None:
    """Off the loopback the gateway listens with TLS alone, whatever is said of a proxy in front of it."""
    with pytest.raises(ListenError, match=r"set http\.cert_file and .*, or listen on 127"):
        listen(Http(listen="0.0.0.0:0", behind_proxy=behind))
