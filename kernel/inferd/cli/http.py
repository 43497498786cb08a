"""`inferd http`: the gateway's process, the key that it makes at its first start, and what it tells of both."""

from __future__ import annotations

import asyncio
import os
import shlex
import ssl
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from inferd import __version__
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError
from inferd.errors import words_of
from inferd.log_lines import set_up_logs
from inferd.starts import end_start
from inferd_api.v1.auth_pb2 import KeyState
from inferd_client.credentials import CredentialError, credential_of, write_credential
from inferd_client.errors import InferdError, PermissionDeniedError, UnauthenticatedError

if TYPE_CHECKING:
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd.config import Settings

PRINCIPAL: Final = "http"
"""Whose key it is that the gateway makes."""
ROLE: Final = "user"
PUT: Final = "inferd keys create me --role user --write"
MAKE: Final = "inferd keys create NAME --role user"
PACKAGES: Final = ("starlette", "uvicorn", "python_multipart")


def serve_http(output: Output, settings: Settings, *, address: str) -> None:
    """Serve HTTP until SIGTERM or SIGINT; a line on stdout tells when and where.

    Raises:
        CommandError: It cannot listen, no kernel answers, or its packages are missing.
    """
    check_packages()
    from inferd.http.serving import ListenError, listen, serve, url_of  # noqa: PLC0415 - an extra of the package

    http = settings.http
    where = address or http.address
    with connected(where, credential="") as client:
        with suppress(UnauthenticatedError, PermissionDeniedError):  # then it answers
            client.get_host()
        address = client.address
    file = http.key_file or settings.state_dir / "http.key"
    credential, note = own_key(file, where)
    if http.keyless and not credential:
        raise CommandError(f"http.keyless needs a key to call with, and there is none: {note}", reason="KEY_INVALID")
    try:
        listening = listen(http)
    except (ListenError, ssl.SSLError) as error:
        raise CommandError(str(error), reason="SETTINGS_INVALID") from None
    except OSError as error:
        raise CommandError(f"{http.listen} cannot be listened on: {words_of(error)}", reason="SYSTEM_ERROR") from None
    url = url_of(listening, http)

    def ready() -> None:
        tell(
            output,
            url,
            address,
            file if credential else None,
            note,
            keyless=http.keyless,
            dashboard=http.dashboard.enabled,
        )

    set_up_logs()
    end_start()
    served = serve(http, address=where, keyless=credential if http.keyless else "", listening=listening, ready=ready)
    try:
        asyncio.run(served)
    except OSError as error:  # of the files of its certificate
        raise CommandError(f"the gateway cannot serve: {words_of(error)}", reason="SETTINGS_INVALID") from None


def check_packages() -> None:
    """See that the extra is installed.

    Raises:
        CommandError: It is not.
    """
    if missing := missing_packages():
        raise CommandError(
            f"{' and '.join(missing)} not installed; {sys.executable} -m pip install 'inferd[http]'",
            reason="PACKAGE_MISSING",
        )


def missing_packages() -> list[str]:
    """What of the extra is not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def own_key(file: Path, address: str) -> tuple[str, str]:
    """The credential in a file, made where the kernel has no keys yet; or "", and why there is none.

    Raises:
        CommandError: The file cannot be read or written.
    """
    kept = ""
    if file.exists():
        try:
            kept = credential_of(None, file)
        except CredentialError as error:
            raise CommandError(str(error), reason="CREDENTIAL_INVALID") from None
        if _holds(kept, address):
            return kept, ""
    with connected(address, credential="") as client:
        try:
            has_keys = any(key.state == KeyState.KEY_STATE_ACTIVE for key in client.list_keys())
            if has_keys:
                gone = f"; the one in {file} holds no more" if kept else ""
                path = shlex.quote(str(file))
                make = f"{f'rm {path} && ' if kept else ''}{PUT} {path}"
                return (
                    "",
                    f"the kernel has keys{gone}: use one of them, or put one where the gateway looks with: {make}",
                )
            made = client.create_key(PRINCIPAL, roles=[ROLE])
        except (UnauthenticatedError, PermissionDeniedError):
            return "", f"calls need a key of the kernel: who may make keys makes one with: {MAKE}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # of a kernel that is no more
        write_credential(file, made.credential)
    except OSError as error:
        with connected(address, credential="") as client:
            client.revoke_key(made.key.key_id)
        raise CommandError(f"the key cannot be kept in {file}: {words_of(error)}", reason="SYSTEM_ERROR") from None
    return made.credential, ""


def _holds(credential: str, address: str) -> bool:
    with connected(address, credential=credential) as client:
        try:
            client.whoami()
        except (UnauthenticatedError, PermissionDeniedError):
            return False
        except InferdError:
            return True  # it may; each call will tell
    return True


def tell(
    output: Output, url: str, address: str, file: Path | None, note: str, *, keyless: bool, dashboard: bool
) -> None:
    """Tell that the gateway serves, how it is called, and where its dashboard is."""
    page = f"{url}/dashboard/" if dashboard else None
    if output.json:
        facts = {"version": __version__, "pid": os.getpid(), "url": url, "kernel": address, "keyless": keyless}
        output.line({**facts, "key_file": str(file) if file else None, "dashboard": page})
        return
    output.text(f"inferd {__version__} serves HTTP at {url} for the kernel at {address}")
    if page:
        output.text(f"dashboard: {page}")
    key = "" if keyless else ' -H "Authorization: Bearer '
    if file is not None and not keyless:
        output.text(f'curl {url}/v1/models{key}$(cat {shlex.quote(str(file))})"')
        output.text(f'export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY="$(cat {shlex.quote(str(file))})"')
    elif keyless:
        output.text(f"curl {url}/v1/models")
        output.note("calls need no key: every program of this host may use the kernel as the role user")
    else:
        output.text(f'curl {url}/v1/models{key}KEY"')
    if note:
        output.note(note)
