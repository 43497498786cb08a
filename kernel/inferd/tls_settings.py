"""Settings of TLS: what a kernel shows on addresses with TLS, and whom it knows by their certificates."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inferd.auth_settings import RoleName, TenantName

NamePattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:@/#*-]{1,128}$")]


class Identity(BaseModel):
    """Whom certificates of clients stand for. Their principals are "cert:" and the name in the certificate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: NamePattern = Field(
        description="pattern of a URI or DNS name of the certificate (subjectAltName), as spiffe://corp/web/*"
    )
    roles: tuple[RoleName, ...] = Field((), description="roles that they have")
    tenants: tuple[TenantName, ...] = Field(
        min_length=1, description="tenants that they may ask for, or *; the first one is the default"
    )


class Tls(BaseModel):
    """What `tls:` and `mtls:` addresses of `listen` need. All files are PEM, and read anew when they change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cert_file: Path | None = Field(None, description="certificate of this kernel, with those between it and its root")
    key_file: Path | None = Field(
        None, description="its private key, which nobody else may read: mode 0600, or 0640 where it is root's"
    )
    client_ca_file: Path | None = Field(
        None, description="authorities whose clients `mtls:` addresses let in, by their certificates"
    )
    crl_file: Path | None = Field(
        None, description="certificates of clients that hold no longer: lists (CRLs) of those authorities"
    )
    identities: tuple[Identity, ...] = Field(
        (), description="whom certificates stand for; the first one that fits a name of a certificate holds"
    )
    expiry_told_s: Annotated[float, Field(ge=0, le=1e9)] = Field(
        1_209_600.0, description="how long before the end of its certificate a kernel tells of it, in seconds"
    )

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; name both, or none")
        for name in ("crl_file", "identities"):
            if getattr(self, name) and self.client_ca_file is None:
                raise ValueError(f"{name} is about certificates of clients; name who issues them, client_ca_file")
        return self
