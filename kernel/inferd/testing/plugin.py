"""The plugin that offers the fake backend; enabled by the setting `plugin_modules=["inferd.testing.plugin"]`."""

from collections.abc import Iterable

from inferd.plugin import BackendSpec, Setting, hookimpl

FAKE = BackendSpec(
    name="fake",
    loader="inferd.testing.fake:FakeBackend",
    formats=("fake",),
    description="repeats what it was given; for tests",
    trains=("classify", "lora", "full"),
    trains_together=("full",),
    settings=(
        Setting(
            name="context_tokens", kind="int", description="tokens of one sequence; default: the file's", minimum=1
        ),
        Setting(name="weights_bytes", kind="int", description="what it needs; default: the file's", minimum=0),
        Setting(
            name="quantization",
            kind="str",
            default="auto",
            choices=("auto", "8bit", "4bit"),
            description="8bit: steps take two thirds of the time; 4bit: half, and it is unsure of what it says",
        ),
        Setting(name="adapter", kind="str", names_file=True, description="a path; nothing is made of it"),
        Setting(name="kv_bytes", kind="int", description="what it needs besides; default: the file's", minimum=0),
    ),
)


@hookimpl
def inferd_backends() -> Iterable[BackendSpec]:
    """The fake backend."""
    return (FAKE,)
