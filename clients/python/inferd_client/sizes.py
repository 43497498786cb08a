"""Messages that are larger than one of both ends takes."""

import re

TOO_LARGE = re.compile(r"(?:(CLIENT|SERVER): )?\w+ message larger than max \((\d+) vs\. (\d+)\)")
"""What gRPC says of a message beyond the bound of either end."""


def too_large(address: str, who: str | None, value: str, limit: str) -> tuple[str, dict[str, str]]:
    """That a message is larger than one of both ends takes, and the facts: gRPC tells no setting."""
    own = who == "CLIENT"
    bound = "" if own else "limits.message_bytes"
    whose = "this client takes and sends" if own else f"the kernel at {address} takes (limits.message_bytes)"
    fix = "give less at once" if own else "give less at once, or raise that setting of the kernel"
    facts = {"value": value, "limit": limit, **({"bound": bound} if bound else {})}
    return f"a message has {value} bytes, and {limit} is the most that {whose}; {fix}", facts
