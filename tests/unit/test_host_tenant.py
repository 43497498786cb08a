"""The tenant of agents of hosts: who has it, and who may do something with its keys."""

import pytest
from pydantic import ValidationError

from inferd.auth_settings import Auth
from inferd.core.policy import Policy, ResourceKind, Verb
from inferd.core.principal import HOSTS, Principal
from inferd.core.roles import BUILT_IN
from inferd.runtime.front.access import Access
from inferd.runtime.tickets import principal_of
from inferd.tls_settings import Tls

ADMIN, AGENT = frozenset({"admin"}), frozenset({"agent"})


@pytest.mark.parametrize("verb", [Verb.READ, Verb.UPDATE, Verb.DELETE])
def test_only_who_is_for_all_tenants_may_do_something_with_keys_of_hosts(verb: Verb) -> None:
    """An administrator who was given the tenant of hosts, by whatever way, has it not: its keys stay out of reach."""
    access, policy = Access(BUILT_IN), Policy(verb, ResourceKind.KEY)
    for name in ("anna", "host:b", "invite", "cert:b", "user:inferd-hosts"):
        some = Principal(name=name, roles=ADMIN, tenants=(HOSTS, "a"))
        assert not access.may_for_each(some, (HOSTS,), policy)
        assert access.may_for_each(some, ("a",), policy)
    assert access.may_for_each(Principal(name="anna", roles=ADMIN, tenants=("*",)), (HOSTS,), policy)
    assert not access.may_for_each(Principal(name="host:b", roles=AGENT, tenants=(HOSTS,)), (HOSTS,), policy)


def test_no_configuration_gives_the_tenant_of_hosts() -> None:
    """Users, issuers and certificates with it are refused by name, and a user of that name has another tenant."""
    for wrong in ({"users": {"anna": {"roles": ["user"], "tenants": [HOSTS]}}},):
        with pytest.raises(ValidationError, match="is the tenant of agents of hosts"):
            Auth(**wrong)  # type: ignore[arg-type] # wrong it is
    with pytest.raises(ValidationError, match="is the tenant of agents of hosts"):
        Tls.model_validate({"identities": [{"name": "b", "tenants": [HOSTS]}]})
    assert principal_of(4711, HOSTS, Auth()).tenants == ("uid-4711",)
