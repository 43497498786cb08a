"""The settings of where models come from that callers name."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from inferd.spans import Days, Seconds

HTTPS_PORT = 443


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} is not an absolute path")
    return path


def _network(value: Any) -> Any:
    """A network in its words; one with bits beside its mask is a mistake."""
    return ip_network(value) if isinstance(value, str) else value


def _secure(url: str) -> str:
    if not url.startswith("https://"):
        raise ValueError(f"{url!r} is no https URL")
    return url.rstrip("/")


class Sources(BaseModel):
    """Which files callers may name as models, and from where the kernel fetches them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    roots: tuple[Annotated[Path, AfterValidator(_absolute)], ...] = Field(
        (),
        description="folders within which whoever may create models may name their files, besides that of pulled "
        "models; `local`, whom the kernel's own user is, names any file that the kernel can read. Links in a model's "
        "folder may lead into them, too",
    )
    hosts: tuple[Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9.-]+(:[0-9]{1,5})?$")], ...] = Field(
        (),
        description="hosts from which the kernel fetches models that callers name, HOST or HOST:PORT (443), *.DOMAIN "
        "for all below one; redirects stay within them, too. Default: none, it dials no address",
    )
    networks: tuple[Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)], ...] = Field(
        (),
        description="networks that are not public, such as 10.1.0.0/16, in which these hosts may be; default: none",
    )
    ca_file: Path | None = Field(None, description="authorities of these hosts, PEM; default: those of the system")
    hub_url: Annotated[str, AfterValidator(_secure)] = Field(
        "https://huggingface.co", description="the hub of sources `hub:`; its host has to be in `hosts`"
    )
    hub_token_file: Path | None = Field(
        None,
        description="a token for that hub, which is used for whoever may create models; default: none, what is public",
    )
    package_url: Annotated[str, AfterValidator(_secure)] = Field(
        "https://pypi.org/simple", description="the index of sources `package:`, one that answers in JSON (PEP 691)"
    )
    most_bytes: int = Field(256 << 30, ge=1, description="most bytes of one model that is fetched")
    most_s: Days = Field(86_400.0, gt=0, description="most that fetching one takes; what came stays for the next time")
    silence_s: Seconds = Field(60.0, gt=0, description="a fetch of which no byte comes for so long is given up")
    at_once: int = Field(2, ge=1, le=64, description="models that are fetched at once; others wait")
    waiting: int = Field(16, ge=0, le=1000, description="fetches that wait for others; more are refused")
    retry_s: Seconds = Field(
        60.0, gt=0, description="time between two tries to fetch a model that the configuration declares"
    )
    part_s: Days = Field(604_800.0, gt=0, description="what is left of a fetch that broke off is kept for so long")

    def allows(self, host: str, port: int | None) -> bool:
        """Whether the kernel may dial a host."""
        name = host.lower().rstrip(".")
        for each in self.hosts:
            allowed, _, at = each.partition(":")
            near = name.endswith(allowed[1:]) if allowed.startswith("*.") else name == allowed
            if near and (port or HTTPS_PORT) == int(at or HTTPS_PORT):
                return True
        return False
