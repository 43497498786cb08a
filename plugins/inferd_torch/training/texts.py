"""From a row to tokens, and which of them are learnt: the same tokens that a served model is given."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from inferd.plugin import TrainError, Vocabulary
from inferd_torch.artifact import Artifact
from inferd_torch.network import reading
from inferd_torch.training.rows import Row

ROLES = ("assistant", "model")  # whose words are learnt
MESSAGES = "messages"


@dataclass(frozen=True, slots=True)
class Example:
    """Tokens of a row.

    Attributes:
        ids: Of its text.
        learnt: For each, whether the model is to give it.
        cut: Whether there were more.
    """

    ids: list[int]
    learnt: list[bool]
    cut: bool = False

    @property
    def targets(self) -> int:
        """Tokens that are learnt: the first one has none before it."""
        return sum(self.learnt[1:])


def read_tokenizer(artifact: Artifact) -> Tokenizer:
    """What makes tokens of text: as a folder defines it, or as transformers reads it from a GGUF file.

    Raises:
        TrainError: It cannot be built.
    """
    try:
        if artifact.vocabulary.algorithm == "json":
            made = Tokenizer.from_buffer(artifact.vocabulary.definition)
        else:
            made = _read_whole(artifact).backend_tokenizer
    except Exception as error:  # the edge to libraries that raise what they like
        raise TrainError(f"{artifact.path}: its tokenizer: {type(error).__name__}: {error}") from error
    made.no_truncation()
    made.no_padding()
    return made


def _read_whole(artifact: Artifact) -> Any:
    """The tokenizer as transformers reads it.

    A GGUF file lies in a folder of its own for that: transformers lists the folder, and a sandbox opens the file alone.
    """
    told: dict[str, Any] = {**artifact.options, "local_files_only": True, "trust_remote_code": False}
    if "gguf_file" not in artifact.options:
        return AutoTokenizer.from_pretrained(artifact.folder, **told)
    with TemporaryDirectory() as folder, reading(artifact):
        (Path(folder) / artifact.path.name).symlink_to(artifact.path.absolute())
        return AutoTokenizer.from_pretrained(folder, **told)


class Texts:
    """Makes tokens of rows: of a text, or of a conversation by the model's template.

    Names of control tokens are recognised in texts, as where a model is served; what a message says cannot become one,
    so a message that holds one is refused.

    Args:
        tokenizer: Of the model.
        vocabulary: Of the model.
        field: Of the text.
        most: Tokens of a row.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary, *, field: str, most: int) -> None:
        self._inner, self._field, self._most = tokenizer, field, most
        self._template = vocabulary.chat_template
        self._end = list(vocabulary.eos_ids[:1])
        self._adds = vocabulary.algorithm == "json"
        self._first = [vocabulary.bos_id] if vocabulary.add_bos and vocabulary.bos_id is not None else []
        self._names = {
            "bos_token": self._name(vocabulary.bos_id),
            "eos_token": self._name(next(iter(vocabulary.eos_ids), None)),
        }
        added = tokenizer.get_added_tokens_decoder().values()
        self._controls = [token.content for token in added if token.special]

    def read(self, row: Row, name: str) -> Example:
        """Tokens of a row.

        Args:
            row: With a text, or with messages in the same field or in "messages".
            name: For errors.

        Raises:
            TrainError: It has neither, or its messages do not fit the template.
        """
        given = row.get(self._field, row.get(MESSAGES))
        if isinstance(given, str):
            return self._bound(*self._plain(given))
        if isinstance(given, list):
            return self._bound(*self._conversation(given, name))
        kind = "is not there" if given is None else f"is a {type(given).__name__}"
        raise TrainError(
            f"{name}: field {self._field!r} {kind}, nor has it {MESSAGES!r}: a row needs a text or a list of messages;"
            f" it has {sorted(row)[:10]}"
        )

    def _plain(self, text: str) -> tuple[list[int], list[bool]]:
        ids = self._inner.encode(text, add_special_tokens=self._adds).ids
        if self._first and ids[:1] != self._first:
            ids = [*self._first, *ids]
        if self._end and ids[-1:] != self._end:
            ids = [*ids, *self._end]
        return ids, [True] * len(ids)

    def _conversation(self, messages: list[Any], name: str) -> tuple[list[int], list[bool]]:
        self._check(messages, name)
        whole, spans = self._render(messages, name), []
        for at, message in enumerate(messages):
            if message["role"] in ROLES:
                before = self._render(messages[:at], name, asks=True)
                after = self._render(messages[: at + 1], name)
                if not (after.startswith(before) and whole.startswith(after)):
                    raise TrainError(
                        f"{name}: the chat template writes message {at} otherwise when others follow; give such"
                        " conversations as one row for each answer"
                    )
                spans.append((len(before), len(after.rstrip())))
        if not spans:
            raise TrainError(
                f"{name}: none of its {len(messages)} messages is of {' or '.join(ROLES)}: nothing to learn"
            )
        encoded = self._inner.encode(whole, add_special_tokens=False)
        learnt = [any(start <= first < end for start, end in spans) for first, _ in encoded.offsets]
        return encoded.ids, learnt

    def _check(self, messages: list[Any], name: str) -> None:
        if self._template is None:
            raise TrainError(f"{name}: it has messages, but the model has no chat template; give its text")
        for at, message in enumerate(messages):
            if not (isinstance(message, dict) and isinstance(message.get("role"), str)):
                raise TrainError(f"{name}: message {at} is no object with a 'role'")
            content = message.get("content")
            if content is not None and not isinstance(content, str):
                raise TrainError(f"{name}: 'content' of message {at} is a {type(content).__name__}; it must be a text")
            if found := next((token for token in self._controls if token in (content or "")), None):
                raise TrainError(f"{name}: message {at} has the control token {found!r}, which no message may say")

    def _render(self, messages: list[Any], name: str, *, asks: bool = False) -> str:
        if not messages and not asks:
            return ""
        try:
            texts, _ = render_jinja_template(
                [messages], chat_template=self._template, add_generation_prompt=asks, **self._names
            )
        except Exception as error:  # a template is foreign code
            raise TrainError(f"{name}: the chat template refuses it: {type(error).__name__}: {error}") from error
        return str(texts[0])

    def _bound(self, ids: list[int], learnt: list[bool]) -> Example:
        return Example(ids[: self._most], learnt[: self._most], len(ids) > self._most)

    def _name(self, token: int | None) -> str:
        return "" if token is None else self._inner.id_to_token(token) or ""
