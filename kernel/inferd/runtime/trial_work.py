"""What trials have a model do: work that its worker opens, made without a client's words."""

from collections.abc import Sequence

from inferd.core.demand import Demand
from inferd.core.ids import ModelName, TaskId, Tenant
from inferd.core.priority import Priority
from inferd.core.task import TRIAL_LABEL, TaskSpec
from inferd.sampling import trial_sampling
from inferd_api.worker.v1 import task_pb2 as wp

ID_BYTES = 4  # of a token's id


def text_input(text: str) -> wp.Input:
    """A text that is to become tokens."""
    return wp.Input(prompt=text)


def trial_task(
    task_id: str, tenant: Tenant, model: ModelName, *, prompt: Sequence[int], output_tokens: int, tells_prompt: bool
) -> TaskSpec:
    """A greedy task of class LOW that reads all of its prompt and gives so many tokens, whichever they are.

    Args:
        task_id: Its id.
        tenant: Whose it is.
        model: The trial's.
        prompt: Token ids.
        output_tokens: How many it gives.
        tells_prompt: Whether it tells how likely the prompt's tokens were, and the likeliest one in the place of each.
    """
    work = wp.Work(prefix_cache=False)
    work.input.tokens.ids.extend(prompt)
    for name, value in trial_sampling(output_tokens, tells_prompt=tells_prompt).items():
        setattr(work.generate.sampling, name, value)
    return TaskSpec(
        task_id=TaskId(task_id),
        tenant=tenant,
        model=model,
        demand=Demand(
            prompt_tokens=len(prompt), most_output=output_tokens, memory_bytes=work.ByteSize() + ID_BYTES * len(prompt)
        ),
        work=work,
        priority=Priority.LOW,
        labels={TRIAL_LABEL: model},
    )
