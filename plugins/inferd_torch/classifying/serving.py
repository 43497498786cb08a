"""A classifier that serves: texts to the probability of each label, asked as those of the backend `heads` are."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch._subclasses import FakeTensorMode

from inferd.plugin import (
    ElementType,
    LabelOutput,
    LoadedTensorModel,
    LoadError,
    LoadRequest,
    MemoryNeed,
    ModelDescription,
    PlainOutput,
    Recipe,
    ReportProgress,
    Signature,
    Tensor,
    TensorInfo,
    TrainError,
)
from inferd_torch import devices, network
from inferd_torch.capacity import CUDA, PROCESSOR
from inferd_torch.classifying import networks
from inferd_torch.classifying.about import About, read_about
from inferd_torch.classifying.reading import TextReader, make_reader
from inferd_torch.loading import meter
from inferd_torch.plugin import CLASSIFIER_MARK, SPEC
from inferd_torch.pulse import Pulse
from inferd_torch.tally import Tally

TEXT, SCORES, CUT, LABEL = "text", "scores", "cut", "label"
MOST_TOLD: Final = 20
"""Labels that are told of a text, where no setting says otherwise."""
PART_TOKENS: Final = 4096
"""Tokens that are computed together, at most, but for a text that has more."""
SPARE: Final = 1.5
"""Of what a part takes: texts of other lengths leave holes in the heap."""
OF_TOKENS: Final = ("context_tokens", "kv_tokens", "max_sequences", "max_step_tokens", "block_tokens", "ranks", "draft")
"""Settings of models that write text."""
_NAMED: Final = 20  # labels in a description


class ClassifierSession:
    """One loaded classifier.

    Args:
        whole: The network.
        reader: Makes tokens of texts.
        about: What it is.
        device: Where it computes.
        most_batch: Most texts of several requests.
        refuse: Whether texts are refused that have more tokens than are read; else they are cut.
    """

    def __init__(
        self, whole: Any, reader: TextReader, about: About, *, device: torch.device, most_batch: int, refuse: bool
    ) -> None:
        self._whole, self._reader, self._about = whole, reader, about
        self._device, self._refuse = device, refuse
        self._part_tokens = _count_rows(about, most_batch) * about.most_tokens  # also of a request that has more
        labels = about.labels
        more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
        self.signature = Signature(
            inputs=(
                TensorInfo(
                    name=TEXT, element_type=ElementType.STRING, shape=("rows",), description="texts to classify"
                ),
            ),
            outputs=(
                TensorInfo(
                    name=SCORES,
                    element_type=ElementType.FLOAT,
                    shape=("rows", len(labels)),
                    description=f"the probability of each label: {', '.join(labels[:_NAMED])}{more}",
                ),
                TensorInfo(
                    name=CUT,
                    element_type=ElementType.INT32,
                    shape=("rows",),
                    description="tokens that were not read",
                ),
            ),
            most_batch=most_batch,
        )

    def predict(self, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Mapping[str, Tensor]:
        """The outputs that are wanted.

        Raises:
            ValueError: A text is too long.
        """
        read = [self._read(number, text) for number, text in enumerate(inputs[TEXT].array.tolist(), 1)]
        made: dict[str, Tensor] = {}
        if SCORES in outputs:
            made[SCORES] = _tensor(ElementType.FLOAT, self._score([ids for ids, _ in read]))
        if CUT in outputs:
            made[CUT] = _tensor(ElementType.INT32, np.array([cut for _, cut in read], "<i4"))
        return made

    def _read(self, number: int, text: str) -> tuple[list[int], int]:
        try:
            ids, cut = self._reader.read(text)
        except ValueError as error:
            raise ValueError(f"text {number} {error}") from None
        if cut and self._refuse:
            raise ValueError(f"text {number} has {len(ids) + cut} tokens; the model reads {len(ids)}")
        return ids, cut

    def _score(self, texts: Sequence[list[int]]) -> Any:
        """Probabilities (texts, labels); texts of like lengths are computed together."""
        found = np.zeros((len(texts), len(self._about.labels)), "<f4")
        with torch.inference_mode():
            for places in _parts([len(text) for text in texts], self._part_tokens):
                scores = networks.score(self._whole, [texts[place] for place in places], self._device)
                found[places] = torch.softmax(scores.double(), -1).float().cpu().numpy()
        return found

    def close(self) -> None:
        """Give the memory back."""
        del self._whole
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def measure(request: LoadRequest) -> MemoryNeed:
    """What a classifier takes: its weights, and the largest part that it computes.

    Raises:
        LoadError: It is not sound, or a setting is about models that write text.
    """
    return _examine(request)[-1]


def load(request: LoadRequest, progress: ReportProgress) -> LoadedTensorModel:
    """Load it.

    Raises:
        LoadError: As `measure`; a weight is missing or of another shape, or there is no room.
    """
    progress(0.0)
    artifact, config, about, dtype, need = _examine(request)
    if need.total_bytes > request.capacity_bytes:
        raise LoadError(
            f"{request.path}: needs {need.total_bytes} bytes of memory, but {request.capacity_bytes} may be given"
        )
    device, settings = _device(request), request.settings
    try:
        reader = make_reader(artifact, most=about.most_tokens)
    except TrainError as error:
        raise LoadError(str(error)) from error
    with Pulse(progress, meter(device), expected_bytes=need.weights_bytes):
        whole, new = networks.load_network(artifact, config, device=device, dtype=dtype)
    if new:
        raise LoadError(f"{request.path}: {len(new)} weights are missing or of another shape, for example {min(new)}")
    most, top = settings["max_batch"], settings["top"]
    session = ClassifierSession(
        whole.eval(),
        reader,
        about,
        device=device,
        most_batch=int(most or 1),
        refuse=settings["longer"] == "refuse",
    )
    progress(1.0)
    description = ModelDescription(
        architecture=str(config.model_type),
        parameters=artifact.parameters,
        weight_format=artifact.weight_format,
        compute_format=str(dtype).removeprefix("torch.").upper(),
    )
    return LoadedTensorModel(session=session, description=description, recipe=_make_recipe(about, top))


def _examine(request: LoadRequest) -> tuple[Any, Any, About, torch.dtype, MemoryNeed]:
    _refuse_settings(request)
    about = read_about(request.path)
    artifact, config = networks.read_network(request.path)
    if networks.labels_of(config) != about.labels:
        raise LoadError(f"{request.path}: {CLASSIFIER_MARK} and config.json name other labels: they are of two models")
    device = _device(request)
    dtype = network.choose_dtype(artifact, config, str(request.settings["dtype"]), device)
    weights_bytes, part_bytes = _count(config, about, dtype, most_batch=int(request.settings["max_batch"] or 1))
    room = PROCESSOR if device.type == "cpu" else CUDA
    need = MemoryNeed(weights_bytes=weights_bytes, workspace_bytes=room.library_bytes + int(SPARE * part_bytes))
    return artifact, config, about, dtype, need


def _count(config: Any, about: About, dtype: torch.dtype, *, most_batch: int) -> tuple[int, int]:
    """Bytes of the weights, and of the largest part, on tensors that have shapes and no numbers."""
    rows = _count_rows(about, most_batch)
    with FakeTensorMode():
        whole = networks.make_network(config, dtype=dtype).eval()
        try:
            with torch.no_grad(), Tally() as tally:
                networks.score(whole, [[0] * about.most_tokens] * rows, torch.device("cpu"))
        except Exception as error:  # the edge to the code of an architecture
            raise LoadError(f"{config.model_type} cannot be served here: {type(error).__name__}: {error}") from error
        return sum(each.nbytes for each in whole.parameters()), tally.peak_bytes


def _count_rows(about: About, most_batch: int) -> int:
    """Texts of the most tokens that are computed together."""
    return min(max(PART_TOKENS // about.most_tokens, 1), most_batch)


def _device(request: LoadRequest) -> torch.device:
    devices.check_device(request.device)
    return torch.device("cpu" if request.device == devices.CPU else request.device)


def _refuse_settings(request: LoadRequest) -> None:
    defaults = {setting.name: setting.default for setting in SPEC.settings}
    for name in OF_TOKENS:
        if request.settings[name] != defaults[name]:
            raise LoadError(f"setting {name!r} is of models that write text, and a classifier does not; leave it out")


def _parts(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of texts that are computed together: those of like lengths, of at most so many tokens in all."""
    part: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if part and (len(part) + 1) * lengths[place] > most:
            yield part
            part = []
        part.append(place)
    if part:
        yield part


def _make_recipe(about: About, top: Any) -> Recipe:
    """What clients are told: the likeliest labels, and the scores of all."""
    told = min(int(top or MOST_TOLD), len(about.labels))
    return Recipe(
        where=CLASSIFIER_MARK,
        outputs=(
            LabelOutput(name=LABEL, takes=SCORES, labels=about.labels, top=told),
            PlainOutput(name=SCORES, takes=SCORES),
            PlainOutput(name=CUT, takes=CUT),
        ),
    )


def _tensor(kind: ElementType, array: Any) -> Tensor:
    return Tensor(element_type=kind, shape=array.shape, array=array)
