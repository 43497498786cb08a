"""`inferd federate create`, `join`, `list`, `show`, `watch`, `judge`, `cancel` and `rm`."""

from __future__ import annotations

import asyncio
import json
import tomllib
from typing import TYPE_CHECKING, Any

import typer
from google.protobuf.json_format import ParseDict, ParseError

from inferd.cli.changing import Listing
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError, command_error
from inferd.cli.plain import plain
from inferd.errors import words_of
from inferd_api.v1 import federation_pb2 as fp
from inferd_client import AsyncClient
from inferd_client.credentials import CredentialError
from inferd_client.errors import InferdError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd_client import Client

COLUMNS = ("FEDERATION", "TITLE", "STATE", "ROUND", "PHASE", "ANSWERED", "JOINED")
ROUNDS = ("ROUND", "ATTEMPT", "CLIENTS", "EXAMPLES", "LENGTH", "LOSS", "SUM")
EMPTY = "no federations; inferd federate create makes one"
SPANS = {"deadline_s": "deadline", "answer_deadline_s": "answer_deadline"}
ENUMS = {"aggregation": "FEDERATION_AGGREGATION_", "compression": "FEDERATION_COMPRESSION_"}
HEADS = "heads"
DIGEST = 19  # characters of one that are shown


def read_plan(path: Path) -> fp.FederationPlan:
    """The plan that a file of TOML says: names as in the proto, spans in seconds, and the recipe as a table `heads`.

    Raises:
        CommandError: It cannot be read, or has no recipe, or a name that plans have not.
    """
    from inferd_federation.heads import Recipe  # noqa: PLC0415 - with numpy

    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
        heads = said.pop(HEADS)
        recipe = Recipe.read(heads)
        said.setdefault("size", recipe.size)
        if "privacy" not in said:
            said.setdefault("counts", recipe.buckets + 1)
        for name, wire in SPANS.items():
            if name in said:
                said[wire] = f"{float(said.pop(name)):.3f}s"
        for name, begin in ENUMS.items():
            if name in said:
                said[name] = begin + str(said[name]).upper()
        return ParseDict({**said, "recipe_json": json.dumps({HEADS: heads})}, fp.FederationPlan())
    except KeyError:
        raise CommandError(f"{path} has no table [{HEADS}], the recipe", reason="USAGE") from None
    except (OSError, ValueError, TypeError, ParseError) as error:
        raise CommandError(f"{path}: {words_of(error)}", reason="USAGE") from None


def create(output: Output, address: str, tenant: str, path: Path) -> None:
    """Make a federation."""
    plan = read_plan(path)
    with connected(address, tenant) as client:
        made = client.create_federation(plan)
    if output.json:
        output.document(plain(made))
    else:
        output.text(made.federation_id)


def join(
    output: Output,
    coordinator: str,
    federation_id: str,
    data: Path,
    *,
    kernel: str,
    tenant: str,
    name: str,
    identity: Path | None,
    record: Path | None,
    login: Mapping[str, Any],
) -> None:
    """Be a client of a federation until it has ended.

    Raises:
        CommandError: It cannot be joined, its plan cannot be done, or it failed.
    """
    from inferd.cli.federate_client import Participant, read_rows  # noqa: PLC0415 - with numpy

    async def take_part() -> fp.Federation:
        rows = read_rows(data)
        credential = None if login.get("credential_file") else ""  # never that of the own kernel
        async with (
            AsyncClient(coordinator, tenant=tenant, credential=credential, **login) as asked,
            AsyncClient(kernel or None) as own,
        ):
            tell = output.note if not output.json else lambda _: None
            part = Participant(asked, own, rows, federation_id, name=name, identity=identity, record=record, tell=tell)
            return await part.run()

    try:
        ended = asyncio.run(take_part())
    except CredentialError as error:
        raise CommandError(str(error), reason="CREDENTIAL_INVALID") from None
    except InferdError as error:
        raise command_error(error) from None
    except (OSError, ValueError) as error:
        raise CommandError(words_of(error), reason="USAGE") from None
    state = _state(ended)
    if output.json:
        output.document(plain(ended))
    else:
        output.text(f"federation {federation_id} has ended: {state}")
    if ended.state == fp.FEDERATION_STATE_FAILED:
        raise CommandError(f"federation {federation_id} has failed", reason="FEDERATION_TOO_FEW_CLIENTS")


def list_federations(output: Output, address: str, tenant: str, *, watch: bool = False) -> None:
    """List federations, or follow them."""
    listing = Listing(columns=COLUMNS, row=_row, document=plain, empty=EMPTY, gives_way="TITLE")
    with connected(address, tenant) as client:
        listing.show(output, client.list_federations, name="federations", watch=watch)


def show(output: Output, address: str, tenant: str, federation_id: str, *, weights: Path | None) -> None:
    """Show a federation; write its weights to a file if that is asked for."""
    with connected(address, tenant) as client:
        found = client.get_federation(_find(client, federation_id))
        if weights is not None:
            written = client.federation_weights(found.federation_id)
            weights.write_bytes(safetensors(found.plan, written.weights, written.counts))
            output.note(f"the weights of round {written.round} are in {weights}")
    _tell(output, found)


def watch(output: Output, address: str, tenant: str, federation_id: str) -> None:
    """Follow a federation until it has ended.

    Raises:
        CommandError: It failed, or was cancelled.
    """
    told = fp.Federation()
    with connected(address, tenant) as client:
        whole = _find(client, federation_id)
        with output.status(f"federation {whole}") as say:
            for told in client.watch_federation(whole):
                say(f"federation {whole}: {_state(told)}, round {told.round} of {told.plan.rounds}, {_phase(told)}")
    _tell(output, told)
    if told.state == fp.FEDERATION_STATE_FAILED:
        raise CommandError(f"federation {whole} failed: {told.error.message}", reason="FEDERATION_TOO_FEW_CLIENTS")
    if told.state == fp.FEDERATION_STATE_CANCELLED:
        raise CommandError(f"federation {whole} was cancelled", reason="CANCELLED")


def judge(output: Output, address: str, tenant: str, federation_id: str, data: Path) -> None:
    """Tell how good the weights of a federation are on rows of a file.

    Raises:
        CommandError: The rows or the plan are wrong, or the kernel refuses.
    """
    from inferd.cli.federate_client import judged, read_rows  # noqa: PLC0415 - with numpy

    with connected(address, tenant) as client:
        found = client.get_federation(_find(client, federation_id))
        weights = client.federation_weights(found.federation_id)

    async def ask() -> dict[str, float]:
        async with AsyncClient(address or None, tenant=tenant) as kernel:
            return await judged(kernel, found, weights, read_rows(data))

    try:
        figures = asyncio.run(ask())
    except InferdError as error:
        raise command_error(error) from None
    except (OSError, ValueError) as error:
        raise CommandError(words_of(error), reason="USAGE") from None
    if output.json:
        output.document({"federation_id": found.federation_id, "round": weights.round, "figures": figures})
    else:
        output.table(("FIGURE", "VALUE"), [(name, f"{value:.4f}") for name, value in figures.items()], empty="")


def cancel(output: Output, address: str, tenant: str, federation_id: str) -> None:
    """End a federation."""
    with connected(address, tenant) as client:
        ended = client.cancel_federation(_find(client, federation_id))
    _tell(output, ended)


def remove(output: Output, address: str, tenant: str, federation_id: str) -> None:
    """Delete a federation that has ended."""
    with connected(address, tenant) as client:
        whole = _find(client, federation_id)
        client.delete_federation(whole)
    if output.json:
        output.document({"federation_id": whole})
    else:
        output.note(f"federation {whole} is deleted")


def safetensors(plan: fp.FederationPlan, weights: bytes, counts: bytes) -> bytes:
    """A file in the format safetensors, with the recipe as its metadata."""
    tensors: dict[str, Any] = {
        "__metadata__": {"recipe": plan.recipe_json},
        "weights": {"dtype": "F32", "shape": [len(weights) // 4], "data_offsets": [0, len(weights)]},
    }
    if counts:
        ends = [len(weights), len(weights) + len(counts)]
        tensors["counts"] = {"dtype": "I64", "shape": [len(counts) // 8], "data_offsets": ends}
    header = json.dumps(tensors).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + weights + counts


def _find(client: Client, begin: str) -> str:
    """The whole id of a federation."""
    found = [each.federation_id for each in client.list_federations() if each.federation_id.startswith(begin)]
    if len(found) > 1 and begin not in found:
        raise typer.BadParameter(f"{begin!r} begins {len(found)} ids; give more of it")
    return found[0] if len(found) == 1 else begin


def _tell(output: Output, federation: fp.Federation) -> None:
    if output.json:
        output.document(plain(federation))
        return
    private = f", epsilon {federation.epsilon:.3g}" if federation.HasField("epsilon") else ""
    output.text(
        f"{federation.federation_id}: {_state(federation)}, round {federation.round} of {federation.plan.rounds},"
        f" {_phase(federation)}, {federation.joined} joined{private}"
    )
    if federation.HasField("error"):
        output.text(f"error: {federation.error.message}")
    rows = [
        (
            str(each.number),
            str(each.attempt),
            f"{each.clients}/{each.began}",
            str(each.examples),
            f"{each.length:.4g}",
            f"{each.loss:.4f}",
            each.sum_digest[:DIGEST],
        )
        for each in federation.rounds
    ]
    output.table(ROUNDS, rows, empty="no round is done yet")


def _row(each: fp.Federation) -> tuple[str, ...]:
    return (
        each.federation_id,
        each.plan.title,
        _state(each),
        f"{each.round}/{each.plan.rounds}",
        _phase(each),
        str(each.answered),
        str(each.joined),
    )


def _state(federation: fp.Federation) -> str:
    return fp.FederationState.Name(federation.state).removeprefix("FEDERATION_STATE_").lower()


def _phase(federation: fp.Federation) -> str:
    if not federation.phase:
        return "over"
    return fp.RoundPhase.Name(federation.phase).removeprefix("ROUND_PHASE_").lower()
