"""All services of a kernel, behind one door."""

from grpc_health.v1 import health_pb2

from inferd.config import Settings
from inferd.runtime.front.authority import Authority
from inferd.runtime.front.front import Front
from inferd.runtime.front.regions import Regions
from inferd.runtime.tickets import Tickets
from inferd.services.adapters import Adapters
from inferd.services.agents import Agents
from inferd.services.audits import Audits
from inferd.services.auth import Auth
from inferd.services.blobs import Blobs
from inferd.services.datasets import Datasets
from inferd.services.entrance import Entrance
from inferd.services.evaluations import Evaluations
from inferd.services.explanations import Explanations
from inferd.services.extents import Extents
from inferd.services.federations import Federations
from inferd.services.functions import Functions
from inferd.services.health import Health
from inferd.services.hosts import Hosts
from inferd.services.indexes import Indexes
from inferd.services.inference.service import Inference
from inferd.services.inference.told import Told
from inferd.services.invites import Invites
from inferd.services.leases import Leases
from inferd.services.logins import Logins
from inferd.services.models import Models
from inferd.services.moderation import Moderation
from inferd.services.notes import INPUTS, Notes
from inferd.services.offering import Offering, offer
from inferd.services.pipelines import Pipelines
from inferd.services.policies import read_policies
from inferd.services.quotas import Quotas
from inferd.services.reflection import add_reflection
from inferd.services.tasks import Tasks
from inferd.services.trainings import Trainings
from inferd.services.uploads import Uploads
from inferd_api.agent.v1 import agent_service_pb2
from inferd_api.inference import grpc_service_pb2
from inferd_api.v1 import (
    adapter_service_pb2,
    audit_service_pb2,
    auth_service_pb2,
    blob_service_pb2,
    dataset_service_pb2,
    evaluation_service_pb2,
    explanation_service_pb2,
    federation_service_pb2,
    function_service_pb2,
    host_service_pb2,
    index_service_pb2,
    invite_service_pb2,
    lease_service_pb2,
    model_service_pb2,
    moderation_service_pb2,
    pipeline_service_pb2,
    quota_service_pb2,
    task_service_pb2,
    training_service_pb2,
    upload_service_pb2,
)


def offer_services(
    settings: Settings, front: Front, authority: Authority, tickets: Tickets, server: Offering
) -> Entrance:
    """Offer all services of a kernel; the door by which they are to be reached.

    Args:
        settings: Of the kernel.
        front: What it offers.
        authority: Who a credential or a certificate stands for.
        tickets: Who a ticket stands for.
        server: Where they are offered.

    Raises:
        NoPolicyError: A call does not say what the rules must allow.
    """
    limits = settings.limits
    extents = Extents(limits)
    prompt_limit_bytes = limits.prompt_bytes
    services = {
        task_service_pb2: Tasks(
            front.tasks,
            front.uploads,
            front.blobs,
            prompt_limit_bytes=prompt_limit_bytes,
            message_limit_bytes=limits.message_bytes,
            extents=extents,
        ),
        upload_service_pb2: Uploads(front.uploads, message_limit_bytes=limits.message_bytes),
        blob_service_pb2: Blobs(front.blobs, message_limit_bytes=limits.message_bytes, extents=extents),
        dataset_service_pb2: Datasets(front.datasets, message_limit_bytes=limits.message_bytes),
        index_service_pb2: Indexes(front.indexes, front.answers),
        lease_service_pb2: Leases(front.leases),
        model_service_pb2: Models(
            front.models,
            front.blobs,
            front.optimizing,
            had_pieces_limit=settings.bundles.had_pieces,
            prompt_limit_bytes=prompt_limit_bytes,
            message_limit_bytes=limits.message_bytes,
            extents=extents,
        ),
        adapter_service_pb2: Adapters(front.models.adapters),
        host_service_pb2: Hosts(front.hosts, front.agents, front.models),
        invite_service_pb2: Invites(front.agents),
        agent_service_pb2: Agents(front.agents, front.models.exports),
        auth_service_pb2: Auth(front.auth),
        quota_service_pb2: Quotas(front.quotas),
        audit_service_pb2: Audits(front.audit),
        moderation_service_pb2: Moderation(front.moderation),
        function_service_pb2: Functions(front.functions),
        pipeline_service_pb2: Pipelines(front.pipelines),
        evaluation_service_pb2: Evaluations(
            front.evaluations, front.blobs, front.rows, message_limit_bytes=limits.message_bytes
        ),
        training_service_pb2: Trainings(front.trainings, front.blobs),
        explanation_service_pb2: Explanations(
            front.explaining, limits=settings.explanations, prompt_limit_bytes=prompt_limit_bytes
        ),
        federation_service_pb2: Federations(front.federations),
        grpc_service_pb2: Inference(
            front,
            extents,
            Regions(settings.inference, share=settings.scheduler.tenant_share),
            Told(settings.logs, settings.otel),
            limits=limits,
            most_steps=settings.inference.ensemble_steps,
        ),
    }
    offered = {
        each: servicer for module, servicer in services.items() for each in module.DESCRIPTOR.services_by_name.values()
    }
    logins = Logins(
        settings.auth,
        authority.verify,
        authority.certificates,
        verify_ticket=lambda ticket: tickets.verify(ticket, authority.keyring.is_of_others),
        is_shared=settings.sharing.is_shared,
    )
    policies = read_policies(offered)
    notes = Notes(front.audit.trail, front.access, authority.keyring.derive(INPUTS), front.calls.ended)
    entrance = Entrance(
        front,
        logins,
        policies,
        extents,
        notes,
        message_limit_bytes=limits.message_bytes,
        calls_per_s=limits.calls_per_s,
    )
    for service, servicer in offered.items():
        offer(server, service, servicer)
    names = [service.full_name for service in offered]
    (service,) = health_pb2.DESCRIPTOR.services_by_name.values()
    offer(server, service, Health(front.health, frozenset(names)))
    add_reflection(server, (*names, service.full_name))
    return entrance
