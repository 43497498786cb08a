"""Settings of identity and policy: who may use a kernel, and for what."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from inferd.tenants import OF_HOSTS

RESERVED = {"cert": "certificates", "user": "users of this host", "uid": "users of this host"} | {
    "host": "agents of hosts",
    "invite": "invitations of hosts",
}
"""What names of principals begin with who do not come by a token."""
VerbName = Literal["read", "create", "update", "delete", "run"]
KindName = Literal[
    "task",
    "lease",
    "model",
    "host",
    "upload",
    "blob",
    "store",
    "identity",
    "key",
    "rule",
    "quota",
    "agent",
    "audit",
    "function",
    "dataset",
    "index",
    "federation",
    "health",
    "reflection",
]
Who = Annotated[str, Field(pattern=r"^(\*|(role|principal):[A-Za-z0-9._:@/#-]{1,128})$")]
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/*-]{1,128}$")]


def _check_tenant(tenant: str) -> str:
    if tenant == OF_HOSTS:
        raise ValueError(f"{OF_HOSTS!r} is the tenant of agents of hosts; choose another name")
    return tenant


TenantName = Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9._-]{1,64})$"), AfterValidator(_check_tenant)]
IssuerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")]
UserName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
RoleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class RuleSetting(BaseModel):
    """A rule: what it leaves out means all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    who: Who = Field(description="role:NAME, principal:NAME, or * for all")
    effect: Literal["allow", "deny"] = Field("allow", description="deny wins over whatever allows")
    verbs: tuple[VerbName, ...] = Field((), description="read, create, update, delete, run; default: all")
    kinds: tuple[KindName, ...] = Field(
        (),
        description="as task, lease, model or host: those of `inferd.v1.ResourceKind`; default: all",
    )
    models: Pattern = Field("*", description="pattern of models, for calls that name one")
    tenants: Pattern = Field("*", description="pattern of tenants")


class Issuer(BaseModel):
    """Whose tokens (JWT) are trusted, and how far. A token lives for 15 minutes at most, and says of whom it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str = Field(min_length=1, max_length=1024, description="what its tokens say as `iss`, letter by letter")
    audience: str = Field(min_length=1, max_length=1024, description="what its tokens say as `aud`: this kernel")
    jwks_file: Path = Field(description="its public keys, Ed25519 or P-256, as JWKS; read anew when it changes")
    roles: tuple[RoleName, ...] = Field((), description="roles that its tokens may give; others are left out")
    tenants: tuple[TenantName, ...] = Field((), description="tenants that its tokens may give, or * for all")
    roles_claim: str = Field("roles", description="where a token has its roles, a list of names")
    tenants_claim: str = Field("tenants", description="where a token has its tenants; the first one is the default")
    clock_skew_s: Annotated[float, Field(ge=0, le=60)] = Field(
        30.0, description="how far its clock may be ahead of that of this host, in seconds"
    )


class User(BaseModel):
    """What a user of this host may do who comes by a shared socket."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    roles: tuple[RoleName, ...] = Field(description="roles")
    tenants: tuple[TenantName, ...] = Field(
        (),
        description="tenants, or * for all; the first one is the default; without any: one of the user's own name, or "
        "uid-N where others have that",
    )


class Auth(BaseModel):
    """Who may use the kernel, and for what. Without any of it that is whoever may use its socket, for all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    required: bool = Field(
        True,
        description="whether calls over TCP need a login; those on a unix socket are of whom its mode lets in; false "
        "lets every user and program of this host do all over the loopback",
    )
    local_roles: tuple[RoleName, ...] = Field(
        ("admin",),
        description="roles of a call without a login where none is required; none: unix sockets need a login, too",
    )
    users: dict[UserName, User] = Field(
        {},
        description="users of this host who come by a shared socket, by name, or by number (digits alone); principals "
        "are user:NAME",
    )
    user_roles: tuple[RoleName, ...] = Field(("user",), description="roles of those whom `users` does not have")
    tickets: int = Field(10_000, ge=1, description="tickets of shared sockets that hold at once")
    ticket_s: Annotated[float, Field(ge=1, le=86_400)] = Field(
        300.0, description="how long a ticket of a shared socket holds for new calls, in seconds"
    )
    rules: tuple[RuleSetting, ...] = Field((), description="besides those of the built-in roles")
    issuers: dict[IssuerName, Issuer] = Field(
        {}, description="whose tokens are trusted, by the names that stand before those of their principals"
    )
    pepper_file: Path | None = Field(
        None, description="secret without which no key holds, made at the first start; default: pepper in state_dir"
    )
    keys: int = Field(10_000, ge=1, description="keys that are known, with those that have ended")
    host_keys: int = Field(
        10_000,
        ge=1,
        description="keys of hosts and invitations that are known, beside `keys`; those that ended first go",
    )
    host_retention_s: Annotated[float, Field(ge=0, le=1e9)] = Field(
        3600.0, description="how long a key of a host, or an invitation, is listed that has ended, in seconds"
    )
    kept_rules: int = Field(1000, ge=1, description="rules that were made by calls")
    retention_s: Annotated[float, Field(ge=0, le=1e9)] = Field(
        2_592_000.0, description="how long a key is listed that has ended, in seconds"
    )
    last_use_s: Annotated[float, Field(gt=0, le=1e6)] = Field(
        60.0, description="when keys were last used is kept each time so long, in seconds"
    )
    failed_logins: int = Field(
        20, ge=1, description="logins that fail on one connection in `failed_s`; then it is asked to wait"
    )
    failed_s: Annotated[float, Field(gt=0, le=1e6)] = Field(60.0, description="see failed_logins; in seconds")
    failing_peers: int = Field(10_000, ge=1, description="connections whose failed logins are counted at once")

    @field_validator("issuers")
    @classmethod
    def _check_names(cls, issuers: dict[str, Issuer]) -> dict[str, Issuer]:
        for name, others in RESERVED.items():
            if name in issuers:
                raise ValueError(f"no issuer is named {name!r}: principals of {others} begin so; choose another name")
        return issuers
