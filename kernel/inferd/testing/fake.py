"""A backend without a model, which fails on demand."""

import json
import os
import signal
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from inferd.errors import words_of
from inferd.plugin import (
    DeviceInfo,
    LoadedModel,
    LoadedTensorModel,
    LoadError,
    LoadRequest,
    MemoryNeed,
    ModelDescription,
    Probe,
    TokenLimits,
    UnsupportedModelError,
    Vocabulary,
)
from inferd.plugin.backend import ReportProgress
from inferd.plugin.training import TrainError, TrainFollower, TrainRequest, TrainSession
from inferd.plugin.vocabulary import TokenKind
from inferd.sampling import defaults_of
from inferd.testing.fake_faults import BYTES, END, Faults
from inferd.testing.hangs import take

SPECIALS: Final = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('unknown role ' ~ message.role) }}"
    "{% endif %}"
    "{{ '<|' ~ message.role ~ '|>' ~ message.content }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_PROGRESS_STEPS: Final = 20


def _letters() -> list[str]:
    """GPT-2's stand-ins for the bytes: those that cannot be seen are shown by letters from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(BYTES) if byte not in visible]
    return [chr(byte) if byte in visible else chr(0x100 + hidden.index(byte)) for byte in range(BYTES)]


VOCABULARY: Final = Vocabulary(
    algorithm="bpe",
    tokens=(*_letters(), *SPECIALS),
    kinds=(TokenKind.NORMAL,) * BYTES + (TokenKind.CONTROL,) * len(SPECIALS),
    pre_tokenizer="gpt-2",
    eos_ids=(END,),
    chat_template=TEMPLATE,
)
"""A token for each byte, by its value, and the control tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeModel(Faults):
    """What a `.fake` file may say, as a JSON object.

    Attributes:
        context_tokens: See `TokenLimits`, as the next seven.
        block_tokens: See there.
        blocks: See there.
        max_sequences: See there.
        max_step_tokens: See there.
        embedding_size: See there. A hidden state is the token, its position and 1, cut to this size.
        attributed: It tells what tokens are worth: by gradients what each has as a number of a hundredth, by attention
            the same for all.
        attribute_error: Telling that ends with this error.
        window_tokens: See there; whether cells of a window hold what they must is checked in every step.
        window_blocks: See there.
        weights_bytes: What it says that it needs, as the next two. It takes next to nothing.
        kv_bytes: See there.
        workspace_bytes: See there.
        kv_share: How much of what may be given of its device its KV pool needs besides, from 0 to 1.
        adapter: A path; nothing is made of it.
        load_s: How long loading takes, in seconds.
        measure_error: Measuring ends with this error.
        die_in_measure: Measuring kills the process.
        measure_takes: What measuring takes without end: "memory" or "descriptors"; "" for nothing.
        load_error: Loading ends with this error.
        unsupported: Measuring ends with this error, and another backend may load it.
        sampling: How it advises to sample, by the names of `SamplingDefaults`.
        tensor: It is a model of tensors, of this name in `inferd.testing.fake_tensor`; "" for a language model.
        most_batch: See `Signature`, as the next one; of a model of tensors.
        threads: See there.
        memory: What is wrong with the memories that its outputs are in: "unsealed", "short", "beyond", "none" (no
            memory at all) or "absent" (none comes); of a model of tensors.
    """

    context_tokens: int = 1024
    block_tokens: int = 16
    blocks: int = 1024
    max_sequences: int = 64
    max_step_tokens: int = 1024
    embedding_size: int = 3
    attributed: bool = False
    attribute_error: str = ""
    window_tokens: int = 0
    window_blocks: int = 0
    weights_bytes: int = 1 << 20
    kv_bytes: int = 1 << 18
    workspace_bytes: int = 0
    kv_share: float = 0.0
    measure_error: str = ""
    die_in_measure: bool = False
    measure_takes: str = ""
    adapter: str = ""
    load_s: float = 0.0
    load_error: str = ""
    unsupported: str = ""
    sampling: dict[str, float] = field(default_factory=dict)
    tensor: str = ""
    most_batch: int = 1
    threads: int = 1
    memory: str = ""


class FakeBackend:
    """Answers a chat with the words of its last message, and continues a text by repeating it for ever.

    What it says is computed from the KV cells that it finds by the block tables, so that a wrong table gives a wrong
    answer or an error. A token is a byte of UTF-8.
    """

    def probe(self) -> Probe:
        """One device."""
        return Probe(devices=(DeviceInfo(device_id="fake:0", description="none", memory_bytes=1 << 30, cores=1),))

    def measure(self, request: LoadRequest) -> MemoryNeed:
        """What a `.fake` file says.

        Raises:
            LoadError: There is no such file, it says something unknown, or `measure_error` asks for it.
        """
        model = _read(request)
        if model.die_in_measure:
            os.kill(os.getpid(), signal.SIGKILL)
        model.hang("measure")
        take(model.measure_takes)
        if model.unsupported:
            raise UnsupportedModelError(model.unsupported)
        if model.measure_error:
            raise LoadError(model.measure_error)
        kv_bytes = model.kv_bytes + int(request.capacity_bytes * model.kv_share)
        return MemoryNeed(weights_bytes=model.weights_bytes, kv_bytes=kv_bytes, workspace_bytes=model.workspace_bytes)

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel | LoadedTensorModel:
        """Load a `.fake` file.

        Raises:
            LoadError: There is no such file, it says something unknown, or `load_error` asks for it.
        """
        model = _read(request)
        for step in range(_PROGRESS_STEPS):
            progress(step / _PROGRESS_STEPS)
            time.sleep(model.load_s / _PROGRESS_STEPS)  # stands for the time that a real model takes
        model.hang("load")
        if model.load_error:
            raise LoadError(model.load_error)
        progress(1.0)
        description = ModelDescription(architecture="fake", parameters=0, weight_format="none", compute_format="none")
        from inferd.testing import fake_session, fake_tensor  # noqa: PLC0415 - numpy, which only who loads needs

        if model.tensor:
            return LoadedTensorModel(session=fake_tensor.make_tensor_session(model), description=description)
        limits = TokenLimits(
            vocabulary_size=BYTES + len(SPECIALS),
            context_tokens=model.context_tokens,
            block_tokens=model.block_tokens,
            blocks=model.blocks,
            max_sequences=model.max_sequences,
            max_step_tokens=model.max_step_tokens,
            embedding_size=model.embedding_size,
            window_tokens=model.window_tokens,
            window_blocks=model.window_blocks,
        )
        return LoadedModel(
            session=fake_session.FakeSession(
                limits, model, attributed=model.attributed, attribute_error=model.attribute_error
            ),
            vocabulary=VOCABULARY,
            description=description,
            sampling=defaults_of(model.sampling),
        )

    def measure_training(self, request: TrainRequest) -> MemoryNeed:
        """What the model says that it begins with, else 1 MiB.

        Raises:
            TrainError: There is no such file, or it says something unknown.
        """
        from inferd.testing.fake_trainer import measure_fake  # noqa: PLC0415 - which only who trains needs

        return measure_fake(_base(request).weights_bytes)

    def train(self, request: TrainRequest, progress: ReportProgress) -> TrainSession:
        """A session whose steps take as long as those of the model that it begins with.

        Raises:
            TrainError: As `measure_training`, or a row is wrong.
        """
        from inferd.testing.fake_trainer import make_fake  # noqa: PLC0415 - as above

        return make_fake(request, progress, step_s=_base(request).step_s)

    def follow(self, request: TrainRequest, progress: ReportProgress) -> TrainFollower:  # noqa: ARG002 - any
        """One that says that it is there."""
        from inferd.testing.fake_gang import FakeFollower  # noqa: PLC0415 - as above

        progress(1.0)
        return FakeFollower()


def _base(request: TrainRequest) -> FakeModel:
    if request.path is None:
        return FakeModel()
    try:
        return FakeModel(**json.loads(request.path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise TrainError(f"{request.path}: {words_of(error)}") from error


def _read(request: LoadRequest) -> FakeModel:
    try:
        given = json.loads(request.path.read_text())
        model = FakeModel(**given)
        if model.tensor:
            _check_kind(model.tensor)
    except (OSError, ValueError, TypeError) as error:
        known = ", ".join(field.name for field in fields(FakeModel))
        raise LoadError(f"{request.path}: {words_of(error)}; a .fake file is a JSON object of: {known}") from error
    chosen: dict[str, Any] = {name: value for name, value in request.settings.items() if value is not None}
    return FakeModel(**(asdict(model) | chosen))


def _check_kind(name: str) -> None:
    from inferd.testing.fake_tensor import KINDS  # noqa: PLC0415 - as above

    if name not in KINDS:
        raise ValueError(f"tensor is {name!r}; it must be one of {', '.join(KINDS)}")
