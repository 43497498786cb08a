"""How it is known who makes a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferd.core.principal import OWNER, Principal

if TYPE_CHECKING:
    from inferd.runtime.tls_files import Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What a credential comes to.

    Attributes:
        principal: Who it is.
        expires: Until when it holds, in Unix time; None for as long as nothing is changed.
        key_id: The key that it was; "" for none.
        secret: Which secret of the key, by a number that rises.
        signer: The key of an issuer by which it was signed; "" for none.
        certificate: That of the connection on which it came; None for none.
        uid: The user of this host whose ticket it is; None for what is no ticket.
    """

    principal: Principal
    expires: float | None = None
    key_id: str = ""
    secret: int = 0
    signer: str = ""
    certificate: Certificate | None = None
    uid: int | None = None


NOBODY = Login(principal=Principal(name="anonymous", tenants=("anonymous",)))
"""Of calls that need no login where others do."""
OWNERS = Login(principal=OWNER)
"""Of calls where no login is needed at all."""
