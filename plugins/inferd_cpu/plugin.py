"""What this plugin offers. Importing this module loads no framework."""

from collections.abc import Iterable

from inferd.plugin import BackendSpec, Setting, hookimpl

SPEC = BackendSpec(
    name="cpu",
    loader="inferd_cpu.backend:CpuBackend",
    formats=("gguf",),
    description="GGUF models of the Llama family (llama, qwen2, qwen3) in fp32 on the processor",
    settings=(
        Setting(
            name="context_tokens",
            kind="int",
            minimum=1,
            description="most tokens of one sequence; default: the model's context, at most 8192",
        ),
        Setting(
            name="kv_tokens",
            kind="int",
            minimum=1,
            description="tokens whose keys and values fit into the KV pool, over all sequences; default: 512 for each"
            " sequence or one whole context, at most 1 GiB and a quarter of what the weights leave of the device",
        ),
        Setting(
            name="max_sequences", kind="int", default=64, minimum=1, maximum=4096, description="sequences in a step"
        ),
        Setting(
            name="max_step_tokens", kind="int", default=512, minimum=1, maximum=65536, description="tokens in a step"
        ),
        Setting(
            name="block_tokens", kind="int", default=16, minimum=1, maximum=4096, description="tokens in a KV block"
        ),
    ),
)


@hookimpl
def inferd_backends() -> Iterable[BackendSpec]:
    """One backend: `cpu`."""
    return (SPEC,)
