"""The commands of `inferd moderation` and their options."""

from typing import Annotated

import typer

from inferd.cli.options import ADDRESS, Address, Output, text_option
from inferd.cli.output import Format, edge

FlagArgument = Annotated[str, typer.Argument(help="Id of the flag; its beginning is enough.", metavar="FLAG_ID")]
NameArgument = Annotated[str, typer.Argument(help="Name of the rule.", metavar="NAME")]
Words = Annotated[list[str] | None, typer.Option("--word", help="To look for; may come again.", metavar="TEXT")]
Patterns = Annotated[
    list[str] | None, typer.Option("--pattern", help="Of RE2, to look for; may come again.", metavar="PATTERN")
]
Tenants = Annotated[str, text_option("--tenants", help="Pattern of the tenants that it is about.", metavar="PATTERN")]
Models = Annotated[str, text_option("--models", help="Pattern of the models that it is about.", metavar="PATTERN")]
ActionOption = Annotated[
    str, text_option("--action", help="What becomes of it: allow, flag, redact or stop.", metavar="ACTION")
]
Replacement = Annotated[str, text_option("--replacement", help="What stands in its place.", metavar="TEXT")]
Whole = Annotated[bool, typer.Option("--whole-words", help="Only with no letter or digit next to a word.")]
InputsOnly = Annotated[bool, typer.Option("--inputs-only", help="Look at what tasks are given alone.")]
OutputsOnly = Annotated[bool, typer.Option("--outputs-only", help="Look at what tasks give alone.")]
Span = Annotated[int, typer.Option(help="Most characters of a match of a pattern.", min=1, max=1000, metavar="N")]
Everything = Annotated[bool, typer.Option("--all", help="Those that are resolved, too.")]
Dismiss = Annotated[bool, typer.Option("--dismiss", help="It was wrong; else it is upheld.")]
Note = Annotated[str, text_option("--note", help="What is to be said of it.", metavar="TEXT")]

_HELP = {"help_option_names": ["-h", "--help"]}
moderation_app = typer.Typer(help="What models must not be told or say.", no_args_is_help=True, context_settings=_HELP)
rules_app = typer.Typer(help="Rules of moderation.", no_args_is_help=True, context_settings=_HELP)
moderation_app.add_typer(rules_app, name="rules")


@rules_app.command("create")
def _create(
    name: NameArgument,
    *,
    word: Words = None,
    pattern: Patterns = None,
    action: ActionOption = "stop",
    replacement: Replacement = "[removed]",
    tenants: Tenants = "*",
    models: Models = "*",
    whole_words: Whole = False,
    inputs_only: InputsOnly = False,
    outputs_only: OutputsOnly = False,
    span: Span = 128,
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Make a rule; it holds for each task that is sent to a worker from now on."""
    with edge(output) as out:
        from inferd.cli.moderation import create
        from inferd_api.v1.moderation_pb2 import ModerationRule

        rule = ModerationRule(
            name=name,
            words=word,
            patterns=pattern,
            replacement=replacement,
            tenants=tenants,
            models=models,
            whole_words=whole_words,
            skip_inputs=outputs_only,
            skip_outputs=inputs_only,
            span=span,
        )
        create(out, address, rule, action=action)


@rules_app.command("list")
def _list(*, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """List rules."""
    with edge(output) as out:
        from inferd.cli.moderation import list_rules

        list_rules(out, address)


@rules_app.command("rm")
def _delete(name: NameArgument, *, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """Take away a rule that was made by `create`."""
    with edge(output) as out:
        from inferd.cli.moderation import delete

        delete(out, address, name)


@moderation_app.command("flags")
def _flags(*, everything: Everything = False, address: Address = ADDRESS, output: Output = Format.TABLE) -> None:
    """List what persons are to look at, newest first."""
    with edge(output) as out:
        from inferd.cli.moderation import list_flags

        list_flags(out, address, everything=everything)


@moderation_app.command("resolve")
def _resolve(
    flag_id: FlagArgument,
    *,
    dismiss: Dismiss = False,
    note: Note = "",
    address: Address = ADDRESS,
    output: Output = Format.TABLE,
) -> None:
    """Decide about a flag."""
    with edge(output) as out:
        from inferd.cli.moderation import resolve

        resolve(out, address, flag_id, dismiss=dismiss, note=note)
