"""Rules: what they come to for who asks, for which tenant, and about which model."""

import time
from itertools import pairwise

import pytest

from inferd.auth_settings import Auth, KindName, VerbName
from inferd.core.policy import Grant, Policy, ResourceKind, Rule, Rules, Verb, matches
from inferd.core.principal import OWNER, Principal
from inferd.core.roles import BUILT_IN
from inferd.runtime.front.authority import read_rules
from inferd_api.v1 import policy_pb2

RUN_TASK, READ_TASK = Policy(Verb.RUN, ResourceKind.TASK), Policy(Verb.READ, ResourceKind.TASK)
ANNA = Principal(name="anna", roles=frozenset({"user"}), tenants=("a", "b"))


def permitted(rules: Rules, model: str | None = None, *, tenant: str = "a", policy: Policy = RUN_TASK) -> bool:
    return rules.grant(ANNA, tenant, policy).permits(model)


def test_the_words_are_those_of_the_wire() -> None:
    """Verbs and kinds have the names and the numbers of the protos, and the configuration has the same names."""
    for ours, theirs, names in (
        (Verb, policy_pb2.Verb, VerbName),
        (ResourceKind, policy_pb2.ResourceKind, KindName),
    ):
        prefix = {"Verb": "VERB_", "ResourceKind": "RESOURCE_KIND_"}[ours.__name__]
        assert {each.name: each.value for each in ours} == {
            name.removeprefix(prefix): number for name, number in theirs.items() if number
        }
        assert {each.name.lower() for each in ours} == set(names.__args__)  # type: ignore[attr-defined] # of a Literal


def test_what_no_rule_allows_is_denied() -> None:
    """Without rules nobody may do anything, and a role that no rule names gives nothing."""
    assert not permitted(Rules())
    assert not Rules(BUILT_IN).grant(Principal(name="x", roles=frozenset({"nobody"})), "a", RUN_TASK).permits()


def test_a_rule_that_denies_wins() -> None:
    """Whatever allows, in whichever order: what one rule denies is denied, and nothing else."""
    allows = Rule(who="role:user")
    denies = Rule(who="principal:anna", allow=False, models="big-*", verbs=frozenset({Verb.RUN}))
    for rules in (Rules((allows, denies)), Rules((denies, allows))):
        assert not permitted(rules, "big-1")
        assert permitted(rules, "small")
        assert permitted(rules, "big-1", policy=READ_TASK)
        assert rules.grant(OWNER, "a", RUN_TASK).permits("big-1") is False  # whom no rule names
    everybody = Rules((allows, Rule(who="*", allow=False, tenants="b")))
    assert permitted(everybody)
    assert not permitted(everybody, tenant="b")


def test_what_one_gains_over_another() -> None:
    """One has more who may something, or with a model, for one of its tenants that the other may not for that one."""
    allows = Rule(who="principal:bert", verbs=frozenset({Verb.READ}), kinds=frozenset({ResourceKind.KEY}), tenants="b")
    denies = Rule(who="role:small", allow=False, models="big-*", verbs=frozenset({Verb.RUN}), tenants="w*")
    rules = Rules((Rule(who="role:user", kinds=frozenset({ResourceKind.TASK})), allows, denies))

    def who(name: str, *roles: str, tenants: str = "ab") -> Principal:
        return Principal(name=name, roles=frozenset(roles), tenants=tuple(tenants))

    for bert in (who("bert", "user"), who("bert", "user", tenants="*")):
        assert rules.gained(bert, ANNA) == (Verb.READ, ResourceKind.KEY, "b")
    assert rules.gained(who("bert", "user", tenants="a"), ANNA) is None
    small = who("x", "user", "small", tenants="*")
    assert rules.gained(who("y", "user", tenants="*"), small) == (Verb.RUN, ResourceKind.TASK, "w*")
    assert rules.gained(who("y", "user", tenants="w"), small) == (Verb.RUN, ResourceKind.TASK, "w")
    for other in (who("y", "user"), who("y", "small", tenants="*"), who("y")):
        assert rules.gained(other, small) is None


def test_patterns_of_models_hold_for_calls_that_name_one() -> None:
    """A call about no model by name needs any rule that allows it, and is denied by one for all models alone."""
    rules = Rules((Rule(who="role:user", models="small-*"), Rule(who="role:user", allow=False, models="small-x")))
    assert [permitted(rules, model) for model in ("small-1", "small-x", "big", None)] == [True, False, False, True]
    assert not permitted(Rules((Rule(who="*"), Rule(who="*", allow=False))))


@pytest.mark.parametrize(
    ("pattern", "text", "is_so"),
    [
        ("*", "", True),
        ("", "", True),
        ("", "a", False),
        ("a", "a", True),
        ("a", "ab", False),
        ("a*", "a", True),
        ("*b", "aab", True),
        ("*b", "ba", False),
        ("a*c*e", "abcde", True),
        ("a*c*e", "abde", False),
        ("**a**", "bab", True),
        ("a.c", "abc", False),
    ],
)
def test_a_star_is_any_text(pattern: str, text: str, *, is_so: bool) -> None:
    """A pattern is the whole text; a star in it is any text, and every other letter is itself."""
    assert matches(pattern, text) is is_so


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    """The time of a pattern is the product of both lengths at most, however it is made."""
    began = time.process_time()
    assert not matches("*a" * 60 + "b", "a" * 128)
    assert time.process_time() - began < 10  # each star twice the time would take years


def test_built_in_roles_rise() -> None:
    """Each role may do all that the one below may, and the administrator all that there is; keys are for the last."""
    rules = Rules(BUILT_IN)
    rights = []
    for role in ("viewer", "user", "operator", "admin"):
        principal = Principal(name=role, roles=frozenset({role}))
        every = [Policy(verb, kind) for verb in Verb for kind in ResourceKind]
        rights.append({each for each in every if rules.grant(principal, "a", each).permits()})
    assert all(lower < higher for lower, higher in pairwise(rights))
    assert len(rights[-1]) == len(Verb) * len(ResourceKind)
    assert not any(each.kind in (ResourceKind.KEY, ResourceKind.RULE) for each in rights[2])
    assert set(rules.roles) == {
        "viewer",
        "user",
        "operator",
        "admin",
        "auditor",
        "agent",
        "joiner",
        "federation-client",
    }


def test_an_auditor_changes_nothing() -> None:
    """The role `auditor` reads, the trail among it, and does nothing else."""
    rules, auditor = Rules(BUILT_IN), Principal(name="auditor", roles=frozenset({"auditor"}))
    every = [Policy(verb, kind) for verb in Verb for kind in ResourceKind]
    rights = {each for each in every if rules.grant(auditor, "a", each).permits()}
    assert {each.verb for each in rights} == {Verb.READ}
    assert Policy(Verb.READ, ResourceKind.AUDIT) in rights


def test_the_configuration_adds_rules() -> None:
    """A rule of the configuration is read as it is written; what it leaves out means all."""
    chat = {"who": "role:chat", "verbs": ["run"], "kinds": ["task"], "models": "m*"}
    settings = Auth.model_validate({"rules": [chat, {"who": "*", "effect": "deny"}]})
    read, none = read_rules(settings)[len(BUILT_IN) :]
    assert read == Rule(who="role:chat", verbs=frozenset({Verb.RUN}), kinds=frozenset({ResourceKind.TASK}), models="m*")
    assert none == Rule(who="*", allow=False)


def test_what_is_about_a_model_is_about_its_versions() -> None:
    """A rule about "chat" holds for "chat@3", a rule about that for no other, and "chats@3" is another model."""
    assert Grant(("chat",), ()).permits("chat@3")
    assert not Grant(("*",), ("chat",)).permits("chat@3")
    assert Grant(("*",), ("chat@3",)).permits("chat@2")
    assert not Grant(("chat",), ()).permits("chats@3")


def test_a_rule_holds_for_the_versions_of_a_repository() -> None:
    """A rule about "chat" holds for "chat:3" and "chat:3@1", none of them for "chat:fast", which is another model."""
    for each in ("chat:3", "chat:3@1"):
        assert not Grant(("*",), ("chat",)).permits(each)
        assert Grant(("chat",), ()).permits(each)
    assert not Grant(("*",), ("chat:3",)).permits("chat:3@1")
    assert Grant(("*",), ("chat:3",)).permits("chat")
    for each in ("chat:fast", "chat:03", "chat:", ":3", "chats:3"):
        assert Grant(("*",), ("chat",)).permits(each)
