"""`inferd dialogue say`, `show`, `ls` and `rm`: conversations that the kernel keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferd.cli.kernel import connected

if TYPE_CHECKING:
    from inferd.cli.output import Output


def say(output: Output, address: str, tenant: str, **given: Any) -> None:
    """Say something, and tell what the model answers."""
    with connected(address, tenant) as client:
        reply = client.call("converse", given)
    if output.json:
        output.document(reply)
    else:
        output.text(reply["reply"])


def show(output: Output, address: str, tenant: str, session: str) -> None:
    """Tell what is known of a conversation."""
    with connected(address, tenant) as client:
        known = client.call("dialogue_show", {"session": session})
    if output.json:
        output.document(known)
        return
    if known["notes"]:
        output.text(f"(in short: {known['notes']})")
    for each in known["messages"]:
        output.text(f"{each['role']}: {each['content']}")


def list_dialogues(output: Output, address: str, tenant: str) -> None:
    """Tell the names of all."""
    with connected(address, tenant) as client:
        names = client.call("dialogue_list")
    if output.json:
        output.document({"dialogues": names})
    else:
        output.table(
            ("DIALOGUE",), ((name,) for name in names), empty="no dialogues; begin one: inferd dialogue say NAME …"
        )


def remove(output: Output, address: str, tenant: str, session: str) -> None:
    """Forget one."""
    with connected(address, tenant) as client:
        was = client.call("dialogue_forget", {"session": session})
    if output.json:
        output.document({"forgotten": was})
    else:
        output.text("forgotten" if was else f"there is no dialogue {session!r}")
