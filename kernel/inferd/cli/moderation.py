"""`inferd moderation rules`, `flags` and `resolve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.cli.amounts import counted
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError
from inferd.cli.plain import plain
from inferd.cli.prefix import by_prefix
from inferd_api.v1.moderation_pb2 import (
    FLAG_STATE_DISMISSED,
    FLAG_STATE_OPEN,
    FLAG_STATE_UPHELD,
    FlagState,
    ModerationAction,
)

if TYPE_CHECKING:
    from inferd.cli.output import Output
    from inferd_api.v1.moderation_pb2 import Flag, ModerationRule

RULE_COLUMNS = ("RULE", "ACTION", "TENANTS", "MODELS", "LOOKS AT", "LOOKS FOR", "MADE BY")
FLAG_COLUMNS = ("FLAG", "STATE", "WHEN", "RULE", "TENANT", "MODEL", "TASK", "EXCERPT")
ACTIONS = {name.removeprefix("MODERATION_ACTION_").lower(): value for name, value in ModerationAction.items()}
EXCERPT_CHARS = 60


def create(output: Output, address: str, rule: ModerationRule, *, action: str) -> None:
    """Make a rule."""
    if not ACTIONS.get(action):
        known = ", ".join(name for name, value in ACTIONS.items() if value)
        raise CommandError(f"--action is {action!r}; it must be one of {known}", reason="USAGE")
    if rule.skip_inputs and rule.skip_outputs:
        raise CommandError("a rule looks at something; give one of --inputs-only and --outputs-only", reason="USAGE")
    rule.action = ACTIONS[action]
    with connected(address) as client:
        made = client.create_moderation_rule(rule)
    if output.json:
        output.document(plain(made))
    else:
        output.text(f"rule {made.name} holds for each task that is sent to a worker from now on")


def list_rules(output: Output, address: str) -> None:
    """List rules."""
    with connected(address) as client:
        rules = list(client.list_moderation_rules())
    if output.json:
        output.document({"rules": [plain(rule) for rule in rules]})
    else:
        empty = "no rules; make one with: inferd moderation rules create NAME --word TEXT"
        output.table(RULE_COLUMNS, map(_rule_row, rules), empty=empty, gives_way="LOOKS FOR")


def delete(output: Output, address: str, name: str) -> None:
    """Take a rule away."""
    with connected(address) as client:
        client.delete_moderation_rule(name)
    if output.json:
        output.document({"name": name, "deleted": True})
    else:
        output.text(f"rule {name} holds no longer for what is sent to workers from now on")


def list_flags(output: Output, address: str, *, everything: bool) -> None:
    """List flags."""
    with connected(address) as client:
        flags = list(client.list_flags(() if everything else (FLAG_STATE_OPEN,)))
    if output.json:
        output.document({"flags": [plain(flag) for flag in flags]})
    else:
        empty = "no flags" if everything else "no open flags; --all shows those that are resolved"
        output.table(FLAG_COLUMNS, map(_flag_row, flags), empty=empty, gives_way="EXCERPT")


def resolve(output: Output, address: str, flag_id: str, *, dismiss: bool, note: str) -> None:
    """Decide about a flag."""
    state = FLAG_STATE_DISMISSED if dismiss else FLAG_STATE_UPHELD
    with connected(address) as client:
        flag = by_prefix(
            lambda known: client.resolve_flag(known, state, note=note),
            flag_id,
            (each.flag_id for each in client.list_flags()),
        )
    if output.json:
        output.document(plain(flag))
    else:
        output.text(f"flag {flag.flag_id} is {_state(flag)}")


def _rule_row(rule: ModerationRule) -> tuple[str, ...]:
    looks_at = "inputs" if rule.skip_outputs else "outputs" if rule.skip_inputs else "both"
    parts = [
        f"cannot be gone by, and refuses all that it is about: {rule.unsound}" if rule.unsound else "",
        counted(len(rule.words), "word") if rule.words else "",
        counted(len(rule.patterns), "pattern") if rule.patterns else "",
        f"asks {rule.classifier.model}" if rule.HasField("classifier") else "",
    ]
    action = ModerationAction.Name(rule.action).removeprefix("MODERATION_ACTION_").lower()
    made_by = "configuration" if rule.configured else "a call"
    return (rule.name, action, rule.tenants, rule.models, looks_at, ", ".join(filter(None, parts)), made_by)


def _state(flag: Flag) -> str:
    return FlagState.Name(flag.state).removeprefix("FLAG_STATE_").lower()


def _flag_row(flag: Flag) -> tuple[str, ...]:
    when = flag.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
    excerpt = " ".join(flag.excerpt.split())
    shown = excerpt if len(excerpt) <= EXCERPT_CHARS else f"{excerpt[:EXCERPT_CHARS]}…"
    return (flag.flag_id, _state(flag), when, flag.rule, flag.tenant, flag.model, flag.task_id[:8], shown)
