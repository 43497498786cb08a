"""`inferd show`: all that is known of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import ParseDict

from inferd.cli.amounts import counted, size
from inferd.cli.asking import INFER, command_of, how_to_ask
from inferd.cli.catalogue import CATALOGUE
from inferd.cli.fetches import is_fetched
from inferd.cli.kernel import connected, reachable
from inferd.cli.lacking import note_lacking
from inferd.cli.models import is_pulled, pairs
from inferd.cli.output import CommandError, screen, table_of
from inferd.cli.placing import rules_text
from inferd.cli.plain import plain
from inferd.cli.sandboxed import sandboxes
from inferd.cli.wanted import not_known
from inferd.content import PREFIX, all_files, content_digest
from inferd.plugin.backend import LoadError
from inferd.plugin.sampling import read_gguf_sampling, read_hf_sampling
from inferd.runtime.catalogue import catalogue_sampling
from inferd.runtime.library import Library
from inferd.sampling import ENGINE_DEFAULTS
from inferd_api.v1.model_pb2 import ModelState, PlacementRules
from inferd_api.v1.tensor_pb2 import ModelSignature, TensorFill, TensorPadding
from inferd_client.errors import KernelTooOldError, ModelNotFoundError, UnsupportedInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inferd.cli.named import Wanted
    from inferd.cli.output import Output
    from inferd_api.v1.model_pb2 import Model
    from inferd_client import Client

SHOWN_DEVICES = 8
SHOWN_ITEMS = 16  # of an array, in full
MOST_JSON_BYTES = 64 << 20  # of a file beside the weights
OURS = "the kernel"
BLOB_SCHEME = "blob:"  # of the source of a model that was uploaded
TEMPLATE_KEY = "tokenizer.chat_template"
KEEPING = {"pin": "stays loaded once it is", "warm": "loaded at the start of the kernel"}


def show(output: Output, address: str, wanted: Wanted, data_dir: Path, *, hashed: bool) -> None:
    """Tell all of a model, of the kernel where one runs, of the library, or at a path."""
    with connected(address) as client:
        running = reachable(client)
        document = describe(client if running else None, wanted, Library(data_dir), hashed=hashed)
        if running and document["model"] is not None:
            note_lacking(output, client, document["model"]["backend"])
    if output.json:
        output.document(document)
        return
    screen().print(table_of(("MODEL", document["name"]), _rows(document)))
    if document["metadata"]:
        output.text("")
        screen().print(table_of(("METADATA", ""), ((key, _short(v)) for key, v in document["metadata"].items())))
    if document["signature"] is not None:
        output.text("")
        screen().print(table_of(("SIGNATURE", ""), _signature_rows(document["signature"])))
    for name, template in document["chat_templates"].items():
        output.text(f"\nCHAT TEMPLATE {name}\n{template.rstrip()}")


def describe(client: Client | None, wanted: Wanted, library: Library, *, hashed: bool) -> dict[str, Any]:
    """For JSON; `model` is as in `inferd.v1.Model` and None where no kernel knows it.

    Raises:
        CommandError: There is no such model, or its file is damaged.
    """
    path, manifest, model = wanted.path(), None, None
    if path is None:
        manifest = library.find(wanted.name)
        model = _known(client, wanted.name)
        if manifest is not None and model is not None and not is_pulled(model, manifest, library):
            manifest = None  # another file, which the kernel knows by this name
        if manifest is None and model is None:
            raise not_known(library, wanted.name, ModelNotFoundError(f"no model {wanted.name!r}"))
        source = model.source if model is not None else ""
        if model is not None and manifest is None and (source.startswith(BLOB_SCHEME) or is_fetched(source)):
            return _of_kernel(client, model)
        path = library.path(manifest) if manifest is not None else Path(source.removeprefix("file://"))
    try:
        metadata, templates, sampling = read_folder(path) if path.is_dir() else read_file(path)
    except LoadError as error:
        raise CommandError(str(error), reason="MODEL_LOAD_FAILED") from None
    entry = CATALOGUE.get(wanted.name) if model is None or manifest is not None else None
    size_bytes = sum(file.stat().st_size for file in all_files(path))
    signature, asked = _signature(client, model), command_of(path)
    advice = _advice(model, sampling, path, size_bytes) if signature is None and asked == "run" else {}
    sha256 = manifest.sha256 if manifest is not None else ""
    return {
        "name": wanted.name,
        "source": manifest.source if manifest is not None else str(path),
        "path": str(path),
        "size_bytes": str(size_bytes),
        "sha256": content_digest(path).removeprefix(PREFIX) if hashed else sha256,
        "licence": entry.licence if entry is not None else str(metadata.get("general.license", "")),
        "description": entry.description if entry is not None else str(metadata.get("general.name", "")),
        "settings": dict(model.settings if model is not None else manifest.settings if manifest is not None else {}),
        "sampling": {name: value for name, (value, by) in advice.items() if by != OURS},
        "effective_sampling": {name: {"value": value, "by": by} for name, (value, by) in advice.items()},
        "metadata": metadata,
        "chat_templates": templates,
        "model": plain(model) if model is not None else None,
        "signature": signature,
        "ask": how_to_ask(wanted.name, path) if signature is None or asked == INFER else "",
    }


def _of_kernel(client: Client | None, model: Model) -> dict[str, Any]:
    """Of a model that was uploaded or fetched: what the kernel tells, as its files are the kernel's alone."""
    created = {field.name: round(value, 6) for field, value in model.sampling_defaults.ListFields()}
    return {
        "name": model.name,
        "source": model.source,
        "path": "",
        "size_bytes": "",
        "sha256": "",
        "licence": "",
        "description": "",
        "settings": dict(model.settings),
        "sampling": created,
        "effective_sampling": {name: {"value": value, "by": "its creation"} for name, value in created.items()},
        "metadata": {},
        "chat_templates": {},
        "model": plain(model),
        "signature": _signature(client, model),
        "ask": "",
    }


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """Metadata, chat templates by name and advice to sample of a GGUF file; of another file there are none.

    Raises:
        LoadError: It is a damaged GGUF file.
    """
    from inferd_weights.gguf import MAGIC, GgufFile  # noqa: PLC0415 - it takes numpy

    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return {}, {}, {}
    values = GgufFile(path).metadata
    texts = {key: str(value.content) for key, value in values.items() if key.startswith(TEMPLATE_KEY)}
    templates = {key.removeprefix(TEMPLATE_KEY).lstrip(".") or "default": text for key, text in texts.items()}
    metadata = {key: _plain_value(v.content) for key, v in values.items() if key not in texts}
    return metadata, templates, read_gguf_sampling(str(path), metadata.get).numbers


def read_folder(path: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """Metadata, chat templates by name and advice to sample of a Hugging Face folder.

    Raises:
        LoadError: One of its files is damaged.
    """
    tokenizer, advice = path / "tokenizer_config.json", path / "generation_config.json"
    found = _json(tokenizer).get("chat_template", {})
    templates = {"default": found} if isinstance(found, str) else {}
    if isinstance(found, list):
        templates = {str(each["name"]): str(each["template"]) for each in found if {"name", "template"} <= set(each)}
    if (file := path / "chat_template.jinja").is_file():
        templates["default"] = file.read_text(encoding="utf-8", errors="replace")
    return _json(path / "config.json"), templates, read_hf_sampling(str(advice), _json(advice)).numbers


def _advice(model: Model | None, file: Mapping[str, Any], path: Path, size_bytes: int) -> dict[str, tuple[float, str]]:
    """What a task takes for each sampling field that it leaves open, and who says so; see `SamplingDefaults`."""
    created = {field.name: value for field, value in model.sampling_defaults.ListFields()} if model is not None else {}
    sources = {
        OURS: ENGINE_DEFAULTS.numbers,
        "the catalogue": catalogue_sampling(path, size_bytes).numbers,
        "its file": file,
        "its creation": created,
    }
    return {name: (round(value, 6), by) for by, values in sources.items() for name, value in values.items()}


def _sampling_row(effective: Mapping[str, Mapping[str, Any]]) -> str:
    by_source: dict[str, dict[str, Any]] = {}
    for name, told in effective.items():
        by_source.setdefault(told["by"], {})[name] = told["value"]
    order = sorted(by_source, key=lambda by: by == OURS)
    return "; ".join(f"{pairs(by_source[by])} (by {by})" for by in order)


def _json(path: Path) -> dict[str, Any]:
    """A file of the folder; {} where there is none.

    Raises:
        LoadError: It is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(MOST_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise LoadError(f"{path} is a {type(document).__name__}; it must be a JSON object")
    return document


def _signature(client: Client | None, model: Model | None) -> dict[str, Any] | None:
    """What a model of tensors takes and gives; None where it is not loaded, since showing it loads nothing."""
    if client is None or model is None or model.state != ModelState.MODEL_STATE_READY:
        return None
    try:
        return plain(client.model_signature(model.name))
    except (UnsupportedInputError, KernelTooOldError):  # a language model, or a kernel that knows no others
        return None


def _known(client: Client | None, name: str) -> Model | None:
    try:
        return client.get_model(name) if client is not None else None
    except ModelNotFoundError:
        return None


def _plain_value(content: Any) -> Any:
    """A value as JSON has it; of a long array how long it is."""
    if isinstance(content, str | bool | int | float):
        return content
    items = content if isinstance(content, list) else content.tolist()
    return items if len(items) <= SHOWN_ITEMS else f"{len(items)} items"


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is known, less what is not."""
    model = document["model"]
    facts = {
        "description": document["description"],
        "licence": document["licence"],
        "file": f"{document['path']} ({size(int(document['size_bytes']))})" if document["path"] else "",
        "sha256": document["sha256"],
        "from": document["source"] if document["source"] != document["path"] else "",
        "settings": pairs(document["settings"]),
        "sampling": _sampling_row(document["effective_sampling"]),
        "ask it": document["ask"],
    }
    if document["path"] and document["signature"] is None and command_of(Path(document["path"])) == INFER:
        facts["inputs"] = f"told once it is loaded: inferd load {document['name']}"
    if model is not None:
        state = ModelState.Name(ModelState.Value(model["state"])).removeprefix("MODEL_STATE_").lower()
        why = model.get("error", {}).get("message", "")
        devices = _devices_row(model)
        facts |= {
            "state": f"{state}: {why}" if why else state,
            "backend": f"{model['backend']} on {devices}: {model['backend_reason']}",
            "hosts": rules_text(ParseDict(model.get("placement", {}), PlacementRules())),
            "declared": model["declared"],
            "content": _content_row(model),
            "aliases": ", ".join(model["aliases"]),
            "labels": pairs(model["labels"]),
            "probe": counted(len(prompts), "prompt") if (prompts := model.get("probe", {}).get("prompts")) else "",
            "sandbox": sandboxes(model["instances"]),
            "keeping": ", ".join(said for trait, said in KEEPING.items() if model[trait]),
        }
    yield from ((name, fact) for name, fact in facts.items() if fact)


def _devices_row(model: Mapping[str, Any]) -> str:
    """The devices that it may use; of many the first."""
    devices, count = model["devices"], int(model.get("device_count", 0))
    if max(len(devices), count) > SHOWN_DEVICES:
        return f"{', '.join(devices[:SHOWN_DEVICES])} and {max(len(devices), count) - SHOWN_DEVICES} other devices"
    return " or ".join(devices) or model["device"]


def _content_row(model: Mapping[str, Any]) -> str:
    """What its files hold, and have to."""
    found, pinned, settings = model["content_digest"], model["pinned_digest"], model["settings"]
    if not found:
        found = f"not known yet, {float(model['digest_fraction']):.0%} of its files are read"
    said = f"{found}, pinned" if pinned == found else f"{found}; {pinned} is pinned" if pinned else found
    return f"{said} (not of its adapter)" if "adapter" in settings and "adapter_digest" not in settings else said


def _signature_rows(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What it takes and gives, in the words that errors use."""
    from inferd.cli.tensors import describe  # noqa: PLC0415 - it takes numpy

    signature = ParseDict(dict(document), ModelSignature())
    yield from (("input", describe(info)) for info in signature.inputs)
    yield from (("output", describe(info)) for info in signature.outputs)
    yield from (("state", f"{state.output_name} becomes {state.input_name}") for state in signature.states)
    if signature.most_batch > 1:
        yield "batch", _batch_row(signature)
        yield from (("padding", _padding_row(padding)) for padding in signature.batching.paddings)
    if signature.threads > 1:
        yield "threads", f"{signature.threads} batches at once"


def _batch_row(signature: ModelSignature) -> str:
    """How many rows are computed as one, and what they wait for."""
    parts = [f"up to {signature.most_batch} rows of several tasks at once"]
    if preferred := [str(size) for size in signature.batching.preferred_batches]:
        parts.append(f"{' or '.join(preferred)} of them without waiting")
    if delay_s := signature.batching.delay.ToTimedelta().total_seconds():
        parts.append(f"each waits {delay_s * 1000:g} ms at most")
    return ", ".join(parts)


def _padding_row(padding: TensorPadding) -> str:
    """A size that is filled up, in words."""
    fills = [f"{each.input_name}:{each.dimension} with {_fill_value(each)}" for each in padding.fills]
    cuts = [f"{each.output_name}:{each.dimension}" for each in padding.cuts]
    return f"{', '.join(fills)}; cut back: {', '.join(cuts) or 'nothing'}"


def _fill_value(fill: TensorFill) -> str:
    match fill.WhichOneof("value"):
        case "text":
            return json.dumps(fill.text, ensure_ascii=False)
        case "number":
            return f"{fill.number:g}"
        case _:
            return str(fill.whole)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"  # noqa: PLR2004 - more than a line or two
