"""What this plugin offers. Importing this module loads nothing but the interface."""

from collections.abc import Iterable

from inferd.plugin import BATCH_SETTINGS, BackendSpec, Setting, hookimpl

SPEC = BackendSpec(
    name="heads",
    loader="inferd_heads.backend:HeadsBackend",
    probe="inferd_heads.probing:probe",
    formats=("heads",),
    description="classifiers of texts, trained and served on the processor without any framework",
    supported={"Classifiers that it trains": ("of texts, or of vectors that an embedding model has made",)},
    settings=(
        Setting(
            name="longer",
            kind="str",
            default="cut",
            choices=("cut", "refuse"),
            description="what becomes of a text with more words than the model was trained with: only its first ones"
            " are read, and the output `cut` says how many were not; or it is refused",
        ),
        Setting(
            name="top",
            kind="int",
            minimum=1,
            maximum=1000,
            description="how many labels are told of each text, likeliest first; default: 20, or all where there are"
            " fewer",
        ),
        Setting(
            name="max_batch",
            kind="int",
            default=64,
            minimum=1,
            maximum=4096,
            description="most texts of several requests that are computed as one",
        ),
        *BATCH_SETTINGS,
    ),
    trains=("classify",),
)


@hookimpl
def inferd_backends() -> Iterable[BackendSpec]:
    """One backend: `heads`."""
    return (SPEC,)
