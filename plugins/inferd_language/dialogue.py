"""Conversations that are kept: what a model has to know of them, however long they are, and short its context."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from inferd.plugin import Ask, ask, forget, function, memo_names, recall, remember
from inferd_language.choices import NOTHING, decide
from inferd_language.memory import Memory, Turn, picked_notes
from inferd_language.needs import needs_for
from inferd_language.summaries import WRITES

PREFIX = "dialogue "  # of the names by which conversations are kept
MOST_MESSAGE = 20_000  # characters
MOST_MESSAGES = 1000  # that are added at once
FRAME = 16  # tokens of a message beside its text, as templates write it
LEAST_ROOM = 64
NOTES_SHARE = 0.3  # of the context, for what is known of turns that are not in it
NOTES_TOKENS = 120
MOST_OF_SMALL = 2  # messages that a small model is given beside lines that are told again
Session = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]
Message = Annotated[str, Field(min_length=1, max_length=MOST_MESSAGE)]


class Said(BaseModel):
    """One message of a conversation.

    Attributes:
        role: Who says it.
        content: What.
    """

    role: Literal["user", "assistant"]
    content: Message


class Reply(BaseModel):
    """What the model says.

    Attributes:
        reply: It.
        turn: The number of this turn, from 1.
        in_context: Messages that the model was given as they were said.
        recalled: What else it was told: lines of older messages, as they were said.
        summarised: Older messages that were summarised for it.
    """

    reply: str
    turn: int
    in_context: int
    recalled: list[str]
    summarised: int


class Known(BaseModel):
    """A conversation.

    Attributes:
        session: Its name.
        messages: That are known of it.
        notes: What is known in short of the older ones.
    """

    session: str
    messages: list[Said]
    notes: str


@function(asks=600, timeout_s=300)
def converse(
    *,
    session: Session,
    message: Message,
    model: str,
    system: Annotated[str, Field(max_length=4000)] = "",
    context_tokens: Annotated[int, Field(ge=0)] = 0,
    most_tokens: Annotated[int, Field(ge=1, le=4096)] = 256,
    memory: Literal["notes", "none"] = "notes",
    choice: Annotated[list[str], Field(max_length=64)] | None = None,
    schema: dict[str, Any] | None = None,
) -> Reply:
    """Say something in a conversation that is kept, and have what the model answers.

    The model is given the last messages as far as they fit. Of those before it is told what the question is about, as
    it was said, and what they were about: in its own words where it is large enough for that, else by picked sentences.

    Args:
        session: The name of the conversation; a new one begins it.
        message: What is said.
        model: A language model.
        system: What it is told before all else.
        context_tokens: Most tokens of what it is given and writes; 0 for as many as it can have.
        most_tokens: Most that it writes.
        memory: "none" gives it the last messages and nothing else.
        choice: Texts of which it answers with one.
        schema: JSON schema of its answer.
    """
    kept = recall(PREFIX + session)
    known = Memory.read(kept.value)
    if kept.own and len(known.turns) > 1 and known.turns[-2].text == message:  # the call runs again, and was done
        return Reply(reply=known.turns[-1].text, turn=known.number, in_context=0, recalled=[], summarised=known.noted)
    facts = ask(Ask(model=model, do="count", texts=[system or "x", message]))
    room = (
        min(facts.context_tokens, context_tokens or facts.context_tokens) - most_tokens - sum(facts.counts) - 2 * FRAME
    )
    if room < LEAST_ROOM:
        raise ValueError(
            f"what is said, system and most_tokens leave {room} tokens of the context for the conversation, which needs"
            f" {LEAST_ROOM}; say less at once"
        )
    _count(known, model)
    about = int(room * NOTES_SHARE) if memory == "notes" and known.tokens > room else 0
    begin = known.fitting(room - about, FRAME)
    recalled: list[str] = []
    small = bool(needs_for(WRITES, model, facts.parameters))
    if about:
        _note(known, model, begin, small=small)
        recalled = known.recalled(message, begin, about - NOTES_TOKENS)
        if small and recalled:  # it finds nothing among much
            begin = max(begin, len(known.turns) - MOST_OF_SMALL)
    told = [system] if system else []
    if about and known.notes:
        told.append(f"What was said before, in short: {known.notes}")
    given = [{"role": "system", "content": "\n\n".join(told)}] if told else []
    given += [{"role": each.role, "content": each.text} for each in known.turns[begin:]]
    asked = "\n".join([*recalled, message])
    given.append({"role": "user", "content": asked})
    if choice and len({*choice}) > 1 and recalled:
        answer = _chosen(model, recalled, message, choice)
    else:
        answer = ask(Ask(model=model, messages=given, choice=choice or (), schema=schema, max_tokens=most_tokens)).text
    known.add(Turn("user", message), Turn("assistant", answer))
    remember(PREFIX + session, known.write(), after=kept.version)
    return Reply(
        reply=answer,
        turn=known.number,
        in_context=len(given) - bool(told),
        recalled=recalled,
        summarised=known.noted if about else 0,
    )


@function(asks=4)
def dialogue_add(
    session: Session, messages: Annotated[list[Said], Field(min_length=1, max_length=MOST_MESSAGES)]
) -> int:
    """Add messages to a conversation that were said elsewhere, at its end; how many are known of it then.

    Args:
        session: The name of the conversation; a new one begins it.
        messages: They, oldest first.
    """
    kept = recall(PREFIX + session)
    known = Memory.read(kept.value)
    if kept.own:  # the call runs again, and was done
        return len(known.turns)
    known.add(*(Turn(each.role, each.content) for each in messages))
    remember(PREFIX + session, known.write(), after=kept.version)
    return len(known.turns)


@function(asks=1)
def dialogue_show(session: Session) -> Known:
    """What is known of a conversation.

    Args:
        session: Its name.
    """
    kept = recall(PREFIX + session)
    if not kept.version:
        raise ValueError(f"there is no conversation {session!r}")
    known = Memory.read(kept.value)
    said = [Said(role="user" if each.role == "user" else "assistant", content=each.text) for each in known.turns]
    return Known(session=session, messages=said, notes=known.notes)


@function(asks=1)
def dialogue_list() -> list[str]:
    """The names of all conversations of the caller's tenant."""
    return [each.removeprefix(PREFIX) for each in memo_names() if each.startswith(PREFIX)]


@function(asks=1)
def dialogue_forget(session: Session) -> bool:
    """Forget a conversation; whether there was one.

    Args:
        session: Its name.
    """
    return forget(PREFIX + session)


def _chosen(model: str, recalled: list[str], message: str, choice: list[str]) -> str:
    """The text that what was recalled makes likelier than it is without that."""
    question = f"Question: {message}\nAnswer:"
    return decide(model, [f"{known}\n\n{question}" for known in ("\n".join(recalled), NOTHING[0])], choice).label


def _count(known: Memory, model: str) -> None:
    """Have the tokens counted of messages of which they are not known; of another model they are others."""
    if known.counted != model:
        known.counted = model
        for each in known.turns:
            each.tokens = 0
    new = [each for each in known.turns if not each.tokens]
    for n in range(0, len(new), 60):
        some = new[n : n + 60]
        counts = ask(Ask(model=model, do="count", texts=[each.text for each in some])).counts
        for each, count in zip(some, counts, strict=True):
            each.tokens = max(1, count)


def _note(known: Memory, model: str, begin: int, *, small: bool) -> None:
    """Have what is not in the context any more added to what is known in short."""
    new = known.turns[known.noted : begin]
    if not new:
        return
    said = "\n".join(f"{each.role}: {each.text}" for each in new)
    if small:
        known.notes = picked_notes(f"{known.notes}\n\n{said}", 4 * NOTES_TOKENS)
    else:
        order = "Write down in a few sentences what matters of this conversation: names, numbers, wishes, decisions."
        given = f"{order}\n\n{known.notes}\n{said}"[-4 * 1500 :]
        known.notes = ask(
            Ask(model=model, messages=[{"role": "user", "content": given}], max_tokens=NOTES_TOKENS)
        ).text.strip()
    known.noted = begin
