"""Ways to the files of models that dial allowed hosts alone, at public addresses, with TLS and without a proxy."""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import httpx

from inferd import __version__
from inferd.cli.download import read_list
from inferd.cli.network import Network
from inferd.cli.output import CommandError
from inferd.cli.pip import Found
from inferd.source_settings import HTTPS_PORT, Sources

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_REDIRECTS = 5
JSON_INDEX = "application/vnd.pypi.simple.v1+json"  # https://peps.python.org/pep-0691/
NAT64 = ip_network("64:ff9b::/96")
PINNED = re.compile(r"(?P<dist>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+_-]+)")

Address = IPv4Address | IPv6Address


def inner(address: Address) -> Address:
    """The address that one of IPv6 leads to, where it stands for one of IPv4."""
    if isinstance(address, IPv6Address):
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, address))[1]
    return address


def is_allowed(address: Address, settings: Sources) -> bool:
    """Whether an address is public, or in a network that is allowed."""
    meant = inner(address)
    public = meant.is_global and not meant.is_multicast
    return public or any(meant.version == each.version and meant in each for each in settings.networks)


@dataclass(frozen=True, slots=True)
class Place:
    """Where to dial."""

    host: str
    address: str


def place_of(url: httpx.URL, settings: Sources) -> Place:
    """Where a URL leads, its name looked up once: what is looked at is what is dialled.

    Raises:
        CommandError: It is not https, its host is not allowed or has no address that is.
    """
    if url.scheme != "https" or not url.host or url.userinfo:
        shown = url.copy_with(userinfo=b"", query=None)
        raise CommandError(f"{shown} is not an https URL without a login", reason="SOURCE_INVALID")
    port = url.port or HTTPS_PORT
    if not settings.allows(url.host, port):
        where = url.host if port == HTTPS_PORT else f"{url.host}:{port}"
        raise CommandError(
            f"this kernel fetches nothing from {where}, which is not in its sources.hosts; ask its administrator to add"
            " it, or fetch the model yourself (inferd pull) and name its file",
            reason="PERMISSION_DENIED",
            metadata={"host": where},
        )
    try:
        found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        message = f"{url.host} has no address: {error.strerror}"
        raise CommandError(message, reason="DOWNLOAD_FAILED") from None
    addresses = [ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    allowed = [each for each in addresses if is_allowed(each, settings)]
    if not allowed:
        shown_ones = ", ".join(dict.fromkeys(map(str, addresses)))
        raise CommandError(
            f"{url.host} is at {shown_ones}, which is no public address and in none of sources.networks of this kernel",
            reason="PERMISSION_DENIED",
            metadata={"host": url.host, "address": shown_ones},
        )
    return Place(url.host, str(allowed[0]))


class Guard(httpx.HTTPTransport):
    """Dials where `place_of` says, for each request anew: redirects, too."""

    def __init__(self, settings: Sources, context: ssl.SSLContext) -> None:
        # no connection is used twice: one to the same address was made for another host, perhaps
        super().__init__(verify=context, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False)
        self._settings = settings

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the address of its host, whose certificate has the host's name."""
        place = place_of(request.url, self._settings)
        dialled = httpx.Request(
            request.method,
            request.url.copy_with(host=place.address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": place.host},
        )
        return super().handle_request(dialled)


def guarded(settings: Sources) -> Network:
    """The ways that a kernel allows."""
    context = ssl.create_default_context(cafile=None if settings.ca_file is None else str(settings.ca_file))

    @contextmanager
    def client() -> Iterator[httpx.Client]:
        with httpx.Client(
            transport=Guard(settings, context),
            timeout=httpx.Timeout(settings.silence_s, connect=min(20.0, settings.silence_s)),
            follow_redirects=True,
            max_redirects=MOST_REDIRECTS,
            trust_env=False,
            headers={"User-Agent": f"inferd/{__version__}", "Accept-Encoding": "identity"},
        ) as opened:
            yield opened

    def resolve(requirement: str) -> Found:
        with client() as opened:
            return _find_wheel(opened, settings.package_url, requirement)

    return Network(client=client, index_client=client, resolve=resolve)


def _find_wheel(client: httpx.Client, index: str, requirement: str) -> Found:
    """The wheel of a version of a package that runs anywhere, by an index in JSON.

    Raises:
        CommandError: No version is named, or there is no such wheel.
    """
    if (wanted := PINNED.fullmatch(requirement)) is None:
        raise CommandError(
            f"package:{requirement} names no version; write {requirement}==VERSION", reason="SOURCE_INVALID"
        )
    name = re.sub(r"[-_.]+", "-", wanted["dist"]).lower()
    url = f"{index}/{name}/"
    try:
        files = read_list(client, url, {"Accept": JSON_INDEX})["files"]
        prefix = f"{name.replace('-', '_')}-{wanted['version']}-"
        wheels = [each for each in files if _beginning(str(each["filename"])).startswith(prefix)]
        wheels = [each for each in wheels if each["filename"].endswith("-any.whl")] or wheels
        if not wheels:
            message = f"{url} has no wheel of {requirement}"
            raise CommandError(message, reason="DOWNLOAD_FAILED")
        found = wheels[0]
        return Found(
            url=urljoin(url, str(found["url"]).partition("#")[0]), sha256=str(found["hashes"].get("sha256", ""))
        )
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandError(f"the files of {requirement} cannot be listed: {error}", reason="DOWNLOAD_FAILED") from None


def _beginning(filename: str) -> str:
    """The name of a wheel, its distribution's written as PEP 503 has it; "" of what is no wheel."""
    if not filename.endswith(".whl"):
        return ""
    dist, _, rest = filename.partition("-")
    return f"{re.sub(r'[-_.]+', '_', dist).lower()}-{rest}"
