"""Settings by which a model says how its requests are computed as one: for every backend that has them in its spec."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from inferd.plugin.backend import LoadError, Setting
from inferd.plugin.batch_checks import check_batching
from inferd.plugin.batching import FILLED_TIMES, Batching, Cut, Fill, Padding
from inferd.plugin.tensor import ElementType, Signature, TensorInfo

BATCH_SETTINGS: Final = (
    Setting(
        name="preferred_batches",
        kind="str",
        default="",
        description="numbers of rows that are computed at once, without waiting for more, like 8,16,32; default: none",
    ),
    Setting(
        name="batch_delay_ms",
        kind="float",
        minimum=0,
        maximum=60_000,
        description="most milliseconds that a request waits for others; default: workers.batch_delay_s of the kernel",
    ),
    Setting(
        name="padding",
        kind="str",
        default="",
        description="sizes that are filled up so that requests which differ in them are computed as one:"
        " INPUT:DIMENSION=VALUE for all inputs that have it, with commas between them, then > and each output"
        " that is cut back, OUTPUT:DIMENSION; several with ; between them. Like ids:1=0,mask:1=0>hidden:1. Default:"
        " only equal shapes",
    ),
    Setting(
        name="padding_times",
        kind="float",
        default=FILLED_TIMES,
        minimum=1,
        maximum=65_536,
        description="a batch that is filled up has at most so many times the elements that its requests gave",
    ),
)
"""For `BackendSpec.settings` of a backend of models of tensors; `read_batching` reads them."""

_SPELLINGS: Final = {"true": True, "false": False}


def read_batching(signature: Signature, settings: Mapping[str, Any]) -> Signature:
    """A signature with what a model's settings say of its batches.

    Args:
        signature: Of the model, without that.
        settings: As `LoadRequest` has them; what is missing of `BATCH_SETTINGS` has its default.

    Raises:
        LoadError: One contradicts the model; the message names the setting, what it says and what it may say.
    """
    settings = {setting.name: setting.default for setting in BATCH_SETTINGS} | dict(settings)
    texts = {name: str(settings[name] or "").strip() for name in ("preferred_batches", "padding")}
    delay_ms = settings["batch_delay_ms"]
    said = [name for name, text in texts.items() if text] + (["batch_delay_ms"] if delay_ms is not None else [])
    if said and signature.most_batch == 1:
        raise LoadError(
            f"setting {said[0]!r} is set, but the model computes one request at a time; leave it out, or set"
            " 'max_batch' where the first size of every input and output is free"
        )
    batching = Batching(
        preferred=_read_preferred(texts["preferred_batches"], signature.most_batch),
        delay_s=None if delay_ms is None else float(delay_ms) / 1000,
        paddings=tuple(_read_padding(text, signature) for text in texts["padding"].split(";") if text.strip()),
        filled_times=float(settings["padding_times"]),
    )
    made = replace(signature, batching=batching)
    try:
        check_batching(made)
    except ValueError as error:
        raise LoadError(f"setting 'padding' is {texts['padding']!r}: {error}") from None
    return made


def _read_preferred(text: str, most: int) -> tuple[int, ...]:
    if not text:
        return ()
    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if not (word.isascii() and word.isdigit() and 1 <= int(word) <= most)]
    if wrong:
        raise LoadError(
            f"setting 'preferred_batches' has {wrong[0]!r}; it must be numbers from 1 to {most}, the model's"
            " largest batch (setting 'max_batch'), with commas between them, like 8,16"
        )
    return tuple(sorted({int(word) for word in words}))


def _read_padding(text: str, signature: Signature) -> Padding:
    """A rule: INPUT:DIMENSION=VALUE,…>OUTPUT:DIMENSION,…."""
    left, mark, right = text.partition(">")
    fills = tuple(_read_fill(each, signature.inputs) for each in left.split(","))
    cuts = []
    for each in right.split(",") if mark else ():
        info, dimension = _read_place(each, signature.outputs, "output", "OUTPUT:DIMENSION")
        cuts.append(Cut(output_name=info.name, dimension=dimension))
    return Padding(fills=fills, cuts=tuple(cuts))


def _read_fill(text: str, inputs: Sequence[TensorInfo]) -> Fill:
    place, mark, value = text.strip().rpartition("=")
    if not mark:
        raise _wrong(text, "an input", "INPUT:DIMENSION=VALUE", inputs)
    info, dimension = _read_place(place, inputs, "input", "INPUT:DIMENSION=VALUE")
    return Fill(input_name=info.name, dimension=dimension, value=_read_value(value, info))


def _read_place(text: str, infos: Sequence[TensorInfo], what: str, form: str) -> tuple[TensorInfo, int]:
    name, _, dimension = text.strip().rpartition(":")
    info = next((each for each in infos if each.name == name), None)
    if info is None or not dimension.isascii() or not dimension.isdigit():
        raise _wrong(text, f"an {what}", form, infos)
    return info, int(dimension)


def _read_value(text: str, info: TensorInfo) -> float | str:
    if info.element_type is ElementType.STRING:
        return text
    if text.lower() in _SPELLINGS:
        return _SPELLINGS[text.lower()]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise LoadError(
            f"setting 'padding' fills input {info.name!r} with {text!r}; it must be a number, as the input is"
            f" {info.element_type.name}"
        ) from None


def _wrong(text: str, what: str, form: str, infos: Sequence[TensorInfo]) -> LoadError:
    names = ", ".join(info.name for info in infos)
    return LoadError(f"setting 'padding' has {text.strip()!r}; it must be {form} with {what} of {names}")
