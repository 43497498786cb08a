"""Loaded models held against the configurations of a repository: what these say, and what is missing in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.errors import InvalidFieldError
from inferd.services.inference.datatypes import DATATYPES, name_of
from inferd.services.inference.responses import shape_of
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference import model_config_pb2 as cp
from inferd_api.v1 import tensor_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inferd.repository.terms import Terms

FREE = -1
WORDS = {each.config: name for name, each in DATATYPES.items()}


def verify(config: bytes, signature: bytes) -> None:
    """Refuse a loaded model that is otherwise than its configuration says.

    Args:
        config: A `ModelConfig`.
        signature: An `inferd.v1.ModelSignature`.

    Raises:
        InvalidFieldError: It is; names the tensor, and what both say.
    """
    said, has = cp.ModelConfig.FromString(config), pb.ModelSignature.FromString(signature)
    batches = said.max_batch_size > 0
    hidden = {each.name for each in said.sequence_batching.control_input}
    hidden |= {each.input_name for each in said.sequence_batching.state}
    _verify("input", said.input, has.inputs, batches=batches)
    _verify("output", said.output, has.outputs, batches=batches)
    known = {info.name for info in has.inputs}
    if unknown := sorted(hidden - known):
        raise InvalidFieldError(
            f"sequence_batching names the input {unknown[0]!r}, and the model has {', '.join(sorted(known))}",
            field="config.sequence_batching",
        )
    if said.input:
        named = {each.name for each in said.input} | hidden
        missing = [info.name for info in has.inputs if not info.optional and info.name not in named]
        if missing:
            raise InvalidFieldError(
                f"expected {len(has.inputs)} inputs and config.pbtxt has {len(said.input)}: {missing[0]!r} is missing",
                field="config.input",
            )


def _verify(
    what: str,
    said: Sequence[cp.ModelInput] | Sequence[cp.ModelOutput],
    has: Iterable[pb.TensorInfo],
    *,
    batches: bool,
) -> None:
    known = {info.name: info for info in has}
    for each in said:
        if (info := known.get(each.name)) is None:
            raise InvalidFieldError(
                f"unexpected inference {what} '{each.name[:80]}', allowed {what}s are: {', '.join(sorted(known))}",
                field=f"config.{what}",
            )
        own = DATATYPES[name_of(info.element_type, info.name)].config
        if each.data_type != own:
            raise InvalidFieldError(
                f"unexpected datatype {cp.DataType.Name(each.data_type)} for inference {what} '{each.name}', expecting"
                f" {cp.DataType.Name(own)}",
                field=f"config.{what}",
            )
        sizes, full = shape_of(info), [*([FREE] if batches else []), *each.dims]
        fits = len(sizes) == len(full) and all(
            FREE in pair or pair[0] == pair[1] for pair in zip(sizes, full, strict=True)
        )
        if not info.any_rank and not fits:
            raise InvalidFieldError(
                f"unexpected shape for {what} '{each.name}': config.pbtxt says {full} and the model has {sizes}",
                field=f"config.{what}",
            )


def completed(terms: Terms, own: cp.ModelConfig) -> cp.ModelConfig:
    """A configuration of a repository with what it leaves out, as the loaded model says it."""
    made = cp.ModelConfig.FromString(terms.config)
    made.name = made.name or own.name
    made.platform = made.platform or terms.platform
    made.backend = made.backend or terms.backend
    hidden = {each.name for each in made.sequence_batching.control_input}
    hidden |= {each.input_name for each in made.sequence_batching.state}
    if not made.input and not made.output and not made.max_batch_size:
        made.max_batch_size = own.max_batch_size
        if made.WhichOneof("scheduling_choice") is None and own.HasField("dynamic_batching"):
            made.dynamic_batching.CopyFrom(own.dynamic_batching)
    batches = made.max_batch_size > 0
    carried = {each.output_name for each in made.sequence_batching.state}
    apart = batches and not own.max_batch_size
    if not made.input:
        made.input.extend(each for each in own.input if each.name not in hidden)
        _part(made.input, apart=apart)
    if not made.output:
        made.output.extend(each for each in own.output if each.name not in carried)
        _part(made.output, apart=apart)
    return made


def _part(tensors: Iterable[cp.ModelInput | cp.ModelOutput], *, apart: bool) -> None:
    """Leave out the first size, where that is told apart."""
    for each in tensors:
        if apart:
            del each.dims[:1]


def config_of(terms: Terms, name: str) -> cp.ModelConfig:
    """The configuration of an ensemble, which no loaded model completes."""
    return completed(terms, cp.ModelConfig(name=name))


def metadata_of(config: cp.ModelConfig, versions: Iterable[str]) -> gp.ModelMetadataResponse:
    """What clients are told of a model of a repository: what they give it and get of it."""
    batches = config.max_batch_size > 0
    told = gp.ModelMetadataResponse(name=config.name, versions=versions, platform=config.platform or config.backend)
    for into, tensors in ((told.inputs, config.input), (told.outputs, config.output)):
        for each in tensors:
            into.add(name=each.name, datatype=WORDS[each.data_type], shape=[*([FREE] if batches else []), *each.dims])
    return told
