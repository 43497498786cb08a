"""Which files a caller may name as models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.core.policy import Policy, ResourceKind, Verb
from inferd.runtime.sources import Roots

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inferd.config import Settings
    from inferd.runtime.front.access import Access
    from inferd.runtime.front.caller import Caller

CREATE_RULE = Policy(Verb.CREATE, ResourceKind.RULE)


class NamedFiles:
    """Who may name files where: `local` anywhere, for it is who could read them anyway; all others within folders.

    Args:
        own: Some of them: those of models that were pulled or fetched.
        settings: Say which others.
        access: Says whom they may be told: those who may make rules.
    """

    def __init__(self, own: Sequence[Path], settings: Settings, access: Access) -> None:
        self._folders = (*own, *settings.sources.roots)
        self._access = access

    def roots(self, caller: Caller) -> Roots | None:
        """Within which a caller may name files; None for anywhere."""
        if caller.principal.local:
            return None
        told = self._access.rules.grant(caller.principal, caller.tenant, CREATE_RULE).permits()
        return Roots(folders=self._folders, told=told)
