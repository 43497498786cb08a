"""URLs and what a driver says of them, for people: without passwords."""

import re

HIDDEN = "***"
# Up to the last "@": a password that was not percent-encoded may hold one.
IN_AUTHORITY = re.compile(r"(://[^:/?#@\s]*:)[^\s]*@")
IN_QUERY = re.compile(r"((?:password|passwd|passfile)\s*=\s*)(?:'[^']*'|[^&\s'\"]+)", re.IGNORECASE)


def hide_passwords(text: str, *known: str | None) -> str:
    """The text without what stands where URLs have passwords, and without those that are known."""
    for password in filter(None, known):
        text = text.replace(password, HIDDEN)
    return IN_QUERY.sub(rf"\1{HIDDEN}", IN_AUTHORITY.sub(rf"\1{HIDDEN}@", text))
