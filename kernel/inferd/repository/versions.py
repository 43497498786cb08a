"""Which versions of a model are served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.errors import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd_api.inference.model_config_pb2 import ModelConfig


def choose_versions(config: ModelConfig, there: Sequence[int], *, most: int) -> tuple[int, ...]:
    """The numbers of the versions that a model's policy wants, of those that are there, rising.

    Args:
        config: What the configuration says; by default the newest one is wanted.
        there: The numbers of the versions that are there, rising.
        most: How many are served at once, `repository.versions`.

    Raises:
        InvalidFieldError: None is left, or too many are.
    """
    policy = config.version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        wanted = tuple(there)
    elif choice == "specific":
        named = set(policy.specific.versions)
        wanted = tuple(number for number in there if number in named)
    else:
        wanted = tuple(there)[-(policy.latest.num_versions or 1) :]
    if not wanted:
        have = ", ".join(map(str, there)) or "no folder of a version"
        raise InvalidFieldError(
            f"at least one version must be available under the version policy of the model; there is {have}",
            field="config.version_policy",
        )
    if len(wanted) > most:
        raise InvalidFieldError(
            f"the version policy wants {len(wanted)} versions, and repository.versions is {most}; name fewer, or raise"
            " that",
            field="config.version_policy",
        )
    return wanted
