"""Functions: what is known of each, and by which names tasks have to do with them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from inferd.core.ids import ModelName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.model import SettingValue

LOADER = "inferd.engine.function.backend:FunctionBackend"
"""What a worker loads for a package."""
FUNCTION, PACKAGE = "functions@", "package@"
"""What names of functions, and of packages that offer them, begin with in the place of a model's: no model has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One version of a function.

    Attributes:
        name: By which it is called.
        version: Rises with what it does.
        description: For people.
        input_schema: JSON schema of an object of its parameters.
        output_schema: JSON schema of what it gives, or of each piece.
        streams: Whether it gives several pieces.
        timeout_s: How long a call may take, in seconds.
        memory_bytes: How much memory it may take beyond what its package has.
        package: Name of the package that offers it.
        asks: How often a call may ask a model at most, for each of its inputs.
        internal: Whether lists leave it out that people read.
    """

    name: str
    version: int
    description: str
    input_schema: str
    output_schema: str
    streams: bool
    timeout_s: float
    memory_bytes: int
    package: str
    asks: int = 0
    internal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package of functions.

    Attributes:
        name: Of its entry point.
        module: That offers them.
        distribution: "name version"; "" for a module without one.
        path: Of its folder or file; "" where it offers nothing.
        functions: What can be called of it.
        why: Why it offers nothing, or not all; "" where nothing is wrong.
        log_path: Where the traceback is; "" for none.
    """

    name: str
    module: str
    distribution: str = ""
    path: str = ""
    functions: tuple[Function, ...] = ()
    why: str = ""
    log_path: str = ""

    @property
    def model(self) -> ModelName:
        """Its name in the place of a model's."""
        return ModelName(PACKAGE + self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """How long a call may take and how much memory: what its function says, within what the configuration says.

    Attributes:
        module: Of the package.
        calls: Of a package that run at once.
        timeout_s, most_timeout_s: Of a call, where its function says nothing, and at most; in seconds.
        memory_bytes, most_memory_bytes: Likewise, of memory beyond what the package has.
        piece_bytes: Largest piece of an output, as JSON.
        array_bytes: Largest array of what calls of one task for several inputs gave, or of what one of them gave.
        output_bytes: Most of all pieces of one call together.
        timeouts_s, memories_bytes: By the name of a function, in place of what it says.
        files: Paths that functions may read, by the names that callers give them.
        asks: How often one call may ask models at most, of all its inputs.
        ask_bytes: Most of what it asks at once, as JSON, and of what comes of that.
        ask_timeout_s: How long an answer may take, in seconds; the time of a call stands still meanwhile.
    """

    module: str = ""
    calls: int = 1
    timeout_s: float = 60.0
    most_timeout_s: float = 3600.0
    memory_bytes: int = 256 << 20
    most_memory_bytes: int = 4 << 30
    piece_bytes: int = 1 << 20
    array_bytes: int = 4 << 20
    output_bytes: int = 256 << 20
    timeouts_s: Mapping[str, float] = field(default_factory=dict)
    memories_bytes: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    asks: int = 10_000
    ask_bytes: int = 4 << 20
    ask_timeout_s: float = 600.0

    def written(self, module: str) -> dict[str, SettingValue | None]:
        """Those of a package, as settings of a load, in which mappings are JSON."""
        given = asdict(replace(self, module=module))
        return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in given.items()}

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> CallLimits:
        """What was `written`."""
        mappings = {name: json.loads(settings[name]) for name in ("timeouts_s", "memories_bytes", "files")}
        return cls(**{**settings, **mappings})

    def timeout_of(self, name: str, said_s: float | None) -> float:
        """How long a call of a function may take, in seconds."""
        return self.timeouts_s.get(name) or min(said_s or self.timeout_s, self.most_timeout_s)

    def memory_of(self, name: str, said_bytes: int | None) -> int:
        """How much memory it may take, in bytes."""
        return self.memories_bytes.get(name) or min(said_bytes or self.memory_bytes, self.most_memory_bytes)


def function_of(model: str) -> str | None:
    """The function that a task names in the place of its model; None where it names a model, or a version of one."""
    name = model.removeprefix(FUNCTION)
    return name if model.startswith(FUNCTION) and not name.isdecimal() else None
