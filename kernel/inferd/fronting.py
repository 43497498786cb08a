"""What of the kernel may be asked by calls: the use cases, put together."""

from inferd.config import Settings
from inferd.joining import let_join
from inferd.runtime.devices import DeviceMeter
from inferd.runtime.digests import Digests
from inferd.runtime.driver import Driver
from inferd.runtime.front import (
    audit,
    blobs,
    datasets,
    evaluations,
    explaining,
    federations,
    functions,
    health,
    hosts,
    indexes,
    leases,
    models,
    optimizing,
    pipelines,
    quotas,
    tasks,
    trainings,
    uploads,
)
from inferd.runtime.front.asking import Asking
from inferd.runtime.front.authority import Authority
from inferd.runtime.front.bounds import Bound, ByteBound, Calls, SharedBound
from inferd.runtime.front.dataset_rows import DatasetRows
from inferd.runtime.front.examples import Sources as ExampleSources
from inferd.runtime.front.front import Front
from inferd.runtime.front.index_answering import Answers
from inferd.runtime.front.index_tasks import IndexTasks
from inferd.runtime.front.memos import Memos
from inferd.runtime.front.moderation import Moderation
from inferd.runtime.front.named_files import NamedFiles
from inferd.runtime.front.repository import ModelRepository
from inferd.runtime.own_memory import OwnMemory
from inferd.runtime.plugins import Plugins
from inferd.runtime.repository import Repository
from inferd.runtime.shelf import Shelf
from inferd.runtime.training_files import TrainingFiles
from inferd.services.ask_values import AskWire
from inferd.services.pipeline_values import PipelineWire


def make_front(
    settings: Settings,
    driver: Driver,
    *,
    plugins: Plugins,
    shelf: Shelf,
    meter: DeviceMeter,
    memory: OwnMemory,
    authority: Authority,
    digests: Digests,
    repository: Repository | None,
) -> Front:
    """All use cases, over one driver."""
    limits, scheduler = settings.limits, settings.scheduler
    uploaded = ByteBound("limits.upload_bytes", limits.upload_bytes, scheduler.tenant_share, "upload")
    giving = "streams that give or read blobs"
    run_tasks = tasks.Tasks(
        driver,
        shelf,
        streams=Bound("scheduler.tenant_streams", scheduler.tenant_streams, "streams of tasks"),
        requests=ByteBound("limits.request_bytes", limits.request_bytes, scheduler.tenant_share, "request"),
    )

    def watchers(name: str, limit: int, what: str) -> SharedBound:
        return SharedBound(name, limit, scheduler.tenant_share, f"streams that {what}")

    known = models.Models(
        driver,
        plugins,
        shelf,
        declarations=shelf.declarations,
        digests=digests,
        watchers=watchers("limits.model_watchers", limits.model_watchers, "watch models"),
        exports=watchers("bundles.exports", settings.bundles.exports, "export models"),
        roots=NamedFiles(shelf.folders, settings, authority.access).roots,
    )

    tables = datasets.Datasets(
        driver, settings.datasets, streams=Bound("blobs.tenant_streams", settings.blobs.tenant_streams, giving)
    )
    rows = DatasetRows(driver, tables, IndexTasks(run_tasks))
    searched = indexes.Indexes(driver, shelf, run_tasks, settings.indexes, share=scheduler.tenant_share)

    return Front(
        access=authority.access,
        agents=let_join(settings, driver, authority),
        audit=audit.Audit(driver.trail),
        auth=authority.auth,
        calls=Calls(
            calls_limit=limits.accepted_calls,
            tenant_calls_limit=scheduler.tenant_calls,
            why=f", as limits.call_bytes and limits.message_bytes allow of {limits.calls}"
            if limits.accepted_calls < limits.calls
            else "",
        ),
        clock=driver.clock,
        tasks=run_tasks,
        optimizing=optimizing.Optimizing(driver, plugins, shelf, run_tasks, settings),
        evaluations=evaluations.Evaluations(driver, run_tasks, settings.evaluate, share=scheduler.tenant_share),
        trainings=trainings.Trainings(
            driver,
            run_tasks,
            plugins,
            known,
            TrainingFiles(
                settings.state_dir / "trainings",
                data_bytes=settings.train.data_bytes,
                all_bytes=settings.train.all_data_bytes,
                rows=settings.train.rows,
                share=scheduler.tenant_share,
            ),
            settings.train,
            share=scheduler.tenant_share,
        ),
        explaining=explaining.Explaining(
            driver, shelf, run_tasks, settings, ExampleSources(searched, rows, IndexTasks(run_tasks))
        ),
        federations=federations.Federations(
            driver,
            settings.federate,
            streams=run_tasks.streams,
            message_bytes=limits.message_bytes,
            share=scheduler.tenant_share,
        ),
        uploads=uploads.Uploads(
            driver,
            count_open=ByteBound("limits.uploads", limits.uploads, scheduler.tenant_share, "upload", "descriptor"),
            bytes_open=uploaded,
            most_bytes=limits.task_input_bytes,
            idle_s=limits.upload_idle_s,
        ),
        blobs=blobs.Blobs(
            driver,
            streams=Bound("blobs.streams", settings.blobs.streams, giving),
            tenant_streams=Bound("blobs.tenant_streams", settings.blobs.tenant_streams, giving),
            idle_s=settings.blobs.idle_s,
            reading=uploaded,
            most_bytes=limits.task_input_bytes,
        ),
        datasets=tables,
        rows=rows,
        indexes=searched,
        answers=Answers(driver, shelf, searched),
        models=known,
        repository=None if repository is None else ModelRepository(repository, known),
        leases=leases.Leases(
            driver,
            shelf,
            watchers=watchers("leases.watchers", settings.leases.watchers, "watch leases"),
            keepers=watchers("leases.keepers", settings.leases.keepers, "keep leases alive"),
        ),
        hosts=hosts.Hosts(
            driver,
            plugins,
            unmeasured=meter.failing,
            memory=memory,
            warnings=lambda: (*authority.certificates.warnings(), *driver.moderation.warnings()),
            watchers=watchers("limits.host_watchers", limits.host_watchers, "watch the host"),
            backups=Bound("store.backups", settings.store.backups, "backups"),
            backup_step_s=settings.store.backup_step_s,
            reseal_rows=settings.store.reseal_rows,
        ),
        quotas=quotas.Quotas(driver, quotas_limit=scheduler.kept_quotas),
        moderation=Moderation(driver, run_tasks, settings.moderation, share=scheduler.tenant_share),
        functions=functions.Functions(shelf.functions),
        asking=Asking(
            driver,
            run_tasks,
            AskWire(limits.prompt_bytes),
            in_flight=settings.functions.asks_in_flight,
            timeout_s=settings.functions.ask_timeout_s,
            memos=Memos(
                driver,
                most=settings.functions.memos,
                share=scheduler.tenant_share,
                most_bytes=settings.functions.memo_bytes,
            ),
            holds=authority.holds,
        ),
        pipelines=pipelines.Pipelines(
            driver, run_tasks, shelf, PipelineWire(settings.pipelines, limits.prompt_bytes), settings, rows
        ),
        health=health.Health(
            driver, shelf, watchers=watchers("limits.health_watchers", limits.health_watchers, "watch health")
        ),
    )
