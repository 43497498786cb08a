"""From a request to a session: all is checked before memory is taken."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from inferd.plugin import (
    ExportKind,
    LoadError,
    MemoryNeed,
    Pooling,
    TrainError,
    TrainingRecipe,
    TrainRequest,
    list_hf_weights,
)
from inferd_torch import devices, network
from inferd_torch.artifact import Artifact
from inferd_torch.classifying.networks import make_network
from inferd_torch.folder import read_folder
from inferd_torch.loading import meter
from inferd_torch.plugin import HEARING_TYPES, SEEING_TYPES
from inferd_torch.pulse import Pulse
from inferd_torch.training import classifier_loading, memory
from inferd_torch.training.decoder import LanguageModel
from inferd_torch.training.encoder import PairExample, PairModel
from inferd_torch.training.encoder_loading import load_encoder, make_encoder, read_encoder, write_pooling
from inferd_torch.training.following import TorchFollower
from inferd_torch.training.labels import Labelled, read_labelled
from inferd_torch.training.lora import LoraLinear, add_lora, write_adapter
from inferd_torch.training.objective import Objective
from inferd_torch.training.rows import Order, Rows, divide
from inferd_torch.training.schedule import check_recipe
from inferd_torch.training.session import Course, TorchTrainSession
from inferd_torch.training.student import Pair, Student, begin, check_ranks, choose_layers, find_needed, shrink
from inferd_torch.training.texts import Texts, read_tokenizer

LORA, FULL, EMBED, CLASSIFY, DISTIL = "lora", "full", "embed", "classify", "distil"
METHODS = (LORA, FULL, EMBED, CLASSIFY, DISTIL)
_PLAIN: Final = "sdpa"  # attention as torch has it, which has gradients
_HEAD_BYTES: Final = 1 << 20  # of each file of weights, which tell of which model it is
NO_MATTER: Final = ("ranks", "least_ranks")
"""Of a recipe, what checkpoints are gone on from whatever it says: how many workers come to a result, and not which."""
COPIED: Final = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "generation_config.json", "chat_template.json"),
    *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
)
"""Files of a folder that are the same beside other weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request, as far as it can be checked without the weights.

    Attributes:
        request: What was asked.
        artifact: The model.
        config: As transformers reads it.
        device: Where to.
        precision: Of what is computed.
        dtype: Of the weights.
        spares: Compute layers again for the gradients.
        need: What it takes.
        pooling: How embeddings are made, where they are what is trained.
        labelled: The rows and their labels, where these are what is trained.
    """

    request: TrainRequest
    artifact: Artifact
    config: Any
    device: torch.device
    precision: torch.dtype
    dtype: torch.dtype
    spares: bool
    need: MemoryNeed
    pooling: Pooling | None = None
    labelled: Labelled | None = None


def examine(request: TrainRequest) -> Plan:
    """Check a recipe and a model, and count what its steps take.

    Raises:
        TrainError: The recipe contradicts itself or the model, which cannot be trained or does not fit.
    """
    recipe = request.recipe
    check_recipe(recipe)
    method = recipe.method.name.lower()
    if method not in METHODS:
        raise TrainError(f"method {method!r} is none that the torch backend trains: {', '.join(METHODS)}")
    if request.path is None:
        raise TrainError("the torch backend trains a model that is there; none is named")
    pooling: Pooling | None = None
    labelled = read_labelled(request) if method == CLASSIFY else None
    try:
        devices.check_device(request.device)
        if labelled is not None:
            artifact, config, context = classifier_loading.read_classifier(request.path, labelled.names)
        else:
            if method == EMBED:
                artifact, config, pooling = read_encoder(request.path)
            else:
                artifact, config = _read(request.path)
            context = network.read_context(artifact, config)
    except LoadError as error:
        raise TrainError(str(error)) from error
    if config.model_type in (*SEEING_TYPES, *HEARING_TYPES):
        what = "hears sounds" if config.model_type in HEARING_TYPES else "sees pictures"
        raise TrainError(f"{request.path}: {config.model_type} {what}; only models of texts alone are trained")
    if method == DISTIL:
        check_ranks(config, recipe)
    if recipe.most_tokens > context:
        raise TrainError(f"'most_tokens' is {recipe.most_tokens}, but the model serves {context}: lower it")
    device = torch.device("cpu" if request.device == devices.CPU else request.device)
    best = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    precision = network.DTYPES[recipe.precision or best]
    dtype = precision if method == LORA else torch.float32
    counted = partial(
        _count,
        artifact,
        config,
        recipe,
        device=device,
        precision=precision,
        dtype=dtype,
        pooling=pooling,
        labels=() if labelled is None else labelled.names,
    )
    spares, size = memory.choose(
        counted(spares=False),
        partial(counted, spares=True),
        capacity_bytes=request.capacity_bytes,
        advice="lower 'most_tokens', raise 'accumulate', or give more",
    )
    return Plan(
        request=request,
        artifact=artifact,
        config=config,
        device=device,
        precision=precision,
        dtype=dtype,
        spares=spares,
        need=size.need,
        pooling=pooling,
        labelled=labelled,
    )


def _read(path: Path) -> tuple[Artifact, Any]:
    """What is on disk, and its configuration."""
    if path.is_dir():
        artifact = read_folder(path)
        if artifact.packing is not None:
            raise TrainError(
                f"{path}: its weights have 4 bits ({artifact.packing.method}), which are not trained; take plain"
                " safetensors"
            )
        return artifact, network.read_config(artifact)
    from inferd_torch.gguf import read_gguf, refuse_unread  # noqa: PLC0415 - it imports gguf, which folders do without

    artifact = read_gguf(path)
    config = network.read_config(artifact)
    refuse_unread(artifact, config.get_text_config(decoder=True))
    return artifact, config


def _count(
    artifact: Artifact,
    config: Any,
    recipe: TrainingRecipe,
    *,
    device: torch.device,
    precision: torch.dtype,
    dtype: torch.dtype,
    pooling: Pooling | None,
    labels: tuple[str, ...],
    spares: bool,
) -> memory.Size:
    """What the largest part of a step takes."""
    rows, most = -(-recipe.batch // recipe.accumulate), recipe.most_tokens

    def make() -> tuple[Any, Callable[[], Any]]:
        if labels:
            classifier = make_network(config).train()
            prepare(classifier, recipe, spares=spares)
            part = classifier_loading.largest_part(classifier, recipe, labels, rows=rows, device=torch.device("cpu"))
            return classifier, part
        if pooling is not None:
            encoder = make_encoder(config).train()
            prepare(encoder, recipe, spares=spares)
            pairs = _make_pairs(encoder, None, recipe, pooling, torch.device("cpu"), _export_nothing)
            return encoder, partial(pairs.loss, [PairExample(([0] * most, [0] * most))] * rows)
        plain = network.make_plain(artifact, config, attention=_PLAIN, dtype=dtype).train()
        if recipe.method.name.lower() == DISTIL:
            plain = _make_pair(artifact, config, recipe, plain, torch.device("cpu"))
        prepare(plain, recipe, spares=spares)
        kind = Student if isinstance(plain, Pair) else LanguageModel
        model = kind(plain, None, device=torch.device("cpu"), export=_export_nothing)
        ids = torch.zeros((rows, most), dtype=torch.long)
        targets = torch.zeros(rows * (most - 1), dtype=torch.long)
        return plain, partial(model.sum_losses, ids, targets, torch.arange(len(targets)))

    return memory.count(make, casting=memory.cast(device, precision))


def prepare(whole: Any, recipe: TrainingRecipe, *, spares: bool) -> dict[str, LoraLinear]:
    """Say what of a network is trained; its adapters, by layer, where that is them alone.

    Raises:
        TrainError: Nothing can be.
    """
    adapters, method = {}, recipe.method.name.lower()
    if method == LORA:
        adapters = add_lora(whole, recipe)
    elif method == FULL:
        whole.requires_grad_(True)
    elif method == CLASSIFY:
        adapters = classifier_loading.choose(whole, recipe)
    if spares:
        memory.spare(whole)
    return adapters


def make(plan: Plan, progress: Callable[[float], None]) -> TorchTrainSession:
    """Load a model and make the session that trains it.

    Raises:
        TrainError: The rows or the weights do not permit it.
    """
    progress(0.0)
    request, recipe = plan.request, plan.request.recipe
    course = read_course(request, plan.labelled)
    model = _make_objective(plan, course, progress)
    made = TorchTrainSession(
        model,
        course,
        recipe,
        device=plan.device,
        threads=request.cores or torch.get_num_threads(),
        precision=plan.precision,
    )
    progress(1.0)
    return made


def follow(plan: Plan, progress: Callable[[float], None]) -> TorchFollower:
    """Load a model and make one of those that help to train it.

    Raises:
        TrainError: The weights do not permit it.
    """
    progress(0.0)
    request = plan.request
    made = TorchFollower(
        _make_objective(plan, None, progress),
        request.recipe,
        device=plan.device,
        threads=request.cores or torch.get_num_threads(),
        precision=plan.precision,
    )
    progress(1.0)
    return made


def _make_objective(plan: Plan, course: Course | None, progress: Callable[[float], None]) -> Objective:
    """What is trained, with its weights; the first row is read before, where there are rows."""
    recipe, tokenizer = plan.request.recipe, read_tokenizer(plan.artifact)
    first = [] if course is None else course.order.rows(1)[: None if recipe.keep else 1]
    given = [] if course is None else [(course.rows[place], course.rows.name(place)) for place in first]
    if plan.labelled is not None:
        names = plan.labelled.names
        return classifier_loading.make_classifier(
            plan.artifact,
            plan.config,
            recipe,
            names,
            plan.device,
            partial(_load, plan, progress),
            partial(prepare, recipe=recipe, spares=plan.spares),
            classifier_loading.first_rows(given, plan.artifact, recipe, names),
        )
    if plan.pooling is not None:
        for row, name in given:
            _make_pairs(None, tokenizer, recipe, plan.pooling, plan.device, _export_nothing).read(row, name)
        encoder = _load(plan, progress, lambda: load_encoder(plan.artifact, plan.config, plan.device))
        prepare(encoder, recipe, spares=plan.spares)
        return _make_pairs(encoder, tokenizer, recipe, plan.pooling, plan.device, partial(_export_full, encoder, plan))
    texts = Texts(tokenizer, plan.artifact.vocabulary, field=recipe.text, most=recipe.most_tokens)
    for row, name in given:
        texts.read(row, name)
    whole = _load(
        plan,
        progress,
        lambda: network.load_network(
            plan.artifact, plan.config, device=plan.device, dtype=plan.dtype, attention=_PLAIN
        ),
    )
    pair = None
    if recipe.method.name.lower() == DISTIL:
        layers = choose_layers(plan.config, recipe)
        if recipe.keep == "needed":
            layers = find_needed(whole, [texts.read(row, name).ids for row, name in given], len(layers), plan.device)
        pair = _make_pair(plan.artifact, plan.config, recipe, whole, plan.device, layers)
        begin(pair.student, whole, layers)
    adapters = prepare(pair or whole, recipe, spares=plan.spares)
    known, size = tokenizer.get_vocab_size(), whole.get_input_embeddings().weight.shape[0]
    if known > size:
        raise TrainError(
            f"{plan.request.path}: its tokenizer has {known} tokens, but its network has {size}: they are of different"
            " models"
        )
    trained = whole if pair is None else pair.student
    export = partial(_export_lora, adapters, recipe) if adapters else partial(_export_full, trained, plan)
    model = (LanguageModel if pair is None else Student)(
        whole if pair is None else pair, texts, device=plan.device, export=export
    )
    model.check()
    return model


def _make_pair(  # noqa: PLR0917 - all that it is made of
    artifact: Artifact,
    config: Any,
    recipe: TrainingRecipe,
    teacher: Any,
    device: torch.device,
    layers: Sequence[int] | None = None,
) -> Pair:
    """A network that teaches and one that learns, whose weights follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        small = network.make_plain(artifact, shrink(config, recipe, layers), attention=_PLAIN, dtype=torch.float32)
    return Pair(teacher, small if device.type == "cpu" else small.to(device))


def _load(plan: Plan, progress: Callable[[float], None], load: Callable[[], Any]) -> Any:
    """A network with its weights, with signs of life meanwhile."""
    try:
        with Pulse(progress, meter(plan.device), expected_bytes=plan.need.weights_bytes):
            return load()
    except LoadError as error:
        raise TrainError(str(error)) from error


def _make_pairs(  # noqa: PLR0917 - all that it is made of
    encoder: Any,
    tokenizer: Any,
    recipe: TrainingRecipe,
    pooling: Pooling,
    device: torch.device,
    export: Callable[[Path], ExportKind],
) -> PairModel:
    return PairModel(
        encoder,
        tokenizer,
        fields=(recipe.text, recipe.pair),
        most=recipe.most_tokens,
        pooling=pooling,
        device=device,
        export=export,
    )


def read_course(request: TrainRequest, labelled: Labelled | None = None) -> Course:
    """The rows of a request, their order and what is held back; of a classifier by labels.

    Raises:
        TrainError: A file is wrong, or there are too few rows.
    """
    recipe = request.recipe
    rows = Rows(request.rows) if labelled is None else labelled.rows
    learnt: Sequence[int]
    kept: Sequence[int]
    if labelled is not None:
        learnt, (held, kept) = labelled.learnt, labelled.held
    elif request.held is not None:
        held = Rows(request.held)
        learnt, kept = range(len(rows)), range(len(held))
    else:
        held = rows
        first, second = divide(len(rows), recipe.held, recipe.seed)
        learnt, kept = first.tolist(), second.tolist()
    order = Order(learnt, epochs=recipe.epochs, batch=recipe.batch, seed=recipe.seed)
    return Course(rows=rows, order=order, held=(held, kept), identity=_identify(request, rows, held))


def _identify(request: TrainRequest, rows: Rows, held: Rows) -> str:
    """A digest of all that decides what comes out."""
    recipe = {name: str(value) for name, value in sorted(asdict(request.recipe).items()) if name not in NO_MATTER}
    digest = hashlib.sha256(json.dumps([recipe, rows.digest, held.digest, request.device]).encode())
    path = request.path
    if path is not None:
        for file in [path / "config.json", *list_hf_weights(path)] if path.is_dir() else [path]:
            digest.update(str(file.stat().st_size).encode())
            with file.open("rb") as opened:
                digest.update(opened.read(_HEAD_BYTES))
    return digest.hexdigest()


def _export_nothing(folder: Path) -> ExportKind:
    raise TrainError(f"{folder}: there is nothing to export")


def _export_lora(adapters: dict[str, LoraLinear], recipe: TrainingRecipe, folder: Path) -> ExportKind:
    write_adapter(adapters, recipe, folder)
    return ExportKind.ADAPTER


def _export_full(whole: Any, plan: Plan, folder: Path) -> ExportKind:
    """A folder as the one that it began with, or, of a GGUF file, as transformers writes it."""
    source = plan.artifact.path
    stored = network.STORED.get(plan.artifact.weight_format, torch.float32)
    weights = {name: each.detach().to(stored) for name, each in whole.state_dict().items()}
    whole.config.dtype = stored
    whole.save_pretrained(folder, state_dict=weights)
    if source.is_dir():
        for name in COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        if (source / "1_Pooling" / "config.json").is_file():
            (folder / "1_Pooling").mkdir(exist_ok=True)
            shutil.copyfile(source / "1_Pooling" / "config.json", folder / "1_Pooling" / "config.json")
        if plan.pooling is not None:
            write_pooling(folder, plan.pooling, width=plan.config.hidden_size)
    else:
        from transformers import AutoTokenizer  # noqa: PLC0415 - GGUF files alone need it

        made = AutoTokenizer.from_pretrained(plan.artifact.folder, **plan.artifact.options, local_files_only=True)
        made.save_pretrained(folder)
    return ExportKind.MODEL
