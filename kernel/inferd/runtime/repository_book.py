"""What is known of a model repository: what is served of it, what not, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from inferd.core.ids import ModelName
from inferd.core.model import ModelState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.core.model import Model
    from inferd.core.views import Views
    from inferd.repository.ensembles import Ensemble
    from inferd.repository.folders import Folder
    from inferd.repository.served import Served
    from inferd.repository.terms import Terms

UNLOADED = "unloaded"
MOST_DEPTH = 8  # of ensembles in ensembles


class Listed(NamedTuple):
    """A version as the index of a repository has it.

    Attributes:
        name: Of the model.
        version: Its number; "" where none is known.
        model: Of the kernel; None where there is none.
        why: Why there is none; else "".
        ready: It is an ensemble, and all of its models take requests.
    """

    name: str
    version: str
    model: Model | None
    why: str
    ready: bool = False


@dataclass(slots=True)
class Known:
    """What is known of a name. One writer: `Repository`.

    Attributes:
        state: Of the folder that was looked at last, whatever came of it.
        served: What is served; None for nothing.
        why: Why nothing is, or why what has come since is not.
    """

    state: str = ""
    served: Served | None = None
    why: str = ""


class Book:
    """What is known of the names of a repository. One writer: `Repository`.

    Args:
        views: The models of the kernel.

    Attributes:
        known: What is known of each name that was to be served.
        last: The folders as they were looked at last; None before that.
    """

    def __init__(self, views: Views) -> None:
        self.known: dict[str, Known] = {}
        self.last: dict[str, Folder] | None = None
        self._views = views

    def served(self, name: str) -> Served | None:
        """What is served of a name; None for nothing."""
        known = self.known.get(name)
        return None if known is None else known.served

    def whys(self) -> dict[str, str]:
        """Why folders are not served, or not as they are now, by name."""
        return {name: known.why for name, known in self.known.items() if known.why and known.why != UNLOADED}

    def terms(self, name: str) -> Terms | None:
        """What holds of requests to a model; None for one of no repository."""
        served = self.served(name)
        return None if served is None else served.terms

    def ensemble(self, name: str) -> Ensemble | None:
        """What an ensemble is; None for what is none."""
        served = self.served(name)
        return None if served is None else served.ensemble

    def lacks(self, ensemble: Ensemble, depth: int = MOST_DEPTH, whole: set[str] | None = None) -> str:
        """A model that an ensemble needs and that does not take requests; "" where all do, as of those `whole`."""
        whole = set() if whole is None else whole
        for each in ensemble.models:
            if each in whole:
                continue
            if (parts := self.ensemble(each)) is not None:
                if depth == 0 or self.lacks(parts, depth - 1, whole):
                    return each
                whole.add(each)
                continue
            model = self._views.find_model(ModelName(each))
            if model is None or model.state is not ModelState.READY:
                return each
        return ""

    def why_no_task(self, name: str) -> str:
        """Why no task of the kernel can be of a name; "" where nothing stands against it."""
        if (ensemble := self.ensemble(name)) is None:
            return ""
        return (
            f"is an ensemble of the model repository, and a task is of one model: run it with ModelInfer or"
            f" ModelStreamInfer of inference.GRPCInferenceService, or run its models, {', '.join(ensemble.models)}"
        )

    def knows(self, name: str) -> bool:
        """Whether a model is one of the repository, served or not."""
        return name in self.known or (self.last is not None and name in self.last)

    def model_of(self, name: str, version: str) -> str | None:
        """The model of the kernel that is a version of one of the repository; None where it is not served."""
        served = self.served(name)
        if served is None:
            return None
        if not version or (served.ensemble is not None and version == str(served.number)):
            return name
        return next((each.name for each in served.versions if str(each.number) == version), None)

    def versions(self, name: str) -> tuple[str, ...]:
        """The numbers of all versions of a model that are served."""
        served = self.served(name)
        if served is None or served.ensemble is not None:
            return () if served is None else (str(served.number),)
        return tuple(str(each.number) for each in served.versions)

    def listed(self) -> list[Listed]:
        """All versions, by name."""
        return [each for name in sorted({*self.known, *(self.last or {})}) for each in self._listed(name)]

    def _listed(self, name: str) -> Iterator[Listed]:
        known = self.known.get(name)
        if known is None or known.served is None:
            folder = (self.last or {}).get(name)
            numbers = folder.versions[-1:] if folder is not None else ()
            why = (known.why if known is not None else "") or (folder.why if folder is not None else "") or UNLOADED
            yield Listed(name, str(numbers[0]) if numbers else "", None, why)
            return
        if (ensemble := known.served.ensemble) is not None:
            lacks = self.lacks(ensemble)
            why = f"ensemble '{name}' depends on '{lacks}' which has no loaded version" if lacks else ""
            yield Listed(name, str(known.served.number), None, why, ready=not lacks)
            return
        for each in known.served.versions:
            model = self._views.find_model(ModelName(each.name))
            yield Listed(name, str(each.number), model, "" if model is not None else UNLOADED)
        for number, why in known.served.lacking.items():
            yield Listed(name, str(number), None, why)
