"""What is claimed, from the options of commands and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from inferd.cli.amounts import counted, size
from inferd.cli.options import Class, read_pairs
from inferd_client import LeaseOptions, claims

if TYPE_CHECKING:
    from inferd_api.v1.lease_pb2 import Claim


def read_claims(
    *,
    memory_bytes: int | None,
    cores: int | None,
    device: str,
    selector: list[str] | None,
    model: str,
    sequences: int | None,
    kv_tokens: int | None,
) -> list[Claim]:
    """The claims that options make; none at all, or parts of no model, are mistakes of use."""
    if not model and (sequences or kv_tokens):
        raise typer.BadParameter("places and tokens are those of a model; name it with --model", param_hint="--model")
    wanted, labels = [], read_pairs(selector, "--selector")
    if memory_bytes is not None:
        wanted.append(claims.memory(memory_bytes, device_id=device, selector=labels))
    if cores is not None:
        wanted.append(claims.cores(cores, device_id=device, selector=labels))
    if device and not wanted:
        raise typer.BadParameter("a device is that of --memory or --cores; give one", param_hint="--device")
    if labels and not wanted:
        raise typer.BadParameter("hosts are those of --memory or --cores; give one", param_hint="--selector")
    if model:
        wanted.append(claims.model(model, sequences=sequences or 0, kv_tokens=kv_tokens or 0))
    if not wanted:
        raise typer.BadParameter("nothing is claimed; give --memory, --cores or --model", param_hint="--memory")
    return wanted


def read_options(
    *, ttl_s: float | None, priority: Class | None, wait: bool, wait_timeout_s: float | None, labels: list[str] | None
) -> LeaseOptions:
    """How a lease is held."""
    return LeaseOptions(
        ttl_s=ttl_s,
        priority=priority.value if priority is not None else None,
        wait=wait or wait_timeout_s is not None,
        wait_timeout_s=wait_timeout_s,
        labels=read_pairs(labels, "--label"),
    )


def describe(wanted: list[Claim]) -> str:
    """Claims for people: "4.3 GB of cpu:0, 2 cores of cpu:0, smollm2 (2 places, 8192 tokens)"."""
    return ", ".join(_describe(claim) for claim in wanted)


def _describe(claim: Claim) -> str:
    match claim.WhichOneof("kind"):
        case "memory":
            return f"{size(claim.memory.bytes)} of {claim.memory.device_id}"
        case "cores":
            return f"{counted(claim.cores.cores, 'core')} of {claim.cores.device_id}"
        case _:
            parts = [
                counted(count, noun)
                for count, noun in ((claim.model.sequences, "place"), (claim.model.kv_tokens, "token"))
                if count
            ]
            return f"{claim.model.model} ({', '.join(parts)})" if parts else claim.model.model
