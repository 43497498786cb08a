"""What a backend is: an inert `BackendSpec` and a class that probes the host and loads models."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from inferd.core.resources import MemoryNeed
from inferd.core.sampling_defaults import NO_DEFAULTS, SamplingDefaults
from inferd.errors import suggestion
from inferd.plugin.pictures import PictureReader, SoundReader
from inferd.plugin.recipe import Recipe
from inferd.plugin.session import TokenSession
from inferd.plugin.tensor import TensorSession
from inferd.plugin.vocabulary import Vocabulary
from inferd.sandbox.state import NOTHING, Access

SettingValue = int | float | bool | str
ReportProgress = Callable[[float], None]


Kind = Literal["int", "float", "bool", "str"]
KINDS: tuple[str, ...] = get_args(Kind)
INT64 = 1 << 63  # whole numbers go to workers in 64 bits: they are below it, and at least its negative


def one_of(names: Sequence[str]) -> str:
    """The names as a choice, for errors."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else "".join(names)


class BackendUnavailable(Exception):  # noqa: N818 - not a defect: the backend says why it cannot work on this host
    """Raised by `Backend.probe`: the backend cannot work on this host.

    Attributes:
        why: For people, for example "no CUDA device".
        fix: The command that mends it, or "".
    """

    def __init__(self, why: str, *, fix: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.fix = fix


class LoadError(Exception):
    """Raised by `Backend.load`: the model cannot be loaded. The message names the cause, the field and both numbers."""


class UnsupportedModelError(LoadError):
    """As `LoadError`, where the file may be sound and another backend may run it; the kernel then names those.

    Attributes:
        architecture: What the file says that it is; only backends that list it in `BackendSpec.supported`, or that list
            none for the format, are named. "" where it is not known: then all that load the format are.
    """

    architecture = ""


@contextmanager
def naming(architecture: Callable[[], str]) -> Iterator[None]:
    """Refusals from within name what the model is; `architecture` is asked where they do not say it themselves."""
    try:
        yield
    except UnsupportedModelError as error:
        error.architecture = error.architecture or architecture()
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting that a backend understands in a model's `settings`.

    Attributes:
        name: Its name, with its unit.
        kind: How its text is read. Another is a ValueError.
        default: Its default; None when the backend derives it.
        description: What it does.
        minimum: Smallest value of a number; None for no bound but that of 64 bits, and that it is finite.
        maximum: Largest value of a number; None for no bound but those.
        choices: The values of a "str" setting; empty for any.
        names_file: Whether its value is the path of a file or a folder that the worker reads or writes: not everybody
            may name any.
        written: Whether the worker writes there.
    """

    name: str
    kind: Kind
    description: str
    default: SettingValue | None = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    names_file: bool = False
    written: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Setting.kind of {self.name!r} is {self.kind!r}; it must be {one_of(KINDS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """A backend as inert data.

    Attributes:
        name: Its name, for example "cpu".
        loader: Dotted path of its `Backend` class, "package.module:Class"; imported in a worker or in a probing child.
        formats: Formats that it loads: the endings of the files, without the dot, for example ("gguf",); "hf" is a
            folder with a config.json; one with a model.onnx (or onnx/model.onnx) and no *.safetensors is of the format
            "onnx"; one with a heads.json of the format "heads"; one with a classifier.json and *.safetensors of the
            format "classifier", whatever else it has.
        description: What it is, for people.
        settings: Settings that it understands.
        rank: Among backends that can load a format, the lowest rank is chosen; ties by name.
        accelerated: By format, the rank where the first device is not the host's processor; else `rank`.
        extra: The extra of the distribution that brings its framework, for the advice in `inferd doctor`; or "".
        supported: What files may hold, by kind, for `inferd models --supported`; for example "GGUF architectures" and
            their names. Empty where that is not known beforehand. Kinds with "GGUF" or "Hugging Face" and
            "architectures" or "types" in them list the architectures of such files, all of them.
        access: What its workers reach of the host besides Python, libraries and the model: nothing, by default.
        spans: Whether an instance may span devices: then its class is a `SpanningBackend`, too, and its setting `ranks`
            says how many processes compute a model on one device, where it has one.
        trains: Methods of training that it has, "classify", "lora", "full", "embed" or "distil": then its class is a
            `TrainingBackend`, too.
        trains_together: Those of them that several workers can train together: then its class is a
            `GatheringBackend`, too.
        probe: Dotted path of a function "package.module:name" that gives what the class's `probe` gives and imports
            less: each start of a kernel waits for it. Empty: the class is imported, and asked.
    """

    name: str
    loader: str
    formats: tuple[str, ...]
    description: str
    settings: tuple[Setting, ...] = ()
    rank: int = 100
    accelerated: Mapping[str, int] = field(default_factory=dict)
    extra: str = ""
    supported: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    access: Access = NOTHING
    spans: bool = False
    trains: tuple[str, ...] = ()
    trains_together: tuple[str, ...] = ()
    probe: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """A device that a backend found.

    Attributes:
        device_id: For example "cpu:0".
        description: What it is, for people.
        memory_bytes: Its memory, limits of the control group respected.
        cores: Processor cores that may be used; 0 where that has no meaning.
        uuid: By which the driver of an NVIDIA device knows it, "GPU-…"; "" for other devices. The kernel then measures
            what programs outside take of it.
    """

    device_id: str
    description: str
    memory_bytes: int
    cores: int = 0
    uuid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What `Backend.probe` found.

    Attributes:
        devices: At least one device. A model goes to the first one, or to one like it: whose id differs only behind
            the last colon. Others are for clients that name them.
        why: What the backend lacks here and works without, as a sentence for people; "" when nothing.
        fix: The command that mends it, or "".
    """

    devices: tuple[DeviceInfo, ...]
    why: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """What to load.

    Attributes:
        path: The model's file or folder.
        device: One of the probed devices.
        settings: Every setting of the spec by name, checked and converted; None where a derived default applies.
        capacity_bytes: What may be used of the device's memory at all. Defaults are derived from it and not from what
            is free just now, so that the same model needs the same memory whenever it is loaded.
        cores: Cores of the processor that no lease holds, on which it is to compute; 0 for all that this process has.
        ranks: Devices of the processes that compute it together, one for each, `device` first; empty for one process.
            What `Backend.measure` tells is for each device, of all its ranks.
    """

    path: Path
    device: str
    settings: Mapping[str, SettingValue | None] = field(default_factory=dict)
    capacity_bytes: int
    cores: int = 0
    ranks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """What was loaded, for people and receipts.

    Attributes:
        architecture: For example "llama".
        parameters: Number of weights.
        weight_format: As stored, for example "Q4_1".
        compute_format: As computed with, for example "F32".
    """

    architecture: str
    parameters: int
    weight_format: str
    compute_format: str


class Pooling(Enum):
    """How tokens become one vector; the values are those of `inferd.v1.Pooling`, its default apart."""

    LAST = 1
    MEAN = 2
    FIRST = 3
    RANK = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankHead:
    """What makes scores of a hidden state: matrices, one after the other.

    Attributes:
        pooling: How hidden states become the one that it is given.
        layers: Each a matrix (outputs, inputs) in fp32, its bias (outputs,) or None, and what becomes of the result:
            "tanh", "gelu" (with the error function), or "" for nothing.
        norm: Weights and biases of a layer norm before the last matrix; None for none.
        epsilon: Of that norm.
    """

    pooling: Pooling
    layers: tuple[tuple[Any, Any, Literal["", "tanh", "gelu"]], ...]
    norm: tuple[Any, Any] | None = None
    epsilon: float = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingDefaults:
    """How a model's file wants embeddings to be made, where a task does not say otherwise.

    Attributes:
        pooling: How the hidden states of tokens become one vector.
        add_eos: Whether a text gets the first of `Vocabulary.eos_ids` behind it. Not for algorithm "json", whose
            definition says itself what is put around a text.
        head: What `Pooling.RANK` makes scores with; None where the model has none.
        pooled: The session gives the same vector, that of the whole text, for each of its tokens: other poolings than
            `pooling` are refused.
    """

    pooling: Pooling = Pooling.LAST
    add_eos: bool = False
    head: RankHead | None = None
    pooled: bool = False


EMBEDDING_DEFAULTS = EmbeddingDefaults()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """What `Backend.load` returns for a language model.

    Attributes:
        session: What computes.
        vocabulary: Of its tokens.
        description: What it is.
        sampling: How its file advises to sample; what it does not name is None.
        embedding: How its file wants embeddings to be made.
        recipe: Of a decoder that writes what its encoder has read (`SourcedSession`): the sound that it is given, and
            the text that it writes (`WrittenOutput`). Clients then ask of it what they ask of a model of tensors. What
            a recipe beside the model says goes before it. None for models that read text.
        pictures: What it does with the pictures or sounds of a conversation; where it takes none, why, for its clients,
            as half a sentence; "" where there is nothing to say.
        draft: What guesses its next tokens, with as many logits: called from the same thread, between steps. None for
            nothing.
    """

    session: TokenSession
    vocabulary: Vocabulary
    description: ModelDescription
    sampling: SamplingDefaults = NO_DEFAULTS
    embedding: EmbeddingDefaults = EMBEDDING_DEFAULTS
    recipe: Recipe | None = None
    pictures: PictureReader | SoundReader | str = ""
    draft: TokenSession | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTensorModel:
    """What `Backend.load` returns for a model that turns tensors into tensors.

    Attributes:
        session: What computes.
        description: What it is.
        recipe: How files and texts of clients become its inputs, and its outputs answers; None where the recipe beside
            the model says it, if there is one.
    """

    session: TensorSession
    description: ModelDescription
    recipe: Recipe | None = None


@runtime_checkable
class Backend(Protocol):
    """What a backend's class offers. It is made without arguments, in a child or worker process of its own."""

    def probe(self) -> Probe:
        """Find the devices of this host.

        Raises:
            BackendUnavailable: It cannot work here; the kernel lists it as SKIPPED with the reason.
        """
        ...

    def measure(self, request: LoadRequest) -> MemoryNeed:
        """What `load` with the same request will take; from the file's metadata, without taking it.

        It does not judge whether that is too much: whoever gives the memory does.

        Raises:
            LoadError: As `load`, as far as the metadata tells.
        """
        ...

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedModel | LoadedTensorModel:
        """Load a model; call `progress` with rising fractions from 0 to 1, at least once a second.

        Raises:
            LoadError: The file or a setting does not permit it. No partial state may stay behind.
        """
        ...


def read_settings(spec: BackendSpec, given: Mapping[str, str]) -> dict[str, SettingValue | None]:
    """Check the texts of a model's settings against the spec and convert them; absent ones take their defaults.

    Raises:
        ValueError: An unknown name (with the nearest known one), or a value outside its bounds.
    """
    check_names(spec, given)
    known = {setting.name: setting for setting in spec.settings}
    return {name: _read(s, given[name]) if name in given else s.default for name, s in known.items()}


def check_names(spec: BackendSpec, names: Collection[str]) -> None:
    """See that a backend has settings of these names.

    Raises:
        ValueError: An unknown name, with the nearest known one.
    """
    known = sorted(setting.name for setting in spec.settings)
    for name in names:
        if name not in known:
            raise ValueError(_unknown(name, known, spec.name))


def _unknown(name: str, known: Sequence[str], backend: str) -> str:
    near = suggestion(name, list(known))
    hint = f"; did you mean {near!r}?" if near else "."
    return f"backend {backend!r} has no setting {name!r}{hint} It knows: {', '.join(known) or 'none'}"


def _read(setting: Setting, text: str) -> SettingValue:
    value: SettingValue
    try:
        match setting.kind:
            case "int":
                value = int(text)
            case "float":
                value = float(text)
            case "bool":
                value = {"true": True, "false": False}[text.lower()]
            case "str":
                value = text
    except (ValueError, KeyError):
        raise ValueError(f"setting {setting.name!r} is {text!r}; it must be of kind {setting.kind}") from None
    if not isinstance(value, str | bool) and (expected := _outside(setting, value)):
        raise ValueError(f"setting {setting.name!r} is {text}; it must be {expected}")
    if setting.choices and value not in setting.choices:
        raise ValueError(f"setting {setting.name!r} is {text!r}; it must be one of {', '.join(setting.choices)}")
    return value


def _outside(setting: Setting, value: float) -> str:
    """What a number must be that is outside the bounds of its setting, or more than a worker can be told; else ""."""
    low, high = setting.minimum, setting.maximum
    if not isinstance(value, int) and not isfinite(value):
        return "a finite number"
    if (low is None or value >= low) and (high is None or value <= high):
        return "" if not isinstance(value, int) or -INT64 <= value < INT64 else _far(value)
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"at most {high}" if low is None else f"at least {low}"


def _far(value: int) -> str:
    """What a whole number must be that has more than 64 bits."""
    return f"at most {INT64 - 1}" if value > 0 else f"at least {-INT64}"
