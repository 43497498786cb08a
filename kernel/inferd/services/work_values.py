"""Work from the wire: checked, written for the worker that will open it, and what policy has to know of it."""

from array import array
from collections.abc import Mapping
from hashlib import blake2b, sha256
from types import MappingProxyType
from typing import Any

from inferd.core.demand import Demand
from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.runtime.shared_work import SharedWork
from inferd.sampling import PARAMETERS, Form
from inferd.services.chat_values import read_chat
from inferd.services.function_values import read_call
from inferd.services.named import Named
from inferd.services.sampling_values import check_sampling
from inferd.services.tensor_values import check_infer, write_infer
from inferd_api.v1 import explanation_pb2 as ep
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.worker.v1 import task_pb2 as wp

AFFINITY_CHARACTERS = 1024  # of a prompt, or a quarter as many tokens, that make two prompts alike
CHARACTERS_PER_TOKEN = 4
TOKENS_PER_PICTURE = 256  # a guess: how many they are, only the worker knows
MESSAGE_BYTES = 256  # of memory, that a message takes besides what it takes on the wire
ENTRY_BYTES = 64  # the same of an entry of a list

NO_NAMED: Mapping[int, Named] = MappingProxyType({})

Given = tp.TaskSpec | ms.TokenizeRequest | ms.CountTokensRequest | ep.ExplanationSpec


def read_work(
    spec: tp.TaskSpec, limit_bytes: int, named: Mapping[int, Named] = NO_NAMED, *, lasting: bool = True
) -> tuple[wp.Work | SharedWork, Demand]:
    """What a task is to do, and what it asks for; `named` is what its inputs name in uploads and blobs.

    `lasting` is whether `Demand.contents` is to be the same with a kernel after this one.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
        LimitExceededError: The prompt is longer than `limit_bytes`.
    """
    if spec.HasField("infer"):
        return _read_infer(spec, named, lasting=lasting)
    if spec.HasField("call"):
        return read_call(spec, limit_bytes)
    work = wp.Work(prefix_cache=spec.prefix_cache if spec.HasField("prefix_cache") else True)
    if spec.adapter:
        work.adapter.name = spec.adapter
    prompt_tokens, begin = read_input(spec, work.input, limit_bytes)
    given = check_sampling(spec.sampling)
    if spec.HasField("embedding"):
        _read_embedding(spec, work.embed, limit_bytes)
        prompt_tokens += len(work.embed.query.encode()) // 4
    else:
        work.generate.sampling.CopyFrom(spec.sampling)
    entries = sum([len(value) for value in given.values() if hasattr(value, "__len__")])
    demand = Demand(
        prompt_tokens=prompt_tokens,
        most_output=given.get("max_tokens"),
        samples=given.get("n", 1),
        memory_bytes=_memory_bytes(work) + ENTRY_BYTES * entries,
        affinity=blake2b(begin, digest_size=16).digest(),
        contents=_contents(spec, work.input, given),
    )
    return work, demand


def _read_infer(spec: tp.TaskSpec, named: Mapping[int, Named], *, lasting: bool) -> tuple[wp.Work | SharedWork, Demand]:
    """Tensors: each task counts the same in the share of its tenant, as one token of output."""
    data, given = check_infer(spec), spec.infer
    entries = sum(len(tensor.shape) + len(tensor.strings.values) for tensor in given.inputs)
    sequence = given.sequence.id.encode() if given.HasField("sequence") else b""
    written = write_infer(given, data, named, lasting=lasting)
    demand = Demand(
        most_output=1,
        memory_bytes=written.size_bytes
        + len(sequence)
        + MESSAGE_BYTES * (2 + len(given.inputs))
        + ENTRY_BYTES * entries,
        affinity=blake2b(b"sequence" + sequence, digest_size=16).digest() if sequence else b"",
        sticky=bool(sequence),
        contents=written.digest,
    )
    if not written.memories:
        return written.work, demand
    return SharedWork(written.work, written.memories, written.uploaded_bytes, written.blobs), demand


def _contents(spec: tp.TaskSpec, given: wp.Input, sampling: Mapping[str, Any]) -> bytes:
    """Equal for tasks of which a worker dies alike.

    That is the same input, adapter, kind of work and grammar. Labels, class, seed, lengths and the like are left out:
    who sends it again with other ones would kill as many workers again.
    """
    digest = sha256(b"embed" if spec.HasField("embedding") else b"generate")
    followed = [value for name, value in sampling.items() if PARAMETERS[name].form is Form.GRAMMAR]
    rules = [each.SerializeToString(deterministic=True) for each in followed]
    for part in (
        spec.adapter.encode(),
        spec.embedding.query.encode(),
        given.SerializeToString(deterministic=True),
        *rules,
    ):
        digest.update(len(part).to_bytes(8))  # so that no part goes on in the next one
        digest.update(part)
    return digest.digest()


def _memory_bytes(work: wp.Work) -> int:
    """About what a message takes, from above: ids have 4 bytes there, and of each message of a conversation a frame."""
    given = work.input
    return work.ByteSize() + MESSAGE_BYTES * (2 + len(given.chat.messages)) + 4 * len(given.tokens.ids)


def read_input(given: Given, into: wp.Input, limit_bytes: int, *, at: str = "spec.") -> tuple[int, bytes]:
    """Read what a task is given; about how many tokens it has, and its beginning.

    Args:
        given: Has one of prompt, chat and tokens.
        into: Where it is written.
        limit_bytes: Most bytes that it may have, `limits.prompt_bytes`.
        at: What the paths of fields begin with.

    Raises:
        InvalidFieldError: There is none, or a part of it is missing.
        LimitExceededError: It is longer than `limit_bytes`.
    """
    match given.WhichOneof("input"):
        case "prompt":
            into.prompt = prompt = given.prompt
            check_size(len(prompt.encode()), limit_bytes)
            return len(prompt) // CHARACTERS_PER_TOKEN, prompt[:AFFINITY_CHARACTERS].encode()
        case "chat":
            into.chat.CopyFrom(read_chat(given.chat, at=f"{at}chat"))
            texts = _texts_of(into.chat)
            check_size(sum([len(text.encode()) for text in texts]), limit_bytes)
            first, pictures = into.chat.messages[0], into.chat.pictures
            begin = "".join(_texts_of_message(first))[:AFFINITY_CHARACTERS].encode()
            for picture in pictures[: len(first.images)]:
                begin += sha256(picture.data).digest()
            return sum(map(len, texts)) // CHARACTERS_PER_TOKEN + TOKENS_PER_PICTURE * len(pictures), begin
        case "tokens" if isinstance(given, tp.TaskSpec):
            ids = given.tokens.token_ids
            if not ids:
                raise InvalidFieldError(
                    f"{at}tokens.token_ids is empty; give one at least", field=f"{at}tokens.token_ids"
                )
            check_size(4 * len(ids), limit_bytes)
            into.tokens.ids.MergeFrom(ids)
            return len(ids), array("I", ids[: AFFINITY_CHARACTERS // CHARACTERS_PER_TOKEN]).tobytes()
        case _ if at:
            raise InvalidFieldError(
                "spec has no input; set one of prompt, chat, tokens, infer and call", field=f"{at}input"
            )
        case _:
            raise InvalidFieldError("the request has no input; set prompt or chat", field="input")


def read_text(request: ms.TokenizeRequest | ms.CountTokensRequest, limit_bytes: int) -> wp.Input:
    """The text or the conversation of a request; raises as `read_input`."""
    given = wp.Input()
    read_input(request, given, limit_bytes, at="")
    return given


def read_token_ids(request: ms.DetokenizeRequest, limit_bytes: int) -> wp.Input:
    """The tokens of a request.

    Raises:
        LimitExceededError: They are longer than `limit_bytes`, at 4 bytes a token.
    """
    check_size(4 * len(request.token_ids), limit_bytes)
    tokens = wp.Tokens(ids=request.token_ids, with_pieces=request.with_pieces, with_writing=request.with_writing)
    return wp.Input(tokens=tokens)


def check_size(size_bytes: int, limit_bytes: int) -> None:
    """Refuse a prompt of more bytes than `limits.prompt_bytes`.

    Raises:
        LimitExceededError: It has more.
    """
    if size_bytes > limit_bytes:
        facts = {"bound": "limits.prompt_bytes", "value": str(size_bytes), "limit": str(limit_bytes)}
        raise LimitExceededError(
            f"the prompt has {size_bytes} bytes and limits.prompt_bytes is {limit_bytes}", metadata=facts
        )


def _texts_of(chat: wp.Chat) -> list[str]:
    """All that the client wrote."""
    texts = [text for message in chat.messages for text in _texts_of_message(message)]
    return [*texts, chat.tools_json, chat.variables_json]


def _texts_of_message(m: wp.Message) -> tuple[str, ...]:
    return m.content, *m.parts, m.name, m.tool_calls_json, m.tool_call_id, m.reasoning_content


def _read_embedding(spec: tp.TaskSpec, into: wp.Embed, limit_bytes: int) -> None:
    params = spec.embedding
    if params.pooling not in tp.Pooling.values():
        raise InvalidFieldError(
            f"pooling is {params.pooling}; it must be from 0 to {max(tp.Pooling.values())}",
            field="spec.embedding.pooling",
        )
    if params.query and (params.pooling != tp.Pooling.POOLING_RANK or spec.WhichOneof("input") != "prompt"):
        raise InvalidFieldError(
            "a query is for pooling POOLING_RANK and an input that is a prompt; leave it out, or set both",
            field="spec.embedding.query",
        )
    if (size := len(params.query.encode())) > limit_bytes:
        raise LimitExceededError(
            f"the query has {size} bytes; limits.prompt_bytes allows {limit_bytes}", field="spec.embedding.query"
        )
    into.query = params.query
    into.pooling = params.pooling
    into.normalize = params.normalize if params.HasField("normalize") else True
