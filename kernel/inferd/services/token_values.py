"""Texts and tokens that are turned into each other: from the wire."""

from array import array

from inferd.core.task import TaskInput, TokenInput
from inferd.errors import InvalidFieldError
from inferd.services.task_values import check_size, read_input
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as pb


def read_text(request: ms.TokenizeRequest | ms.CountTokensRequest, limit_bytes: int) -> TaskInput:
    """The text or the conversation of a request.

    Raises:
        InvalidFieldError: There is none, or a part of it is missing.
        LimitExceededError: It is longer than `limits.prompt_bytes`.
    """
    match request.WhichOneof("input"):
        case "prompt":
            return read_input(pb.TaskSpec(prompt=request.prompt), limit_bytes, at="")
        case "chat":
            return read_input(pb.TaskSpec(chat=request.chat), limit_bytes, at="")
        case _:
            raise InvalidFieldError("the request has no input; set prompt or chat", field="input")


def read_token_ids(request: ms.DetokenizeRequest, limit_bytes: int) -> TokenInput:
    """The tokens of a request.

    Raises:
        LimitExceededError: They are longer than `limits.prompt_bytes`, at 4 bytes a token.
    """
    check_size(4 * len(request.token_ids), limit_bytes)
    return TokenInput(array("I", request.token_ids))
