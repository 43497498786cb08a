"""The commands of `inferd` and their options. Each loads what it needs when it is called, so that `--help` is quick."""

import os
import sys
from contextlib import ExitStack
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from inferd import __version__
from inferd.cli.adapter_commands import adapters_app
from inferd.cli.audit_commands import audit_app
from inferd.cli.blob_commands import blob_app
from inferd.cli.bundle_commands import bundle_app
from inferd.cli.cert_commands import cert_app
from inferd.cli.completion import Shell, named
from inferd.cli.config_commands import config_app
from inferd.cli.data_commands import data_app
from inferd.cli.dialogue_commands import dialogue_app
from inferd.cli.evaluation_commands import evaluate_app, evaluations_app
from inferd.cli.explain_commands import explain_app
from inferd.cli.federate_commands import federate_app
from inferd.cli.function_commands import function_app
from inferd.cli.host_commands import host_app
from inferd.cli.hosts_commands import hosts_app, log_app
from inferd.cli.http_commands import HTTP, http_app
from inferd.cli.index_commands import ask_app, index_app
from inferd.cli.key_commands import key_app
from inferd.cli.lease_commands import lease_app
from inferd.cli.model_commands import model_app, models_app
from inferd.cli.moderation_commands import moderation_app
from inferd.cli.optimize_commands import optimize_app
from inferd.cli.options import (
    ADDRESS,
    SHOWN,
    Address,
    BackendOption,
    Class,
    DeviceOption,
    Interval,
    LeaseOption,
    ModelOrPath,
    Output,
    SetOption,
    State,
    TaskArgument,
    TemplateVariables,
    Tenant,
    data_dir,
    read_values,
    read_wanted,
    text_option,
)
from inferd.cli.output import Format, edge, open_streams
from inferd.cli.pipeline_commands import pipeline_app
from inferd.cli.quota_commands import quota_app
from inferd.cli.ray_commands import HOSTS, ray_app
from inferd.cli.repository_options import CONTROL, LOAD, PROGRAMS, REPOSITORY, Control, repository_of
from inferd.cli.sampling import read_options, with_sampling
from inferd.cli.store_commands import store_app
from inferd.cli.training_commands import train_app, trainings_app
from inferd.cli.usage import Commands
from inferd.cli.version_commands import version_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd_client import RunOptions

app = typer.Typer(
    name="inferd",
    cls=Commands,
    help="A model kernel: one process per host that offers its devices, memory and models over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(lease_app, name="lease")
app.add_typer(store_app, name="store")
app.add_typer(config_app, name="config")
app.add_typer(blob_app, name="blobs")
app.add_typer(data_app, name="data")
app.add_typer(index_app, name="index")
app.add_typer(models_app, name="models")
app.add_typer(adapters_app, name="adapters")
app.add_typer(key_app, name="keys")
app.add_typer(cert_app, name="certs")
app.add_typer(quota_app, name="quotas")
app.add_typer(audit_app, name="audit")
app.add_typer(moderation_app, name="moderation")
app.add_typer(hosts_app, name="hosts")
app.add_typer(function_app, name="functions")
app.add_typer(dialogue_app, name="dialogue")
app.add_typer(evaluations_app, name="evaluations")
app.add_typer(trainings_app, name="trainings")
app.add_typer(federate_app, name="federate")
app.add_typer(pipeline_app, name="pipelines")


def run() -> None:
    """Entry of the program."""
    open_streams()
    narrowed(sys.argv[1:])(prog_name=named())


def narrowed(words: "Sequence[str]") -> typer.Typer:
    """The program with the one command, or noun, that is named first, if one is: making all 170 takes 50 ms."""
    only = copy(app)
    for kind in ("registered_commands", "registered_groups"):
        setattr(only, kind, [each for each in getattr(app, kind) if each.name in words[:1]])
    return only if only.registered_commands or only.registered_groups else app


def _tell_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it by position
    if wanted:
        typer.echo(f"inferd {__version__}")
        raise typer.Exit


def _use_credential(file: Path | None) -> None:
    """Put it where all clients of this process find it; the secret itself is never an argument."""
    if file is not None:
        os.environ["INFERD_CREDENTIAL_FILE"] = str(file)
        os.environ.pop("INFERD_CREDENTIAL", None)


def _file_option(name: str, what: str) -> Any:
    """An option that names a file of TLS; as above."""

    def use(file: Path | None) -> None:
        if file is not None:
            os.environ[f"INFERD_{name.upper()}_FILE"] = str(file)

    return typer.Option(f"--{name}-file", help=what, metavar="FILE", callback=use)


@app.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Tell the version and end.", callback=_tell_version, is_eager=True)
    ] = False,
    credential_file: Annotated[
        Path | None,
        typer.Option(
            help="A file of yours, mode 0600, with the credential that the kernel knows you by.",
            metavar="FILE",
            callback=_use_credential,
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        _file_option("ca", "Authorities by which certificates of kernels are checked. Default: public ones."),
    ] = None,
    cert_file: Annotated[Path | None, _file_option("cert", "A certificate by which kernels with TLS know you.")] = None,
    key_file: Annotated[Path | None, _file_option("key", "The key of that certificate, mode 0600.")] = None,
) -> None:
    """A model kernel: one process per host that offers its devices, memory and models over gRPC."""


@app.command("serve")
def _serve(
    *,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="Where to listen: unix:/path, host:port, tls:host:port, mtls:host:port. Default: your socket.",
            metavar="A",
        ),
    ] = None,
    socket_group: Annotated[
        str,
        text_option(
            "--socket-group", help="A group that may use unix sockets, too. Default place: /run/inferd.", metavar="NAME"
        ),
    ] = "",
    hosts: Annotated[str, HOSTS] = "",
    http: Annotated[str, HTTP] = "",
    model_repository: Annotated[Path | None, REPOSITORY] = None,
    model_control_mode: Annotated[Control | None, CONTROL] = None,
    load_model: Annotated[list[str] | None, LOAD] = None,
    allow_program: Annotated[list[str] | None, PROGRAMS] = None,
    config: Annotated[Path | None, typer.Option(help="The configuration, a TOML file.", metavar="FILE")] = None,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="End when the process that started this one ends.")
    ] = False,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
    output: Output = Format.TABLE,
) -> None:
    """Run a kernel until Ctrl-C."""
    with edge(output) as out:
        from inferd.cli.serve import end_with_parent, serve
        from inferd.cli.settings import read_settings

        if exit_with_parent:
            end_with_parent(parent)
        repository = repository_of(model_repository, model_control_mode, load_model, allow_program)
        given = {"listen": tuple(listen or ()), "socket_group": socket_group, "ray": hosts and {"cluster": hosts}}
        given |= {"repository": repository}
        settings = read_settings(config=config, **{name: value for name, value in given.items() if value})
        serve(out, settings, http=http)


@app.command("run")
@partial(with_sampling, before="json_schema")
def _run(
    model: ModelOrPath,
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="What to ask; what is piped to stdin follows it. Without it and on a terminal: a conversation.",
            metavar="PROMPT",
        ),
    ] = None,
    *,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="A text behind the prompt; may be repeated.", metavar="FILE"),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="A picture before the prompt, for a model that sees; may be repeated.", metavar="FILE"),
    ] = None,
    system: Annotated[str, typer.Option(help="System message of the conversation.", metavar="TEXT")] = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it stands, without the chat template.")
    ] = False,
    json_schema: Annotated[
        str,
        text_option(help="Answer with JSON that is valid against this schema, or that of @FILE.", metavar="S"),
    ] = "",
    regex: Annotated[str, text_option(help="Answer with a text that matches, as a whole.", metavar="RE")] = "",
    choice: Annotated[
        list[str] | None, typer.Option(help="Answer with this text; repeated, with one of them.", metavar="TEXT")
    ] = None,
    var: TemplateVariables = None,
    setting: SetOption = None,
    backend: BackendOption = "",
    device: DeviceOption = "",
    priority: Annotated[Class | None, typer.Option(help="Its class: a higher one goes first.")] = None,
    lease: LeaseOption = "",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell the task's id first, for suspend, resume and cancel.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave the task with the kernel, which keeps it, and tell its id.")
    ] = False,
    request_id: Annotated[
        str, text_option("--request-id", help="The same one again is the same task.", metavar="ID")
    ] = "",
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
    **sampling: Any,
) -> None:
    """Ask a model. Without a kernel at the address, a private one runs for as long as the command."""
    with edge(output) as out, ExitStack() as stack:
        from inferd.cli.private import kernel_ahead

        wanted = read_wanted(model, backend=backend, device=device, settings=setting)
        ahead = None if detach else stack.enter_context(kernel_ahead(wanted, address, data_dir))
        from inferd.cli.grammar import read_grammar
        from inferd.cli.run import run as run_model

        options: dict[str, Any] = {
            **read_options(sampling),
            "grammar": read_grammar(json_schema=json_schema, regex=regex, choice=choice or ()),
            "template_variables": read_values(var, "--var"),
            "priority": priority.value if priority is not None else None,
            "lease": lease or None,
            **({"request_id": request_id} if request_id else {}),
        }
        run_model(
            out,
            wanted,
            prompt,
            address=address,
            tenant=tenant,
            data_dir=data_dir,
            files=file or (),
            images=image or (),
            system=system,
            raw=raw,
            verbose=verbose,
            options=cast("RunOptions", options),
            detach=detach,
            ahead=ahead,
        )


@app.command("tasks")
def _tasks(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Tell each change, too, until Ctrl-C.")] = False,
    state: Annotated[
        list[State] | None, typer.Option(help="Those in this state only; may be repeated.", case_sensitive=False)
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help=f"Most that are told; 0 for all, which -o json tells. Default {SHOWN}.", min=0, metavar="N"),
    ] = None,
    trials: Annotated[bool, typer.Option("--trials", help="Those, too, by which `optimize` measures.")] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """List tasks, newest first."""
    with edge(output) as out:
        from inferd.cli.tasks import list_tasks, watch_list

        states = [each.value for each in state or ()]
        if watch:
            watch_list(out, address, tenant, states, trials=trials)
        else:
            most = (0 if out.json else SHOWN) if limit is None else limit
            list_tasks(out, address, tenant, states, limit=most, trials=trials)


@app.command("watch")
def _watch(
    task_id: TaskArgument,
    *,
    after: Annotated[int, typer.Option(help="Leave out events up to this one.", min=0, metavar="SEQUENCE")] = 0,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Show a task's output, from its beginning to its end."""
    with edge(output) as out:
        from inferd.cli.tasks import watch

        watch(out, address, tenant, task_id, after_sequence=after)


@app.command("cancel")
def _cancel(
    task_id: TaskArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """End a task now."""
    with edge(output) as out:
        from inferd.cli.tasks import cancel

        cancel(out, address, tenant, task_id)


@app.command("suspend")
def _suspend(
    task_id: TaskArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Stop a task and give its place back; what it wrote stays."""
    with edge(output) as out:
        from inferd.cli.tasks import suspend

        suspend(out, address, tenant, task_id)


@app.command("resume")
def _resume(
    task_id: TaskArgument, *, address: Address = ADDRESS, tenant: Tenant = "", output: Output = Format.TABLE
) -> None:
    """Let a suspended task go on where it stopped."""
    with edge(output) as out:
        from inferd.cli.tasks import resume

        resume(out, address, tenant, task_id)


@app.command("top")
def _top(
    *,
    interval: Interval = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Tell how things stand now, and end.")] = False,
    address: Address = ADDRESS,
    tenant: Tenant = "",
    output: Output = Format.TABLE,
) -> None:
    """Show devices, instances, leases and queues, live; q ends it."""
    with edge(output) as out:
        from inferd.cli.top import top

        top(out, address, tenant, interval_s=interval, once=once)


@app.command("plugins")
def _plugins(*, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """List the backends, working or not, and why not."""
    with edge(output) as out:
        from inferd.cli.plugins import list_plugins
        from inferd.cli.settings import read_settings

        list_plugins(out, address, read_settings)


@app.command("doctor")
def _doctor(*, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """Tell what is missing on this machine, and the command that mends it."""
    with edge(output) as out:
        from inferd.cli.doctor import examine
        from inferd.cli.settings import read_settings

        examine(out, address, read_settings())


@app.command("completion")
def _completion(
    shell: Annotated[Shell, typer.Argument(help="Which one.", show_default=False)],
    *,
    output: Output = Format.TABLE,
) -> None:
    """Print what makes a shell complete commands, as in bash: eval "$(inferd completion bash)"."""
    with edge(output) as out:
        from inferd.cli.completion import tell_script

        tell_script(out, shell)


app.registered_commands += model_app.registered_commands + host_app.registered_commands
app.registered_commands += (
    optimize_app.registered_commands + evaluate_app.registered_commands + ray_app.registered_commands
)
app.registered_commands += explain_app.registered_commands + train_app.registered_commands
app.registered_commands += ask_app.registered_commands
app.registered_commands += log_app.registered_commands + http_app.registered_commands
models_app.registered_commands += version_app.registered_commands + bundle_app.registered_commands
