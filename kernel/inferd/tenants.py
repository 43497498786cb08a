"""Names of tenants that nobody may choose."""

from typing import Final

OF_HOSTS: Final = "inferd-hosts"
"""Of agents of hosts that have joined, and of invitations."""
