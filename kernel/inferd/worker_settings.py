"""Settings of workers: the processes in which models are."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from inferd.spans import Seconds, Times


class Workers(BaseModel):
    """How workers are started, watched and ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sandbox: Literal["auto", "require", "off"] = Field(
        "auto",
        description="what keeps a worker from all that is not its model's: auto for as much as this system allows,"
        " which each instance tells; require to load nothing where a part of it is lacking; off",
    )
    sandbox_threads: int = Field(
        4096, ge=64, le=1 << 22, description="most threads and processes of a worker and of what works beside it"
    )
    sandbox_memory_bytes: int = Field(
        0,
        ge=0,
        le=1 << 62,
        description="most memory of its own that a worker takes beyond what it has before it loads its model, in bytes;"
        " 0 for as much as the machine has",
    )
    scratch_bytes: int = Field(
        4 << 30,
        ge=1 << 20,
        le=1 << 62,
        description="most that a worker may have written to its scratch and its log, in bytes of the disk; one with"
        " more is ended",
    )
    scratch_files: int = Field(
        100_000, ge=100, le=1 << 31, description="most files and folders that a worker may have in its scratch"
    )
    variables: tuple[str, ...] = Field(
        (),
        max_length=100,
        description="names of variables of the kernel's environment that workers are given besides those of libraries,"
        " processors and languages; what runs in a worker can read them, and those with a secret in the name stay out",
    )
    start_timeout_s: Seconds = Field(20.0, gt=0, description="from the start of the process to its first frame")
    load_silence_s: Seconds = Field(60.0, gt=0, description="longest time without progress while a model loads")
    look_memory_bytes: int = Field(
        4 << 30,
        ge=64 << 20,
        le=1 << 62,
        description="most memory that looking at a model's file may take before it is loaded, in bytes; on the"
        " processor no more than may be given of it",
    )
    look_cpu_s: Seconds = Field(300.0, ge=1, description="most processor time that looking at a model's file may take")
    look_descriptors: int = Field(
        4096, ge=64, le=1 << 20, description="most descriptors that a worker has open while it looks at a model's file"
    )
    heartbeat_s: Seconds = Field(1.0, gt=0, description="time between heartbeats")
    heartbeat_timeout_s: Seconds = Field(10.0, gt=0, description="a worker silent for longer is killed")
    step_floor_s: Seconds = Field(
        20.0, gt=0, description="a step is a hang after 10 times the slowest of its size, not before so long"
    )
    step_ceiling_s: Seconds = Field(
        300.0,
        gt=0,
        description="a step is a hang after so long, and so is the first of its size, and any call of a model of"
        " tensors and the decoding of a picture or a sound; its worker is killed",
    )
    stop_timeout_s: Seconds = Field(3.0, gt=0, description="time to end in order before it is killed")
    restart_backoff_s: Seconds = Field(
        0.5, ge=0, description="wait after the first failure; doubles with each in a row"
    )
    restart_backoff_max_s: Seconds = Field(30.0, ge=0, description="longest wait after a failure")
    step_tokens: int = Field(512, ge=1, description="most tokens that one step computes")
    growth_told: Times = Field(
        0.25,
        ge=0,
        description="a worker that takes more than it measured by this part of it, and growth_told_bytes, is told of; "
        "watched is what workers that compute on the processor take of the host, not those of other devices",
    )
    growth_told_bytes: int = Field(256 << 20, ge=0, description="see growth_told; in bytes")
    growth_ended: Times = Field(
        1.0,
        ge=0,
        description="a worker that exceeds what it measured by this part of it, and growth_ended_bytes, is killed; "
        "watched as for growth_told: on the processor only",
    )
    growth_ended_bytes: int = Field(1 << 30, ge=0, description="see growth_ended; in bytes")
    query_timeout_s: Seconds = Field(30.0, gt=0, description="longest time of turning a text into tokens")
    template_timeout_s: Seconds = Field(2.0, gt=0, description="longest time of a chat template")
    text_timeout_s: Seconds = Field(10.0, gt=0, description="longest time of turning a long prompt into tokens")
    grammar_compile_s: Seconds = Field(5.0, gt=0, description="longest time of compiling a grammar")
    grammar_step_s: Seconds = Field(1.0, gt=0, description="longest time of a grammar for one token of its output")
    grammar_wait_s: Seconds = Field(0.05, ge=0, description="most that grammars hold up a step; later ones miss it")
    batch_rows: int = Field(
        64, ge=1, description="rows of several tasks that a model of tensors computes as one, where it can do so many"
    )
    batch_delay_s: Seconds = Field(
        0.0, ge=0, description="how long a task of tensors waits for others to be computed with, in seconds"
    )
    sequences: int = Field(1024, ge=1, description="sequences whose state a worker keeps for a model of tensors")
    sequences_per_tenant: int = Field(
        0,
        ge=0,
        le=1 << 31,
        description="sequences of those that one tenant may have; 0 for half of them, but at least one",
    )
    sequence_bytes: int = Field(64 << 20, ge=1, le=1 << 62, description="most bytes of the state of a sequence")
    all_sequences_bytes: int = Field(
        512 << 20,
        ge=1,
        le=1 << 62,
        description="most bytes of the states that a worker keeps; one tenant may have the same part of it as of the "
        "sequences",
    )
    image_pixels: int = Field(
        24_000_000,
        ge=1,
        le=1 << 40,
        description="most pixels of a picture in a conversation, or of one that a recipe decodes, or makes of it",
    )
    pictures: int = Field(32, ge=1, le=1 << 16, description="most pictures, or sounds, of a conversation")
    picture_bytes: int = Field(
        512 << 20,
        ge=0,
        le=1 << 40,
        description="what a worker keeps of pictures of conversations that it has read, in bytes; those of one "
        "conversation may not take more. 0 for nothing: each is read again in the step that computes it",
    )
    audio_s: Seconds = Field(
        600.0, gt=0, description="most seconds of a sound in a conversation, or of one that a recipe decodes"
    )
    sequence_idle_s: Seconds = Field(
        60.0, gt=0, description="a sequence of tensors without a task for so long is given up"
    )
    grammars: int = Field(64, ge=1, description="grammars that a worker keeps compiled, each in a process of its own")
    cell_memory_bytes: int = Field(
        512 << 20, ge=1 << 20, description="most memory that a grammar, a template or a long text may take, in bytes"
    )
    max_gap_s: Seconds = Field(
        0.2, gt=0, description="most that prompts add to the time between two tokens beside them"
    )
    draft_tokens: int = Field(
        0, ge=0, le=64, description="most tokens guessed for a sequence in a step, from what it repeats; 0 for none"
    )
