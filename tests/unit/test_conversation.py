"""What chat templates are given, compared with Hugging Face transformers, which is the measure of it."""

import importlib
import json
from typing import Any

import pytest
from shared_templates import reference, render

from inferd.engine.work import ChatInput, Message
from inferd.errors import ChatTemplateError, InvalidFieldError, UnsupportedInputError

# Written as public templates are written.
LOOPS = (
    "{% for m in messages %}<{{ m.role }}>{% for line in m['content'] %}{% if line['type'] == 'text' %}"
    "{{ line['text'] }}{% elif line['type'] == 'image' %}<image>{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SELECTS = (
    "{% for m in messages %}{{ m.role | upper }}: {% for c in m.content | selectattr('type', 'equalto', 'text') %}"
    "{{ c.text | trim }} {% endfor %}{% endfor %}"
)
INDEXES = "{% for m in messages %}[{{ m['content'][0]['text'] }}]{% endfor %}"
MACRO = (
    "{% macro show(content) %}{% for part in content %}{{ part.text if part.type == 'text' }}{% endfor %}{% endmacro %}"
    "{% for m in messages %}{{ m.role }}:{{ show(m.content) }}\n{% endfor %}"
)
SYSTEM_TEXT = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content + '!' }}{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% for p in m.content %}{{ p.text if p.type == 'text' }}{% endfor %}{% endfor %}"
)
BOTH = (
    "{% for m in messages %}{% if m.content is string %}({{ m.content }}){% else %}{% for p in m.content %}"
    "{{ '<' ~ p.text ~ '>' if p.type == 'text' }}{% endfor %}{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m.role }} says {{ m.content }}\n{% endfor %}"

TALK = ("system", "Be kind."), ("user", "Hello <b>"), ("assistant", "Hi"), ("user", "Bye")


def parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


@pytest.mark.parametrize("source", [LOOPS, SELECTS, INDEXES, MACRO], ids=["loops", "selects", "indexes", "macro"])
def test_a_template_that_takes_parts_gets_parts(source: str) -> None:
    """A template that looks into lists of parts is given lists, and no word is lost."""
    rendered = render(source, ChatInput(tuple(Message(*said) for said in TALK)))
    assert rendered == reference(source, [{"role": role, "content": parts(text)} for role, text in TALK])
    assert all(text in rendered for _, text in TALK)


@pytest.mark.parametrize("source", [BOTH, PLAIN], ids=["both", "plain"])
def test_a_template_that_takes_text_gets_text(source: str) -> None:
    """A template that shows plain text is given plain text."""
    rendered = render(source, ChatInput(tuple(Message(*said) for said in TALK)))
    assert rendered == reference(source, [{"role": role, "content": text} for role, text in TALK])


def test_each_role_gets_what_it_needs() -> None:
    """Where a template takes the system message as text and the others in parts, each comes as it is taken."""
    rendered = render(SYSTEM_TEXT, ChatInput(tuple(Message(*said) for said in TALK)))
    assert rendered == "Be kind.!Hello <b>HiBye"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (LOOPS, "<user>ab<assistant>"),
        (BOTH, "<a><b>"),
        (PLAIN, "user says a\nb\n"),
        ("{# with text #}" + PLAIN, "user says a\nb\n"),
        ("{{ messages[0].content | tojson }}{# text #}", '"a\\nb"'),
    ],
    ids=["loops", "both", "plain", "written", "json"],
)
def test_parts_from_clients(source: str, expected: str) -> None:
    """Parts reach a template that takes them; others get their texts, a line for each."""
    assert render(source, ChatInput((Message("user", "", parts=("a", "b")),))) == expected


PUBLIC = [("smolvlm", "processing_smolvlm", "DEFAULT_CHAT_TEMPLATE"), ("llama4", "processing_llama4", "chat_template")]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}


@pytest.mark.parametrize(("model", "module", "name"), PUBLIC)
@pytest.mark.parametrize("case", ["talk", "tools", "call", "open", "continue", "date"])
def test_public_templates(model: str, module: str, name: str, case: str) -> None:
    """Public templates give what they give in transformers: with and without tools, calls, variables, an open end."""
    source: str = getattr(importlib.import_module(f"transformers.models.{model}.{module}"), name)
    wrap = parts if model == "smolvlm" else str
    said = [{"role": role, "content": wrap(text)} for role, text in TALK[: 3 if case == "continue" else 4]]
    if case == "call":
        said.append({"role": "assistant", "content": wrap(""), "tool_calls": [CALL]})
        said.append({"role": "tool", "content": wrap("sunny"), "tool_call_id": "c1"})
    options: dict[str, Any] = {
        "tools": {"tools": [WEATHER]},
        "call": {"tools": [WEATHER]},
        "open": {"add_generation_prompt": False},
        "continue": {"add_generation_prompt": False, "continue_final_message": True},
        "date": {"date_string": "1 April 2031", "tools_in_user_message": False},
    }.get(case, {})
    variables = {key: value for key, value in options.items() if key in ("date_string", "tools_in_user_message")}
    chat = ChatInput(
        tuple(
            Message(
                m["role"],
                m["content"] if isinstance(m["content"], str) else m["content"][0]["text"],
                tool_calls_json=json.dumps(m["tool_calls"]) if "tool_calls" in m else "",
                tool_call_id=m.get("tool_call_id", ""),
            )
            for m in said
        ),
        tools_json=json.dumps(options["tools"]) if "tools" in options else "",
        variables_json=json.dumps(variables) if variables else "",
        add_generation_prompt=options.get("add_generation_prompt", True),
        continue_final_message=options.get("continue_final_message", False),
    )
    assert render(source, chat) == reference(source, said, **options)


def test_tools_have_a_template_of_their_own() -> None:
    """The template for tools is used where there are tools, and the other one where there are none."""
    said = (Message("user", "hi"),)
    assert render("plain", ChatInput(said), tool_use="tools {{ tools | length }}") == "plain"
    assert render("plain", ChatInput(said, "[{}]"), tool_use="tools {{ tools | length }}") == "tools 1"
    assert render("plain {{ tools | length }}", ChatInput(said, "[{}]")) == "plain 1"


CALLS = "{% for m in messages %}{% for c in m.tool_calls or [] %}{% set f = c.function %}ARGS{% endfor %}{% endfor %}"
OBJECT, TEXT = {"city": "Zürich", "n": 3}, '{"city":"Zürich","n":3}'


@pytest.mark.parametrize(
    ("written", "given", "expected"),
    [
        ("{{ f.arguments | tojson }}", TEXT, '{"city": "Zürich", "n": 3}'),
        ("{{ f.arguments | tojson }}", OBJECT, '{"city": "Zürich", "n": 3}'),
        ("{{ f | tojson }}", TEXT, '{"name": "f", "arguments": {"city": "Zürich", "n": 3}}'),
        ("{% for k, v in f.arguments | items %}{{ k }}={{ v }};{% endfor %}", TEXT, "city=Zürich;n=3;"),
        ("{% for k in f.arguments %}{{ k }}={{ f.arguments[k] }};{% endfor %}", TEXT, "city=Zürich;n=3;"),
        ("{{ f.arguments if f.arguments is string else f.arguments | tojson }}", TEXT, TEXT),
        ("{{ '```' + f.arguments + '```' }}", TEXT, f"```{TEXT}```"),
        ("{{ '```' + f.arguments + '```' }}", OBJECT, '```{"city": "Zürich", "n": 3}```'),
        ("{{ f.name }}", TEXT, "f"),
    ],
)
def test_arguments_of_calls(written: str, given: Any, expected: str) -> None:
    """Arguments come as the object or as the JSON text that the template can write, whichever the client sent."""
    for call in ({"function": {"name": "f", "arguments": given}}, {"name": "f", "arguments": given}):
        source = CALLS.replace("ARGS", written)
        chat = ChatInput((Message("user", "?"), Message("assistant", "", tool_calls_json=json.dumps([call]))))
        assert (
            render(source if "function" in call else source.replace("c.function", "c.function or c"), chat) == expected
        )


@pytest.mark.parametrize("arguments", ["{", "[1]", "5"])
def test_arguments_that_are_no_object(arguments: str) -> None:
    """Arguments that a template cannot use are refused by their place; none at all are an empty object."""
    source = CALLS.replace("ARGS", "{{ f.arguments | tojson }}")

    def called(text: str) -> ChatInput:
        call = json.dumps([{"function": {"name": "f", "arguments": text}}])
        return ChatInput((Message("user", "?"), Message("assistant", "", tool_calls_json=call)))

    with pytest.raises(InvalidFieldError, match="wants an object") as caught:
        render(source, called(arguments))
    assert caught.value.field == "spec.chat.messages[1].tool_calls_json"
    assert render(source, called("")) == "{}"


THINKS = (
    "{% for m in messages %}{{ m.role }}:{% if m.reasoning_content is defined %}<think>{{ m.reasoning_content }}"
    "</think>{% endif %}{% if m.thinking is defined %}({{ m.thinking }}){% endif %}{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% if enable_thinking is defined and enable_thinking is false %}"
    "<think></think>{% endif %}{% endif %}"
)


@pytest.mark.parametrize("variables", [{}, {"enable_thinking": False}, {"enable_thinking": True}])
@pytest.mark.parametrize("reasoning", [None, "", "because"])
def test_reasoning_and_variables(variables: dict[str, bool], reasoning: str | None) -> None:
    """Reasoning, an empty one too, and variables are what transformers makes of them."""
    said = {"role": "assistant", "content": "so"} | ({} if reasoning is None else {"reasoning_content": reasoning})
    chat = ChatInput(
        (Message("assistant", "so", reasoning_content=reasoning),),
        variables_json=json.dumps(variables) if variables else "",
    )
    assert render(THINKS, chat) == reference(THINKS, [said], **variables)


def test_documents_are_a_variable() -> None:
    """Documents reach the template; without them it sees none."""
    source = "{% if documents %}{{ documents[0].text }}{% else %}{{ documents is none }}{% endif %}"
    chat = ChatInput((Message("user", "?"),))
    assert render(source, chat) == "True"
    given = ChatInput(chat.messages, variables_json=json.dumps({"documents": [{"text": "d"}]}))
    assert render(source, given) == "d"


ENDINGS = [
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}",
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>\n{% endfor %}",
    "{% for m in messages %}{{ m.role }}: {{ m.content.strip() + eos_token }}{% endfor %}",
    LOOPS,
]


@pytest.mark.parametrize("source", ENDINGS)
@pytest.mark.parametrize("content", ["The answer is", "The answer is ", " a\n\n", "", "x</s>"])
def test_continuing(source: str, content: str) -> None:
    """The prompt ends with the content of the last message, and with the white space that the template leaves."""
    wrap = parts if source is LOOPS else str
    said = [{"role": "user", "content": wrap("?")}, {"role": "assistant", "content": wrap(content)}]
    chat = ChatInput(
        (Message("user", "?"), Message("assistant", content)), add_generation_prompt=False, continue_final_message=True
    )
    expected = reference(source, said, add_generation_prompt=False, continue_final_message=True)
    assert render(source, chat) == expected
    assert expected.rstrip().endswith(content.strip())


def test_a_message_that_cannot_be_continued() -> None:
    """A template that leaves the last message out says so, and what to do."""
    chat = ChatInput((Message("user", "?"),), add_generation_prompt=False, continue_final_message=True)
    with pytest.raises(ChatTemplateError, match="leaves out the last message"):
        render("{{ messages[0].role }}", chat)


def test_half_characters() -> None:
    """JSON can hold half a character, which no text can: it is refused with its number."""
    with pytest.raises(InvalidFieldError, match="ud83d"):
        render("{{ tools | tojson }}", ChatInput((Message("user", "?"),), '[{"name": "\\ud83d"}]'))


STRICT = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('System message must be "
    "at the beginning.') }}{% elif m.role not in ('system', 'user', 'assistant') %}{{ raise_exception('Unexpected "
    "message role.') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
FORGETS = (
    "{% if messages[0].role == 'system' %}[{{ messages[0].content }}]{% endif %}"
    "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)
LAST = (  # as DeepSeek-R1-Distill: of several systems the last one
    "{% set ns = namespace(said='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.said = m.content %}"
    "{% endif %}{% endfor %}{{ ns.said }}{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>"
    "{{ m.content }}{% endif %}{% endfor %}"
)
MENTIONS = (
    "{# of a developer #}{% for m in messages if m.role in ('system', 'user', 'assistant') %}<{{ m.role }}>"
    "{{ m.content }}{% endfor %}"
)
INSTRUCTED = tuple(Message(*said) for said in (("system", "One."), ("developer", "Two."), ("user", "Hi")))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (STRICT, "<system>One.\n\nTwo.<user>Hi"),
        (FORGETS, "[One.\n\nTwo.]<user>Hi"),
        (PLAIN, "system says One.\nsystem says Two.\nuser says Hi\n"),
        (PLAIN + "{# developer #}", "system says One.\ndeveloper says Two.\nuser says Hi\n"),
        (LOOPS, "<system>One.<system>Two.<user>Hi"),
        (LAST, "One.\n\nTwo.<user>Hi"),
        (MENTIONS, "<system>One.<system>Two.<user>Hi"),
    ],
    ids=["refuses", "forgets", "shows", "knows", "parts", "last", "mentions"],
)
def test_what_developers_say(source: str, expected: str) -> None:
    """What a developer says reaches each template: as the system's words, and with others of these where it must."""
    assert render(source, ChatInput(INSTRUCTED, add_generation_prompt=False)) == expected


LATE = tuple(
    Message(*said) for said in (("system", "One."), ("user", "Hi"), ("assistant", "Yo"), ("developer", "Two."))
)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (STRICT, "<system>One.\n\nTwo.<user>Hi<assistant>Yo"),
        (FORGETS, "[One.\n\nTwo.]<user>Hi<assistant>Yo"),
        (LAST, "One.\n\nTwo.<user>Hi<assistant>Yo"),
        (MENTIONS, "<system>One.<user>Hi<assistant>Yo<system>Two."),
    ],
    ids=["refuses", "forgets", "last", "mentions"],
)
def test_what_developers_say_later(source: str, expected: str) -> None:
    """What is said behind the first user stays there where the template shows it, and else stands at the begin."""
    assert render(source, ChatInput(LATE, add_generation_prompt=False)) == expected


def test_what_no_template_shows_is_refused() -> None:
    """What a developer says is refused by its place where the template leaves it out however it is put."""
    with pytest.raises(UnsupportedInputError, match="leaves out what 'developer' says") as caught:
        render("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", ChatInput(INSTRUCTED[1:]))
    assert caught.value.field == "spec.chat.messages[0]"
