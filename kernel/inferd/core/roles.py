"""The roles that every kernel has, as rules; the configuration and administrators add rules to them, or deny."""

from inferd.core.policy import ResourceKind as Kind
from inferd.core.policy import Rule, Verb

READ, CREATE, UPDATE, DELETE, RUN = Verb.READ, Verb.CREATE, Verb.UPDATE, Verb.DELETE, Verb.RUN


def _role(name: str, verbs: set[Verb], *kinds: Kind) -> Rule:
    return Rule(who=f"role:{name}", verbs=frozenset(verbs), kinds=frozenset(kinds))


def _only(name: str, verb: Verb) -> tuple[Rule, ...]:
    """A role that may do this with agents, and nothing else."""
    who, others = f"role:{name}", frozenset(Kind) - {Kind.AGENT, Kind.IDENTITY, Kind.HEALTH}
    return (
        _role(name, {verb}, Kind.AGENT),
        Rule(who=who, allow=False, verbs=frozenset(Verb) - {verb}, kinds=frozenset({Kind.AGENT})),
        Rule(who=who, allow=False, kinds=others),
    )


BUILT_IN = (
    # Whoever is known may ask who that is, what serves and what is offered.
    Rule(
        who="*",
        verbs=frozenset({READ}),
        kinds=frozenset({Kind.IDENTITY, Kind.HEALTH, Kind.REFLECTION}),
    ),
    # Sees, and changes nothing.
    _role("viewer", {READ}, Kind.TASK, Kind.LEASE, Kind.BLOB, Kind.DATASET, Kind.INDEX, Kind.FEDERATION),
    _role("viewer", {READ}, Kind.MODEL, Kind.HOST, Kind.QUOTA, Kind.FUNCTION),
    # Runs tasks and holds capacity, with the models that there are.
    _role("user", {READ}, Kind.MODEL, Kind.HOST, Kind.QUOTA, Kind.FUNCTION),
    _role("user", {RUN}, Kind.MODEL),
    _role("user", {READ, CREATE, UPDATE, DELETE}, Kind.FEDERATION),
    _role("user", {READ, CREATE, UPDATE, DELETE, RUN}, Kind.TASK, Kind.LEASE, Kind.UPLOAD, Kind.BLOB, Kind.DATASET),
    _role("user", {READ, CREATE, UPDATE, DELETE}, Kind.INDEX),
    # Decides which models there are, besides.
    _role("operator", {READ}, Kind.HOST, Kind.QUOTA, Kind.FUNCTION),
    _role("operator", set(Verb), Kind.TASK, Kind.LEASE, Kind.UPLOAD, Kind.BLOB, Kind.DATASET, Kind.MODEL),
    _role("operator", set(Verb), Kind.INDEX),
    _role("operator", {READ, CREATE, UPDATE, DELETE}, Kind.FEDERATION),
    # Sees who did what, and who may do what; changes nothing and runs nothing.
    _role("auditor", {READ}, Kind.AUDIT, Kind.KEY, Kind.RULE, Kind.QUOTA, Kind.MODEL, Kind.HOST, Kind.FUNCTION),
    # Takes part in federations with its own data: asks what to do, gives updates, and sees nothing else.
    _role("federation-client", {RUN}, Kind.FEDERATION),
    # The agent of a host, and whoever is to become one: that, and nothing else, whatever other rules say.
    *_only("agent", RUN),
    *_only("joiner", CREATE),
    # May do all, and says who may do what.
    _role("admin", set(Verb), *Kind),
)
