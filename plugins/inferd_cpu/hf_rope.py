"""How layers rotate, as a config.json says it, and what its values may be."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import UnsupportedModelError
from inferd_cpu.family import Family
from inferd_cpu.hf_settings import DEFAULTS, OWN, ROPE_KEYS
from inferd_cpu.hf_type import HfType
from inferd_cpu.rope import yarn_magnitude
from inferd_weights.metadata import Kind, Value

Floats = NDArray[np.float32]
MAX_WIDTH: Final = 1 << 20  # of a head
_LARGEST: Final = 1e30  # of a setting that is a number
_SMALLEST: Final = 1e-30  # what is divided by it stays finite
_NEVER: Final = 1e30  # divides the frequency of a pair that does not rotate
SLIDING, FULL = "sliding_attention", "full_attention"
_DIVISORS: Final = {"long_factor": "rope_factors_long.weight", "short_factor": "rope_factors_short.weight"}


class HfValues:
    """Checked reads of the settings of one model, and what was read so far as metadata of a GGUF file."""

    type: HfType
    divisors: dict[str, Floats]
    _path: Path
    _settings: Mapping[str, Any]
    _used: set[str]
    _named: str
    _family: Family
    _values: dict[str, Value]

    def _get(self, *names: str) -> Any:
        """The first of these settings that has a value."""
        self._used.update(names)
        return next((self._settings[name] for name in names if self._settings.get(name) is not None), None)

    def _number(self, name: str, default: float | None = None, *, of: Mapping[str, Any] | None = None) -> float | None:
        value = self._get(name) if of is None else of.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST:
            raise self._error(name, f"is {str(value)[:80]!r}; it must be a number above 0 and below {_LARGEST:g}")
        if value < _SMALLEST:
            raise self._error(name, f"is {value:g}; it must be at least {_SMALLEST:g}")
        return float(value)

    def _flag(self, name: str, *, default: bool) -> bool:
        value = self._get(name)
        if value is not None and not isinstance(value, bool):
            raise self._error(name, f"is {str(value)[:80]!r}; it must be true or false")
        return default if value is None else value

    def _size(self, name: str) -> int:
        value = self._get(name)
        if type(value) is not int or not 0 < value < 1 << 31:
            raise self._error(name, f"is {value!r}; it must be a whole number above 0")
        return value

    def _put(self, key: str, value: Any) -> None:
        kinds = {bool: Kind.BOOL, int: Kind.I64, float: Kind.F64, str: Kind.STRING}
        name = f"{self.type.architecture}.{key}"
        if isinstance(value, list) and value and all(type(item) is int and abs(item) < 1 << 31 for item in value):
            value = np.array(value, np.int64)
        if isinstance(value, np.ndarray):
            items = {"b": Kind.BOOL, "i": Kind.I64, "f": Kind.F32}
            self._values[name] = Value(Kind.ARRAY, value, items[value.dtype.kind])
        elif (kind := kinds.get(type(value))) is None:
            raise self._error(key, f"is {str(value)[:80]!r}, which is not supported")
        else:
            self._values[name] = Value(kind, value)

    def _error(self, name: str, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self._path}: setting {name!r} {why}")


class HfRope(HfValues):
    """The rotations of one model."""

    def _find_rope(self) -> tuple[dict[str, Any], Any]:
        """What is said of rotations: of layers that see all, and of those with a window."""
        given, scaling = self._get("rope_parameters") or {}, self._get("rope_scaling") or {}
        if given and scaling and given != scaling and given != DEFAULTS.get(self._named, {}).get("rope_parameters"):
            raise self._error("rope_scaling", f"is {str(scaling)[:80]}, but rope_parameters are {str(given)[:80]}")
        given = scaling or given
        if not isinstance(given, dict):
            raise self._error("rope_scaling", f"is {given!r}; it must be an object")
        local = given.get(SLIDING)
        if FULL in given or SLIDING in given:
            if more := sorted(given.keys() - {FULL, SLIDING, "rope_theta", "rope_type"}):
                raise self._error("rope_parameters", f"have {more[0]!r} beside those of single kinds of layers")
            given = given[FULL] if isinstance(given.get(FULL), dict) else {}
        return given, local

    def _read_rope(self) -> None:
        """How layers rotate; those with a window may do so in a way of their own."""
        given, local = self._find_rope()
        older = self._number("rope_theta") or self._number("global_rope_theta", 10000.0)
        base = self._number("rope_theta", older, of=given)
        self._put("rope.freq_base", base)
        other = self._number("rope_local_base_freq") or self._number("local_rope_theta")
        if isinstance(local, dict):
            self._check_local(local)
            other = self._number("rope_theta", base, of=local)
        if other is not None and self._family.window_rope == "plain":
            self._put("rope.freq_base_swa", other)
        elif other is not None and other != base:
            raise self._error("rope_parameters", f"rotate layers with a window by base {other:g}, others by {base:g}")
        rotated = self._number("partial_rotary_factor", self._number("partial_rotary_factor"), of=given)
        if rotated not in (None, 1) and self._named not in OWN["partial_rotary_factor"]:
            raise self._error("partial_rotary_factor", f"is {rotated:g}, which is not supported of {self._named!r}")
        width = self._head_width()
        rotated_width = int(width * (self.type.partial if rotated is None else rotated))
        self._put("rope.dimension_count", rotated_width)
        kind = given.get("rope_type", given.get("type", "default"))
        self._refuse_unread(given, kind)
        readers = {"linear": self._read_linear, "llama3": self._read_llama3, "yarn": self._read_yarn}
        readers |= {"longrope": self._read_longrope, "su": self._read_longrope, "dynamic": self._read_dynamic}
        if kind == "proportional":  # the others do not rotate, and a rotated pair is as if all did
            self.divisors["rope_freqs.weight"] = np.where(
                np.arange(width // 2) < rotated_width // 2, np.float32(1), np.float32(_NEVER)
            )
            self._put("rope.dimension_count", width)
            return
        if isinstance(kind, str) and kind in readers:
            readers[kind](given, rotated_width)
        elif kind != "default":
            raise self._error("rope_type", f"is {kind!r}; supported: default, {', '.join(readers)}")

    def _check_local(self, local: Mapping[str, Any]) -> None:
        """Layers with a window have a base of their own at most."""
        scales = local.get("rope_type", local.get("type", "default")) != "default"
        if scales or local.get("partial_rotary_factor") not in (None, 1):
            raise self._error("rope_parameters", f"scale layers with a window, {local!r}, which is not supported")
        self._refuse_unread(local, "default")

    def _refuse_unread(self, given: Mapping[str, Any], kind: Any) -> None:
        """What is said of rotations, and is not read, may change results."""
        known = ROPE_KEYS.get(kind, frozenset()) if isinstance(kind, str) else frozenset()
        if self.type.architecture.startswith("hunyuan") and kind == "dynamic":
            known |= {"alpha"}
        if self.type.architecture == "mistral3" and kind == "yarn":
            known |= {"llama_4_scaling_beta", "max_position_embeddings"}
        unread = sorted(name for name, value in given.items() if value is not None and name not in known)
        if known and unread:
            shown = str(given[unread[0]])[:80]
            raise self._error(unread[0], f"is {shown}, which is not supported of rotations of type {kind!r}")

    def _read_dynamic(self, given: Mapping[str, Any], width: int) -> None:
        """The base grows by what the model was stretched by; without that nothing grows in the context offered."""
        if (alpha := self._number("alpha", of=given)) is not None:
            base = self._values[f"{self.type.architecture}.rope.freq_base"].content
            self._put("rope.freq_base", base * alpha ** (width / (width - 2)))

    def _head_width(self) -> int:
        width = self._size("hidden_size") // self._size("num_attention_heads")
        if self._family.latent:
            return self._size("qk_rope_head_dim")
        if self._get("head_dim") is not None:
            width = self._size("head_dim")
        if (whole := self._values.get(f"{self.type.architecture}.attention.key_length")) is not None:
            width = whole.content
        if width > MAX_WIDTH:
            raise self._error("head_dim", f"is {width}; it must be at most {MAX_WIDTH}")
        return width

    def _read_linear(self, given: Mapping[str, Any], width: int) -> None:  # noqa: ARG002 - as the others
        self._put("rope.scaling.type", "linear")
        self._put("rope.scaling.factor", self._need("factor", given))

    def _need(self, name: str, given: Mapping[str, Any]) -> float:
        value = self._number(name, of=given)
        if value is None:
            raise self._error(name, "is missing in how positions are scaled")
        return value

    def _read_llama3(self, given: Mapping[str, Any], width: int) -> None:
        """Long waves are divided by the factor, short ones by nothing."""
        factor, low = self._need("factor", given), self._need("low_freq_factor", given)
        high, original = self._need("high_freq_factor", given), self._need("original_max_position_embeddings", given)
        if high <= low:
            raise self._error("high_freq_factor", f"is {high:g}; it must be above low_freq_factor, which is {low:g}")
        base = self._values[f"{self.type.architecture}.rope.freq_base"].content
        turns = original * base ** -(np.arange(0, width, 2) / width) / (2 * math.pi)  # within what was trained first
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        self.divisors["rope_freqs.weight"] = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)

    def _read_yarn(self, given: Mapping[str, Any], width: int) -> None:  # noqa: ARG002 - as the others
        if given.get("truncate", True) != self._family.yarn_truncates:
            raise self._error("truncate", f"is {given.get('truncate')!r}, which is not supported")
        factor = self._need("factor", given)
        self._put("rope.scaling.type", "yarn")
        self._put("rope.scaling.factor", factor)
        original = given.get("original_max_position_embeddings") or self._get("original_max_position_embeddings")
        self._put("rope.scaling.original_context_length", original or self._size("max_position_embeddings"))
        for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0)):
            self._put(f"rope.scaling.yarn_{name}", self._number(name, default, of=given))
        self._put_magnitude(given, factor)
        if self.type.architecture == "mistral3":  # queries grow with the position
            self._put("attention.temperature_scale", self._need("llama_4_scaling_beta", given))

    def _put_magnitude(self, given: Mapping[str, Any], factor: float) -> None:
        """What rotated queries and keys are multiplied with; of latent ones the scale of scores has the rest."""
        whole, part = (
            self._number(name, of=given) if given.get(name) else None for name in ("mscale", "mscale_all_dim")
        )
        magnitude = self._number("attention_factor", of=given)
        if magnitude is None and whole and part:
            magnitude = yarn_magnitude(factor, whole) / yarn_magnitude(factor, part)
        if self._family.latent:
            self._put("rope.scaling.attn_factor", yarn_magnitude(factor) if magnitude is None else magnitude)
            self._put("rope.scaling.yarn_log_multiplier", 0.1 * (part or 0.0))
        elif magnitude is not None:
            self._put("rope.scaling.attn_factor", magnitude / yarn_magnitude(factor))
        elif (share := self._number("attn_factor", of=given)) is not None:  # transformers passes over it with a warning
            self._put("rope.scaling.attn_factor", share)

    def _read_longrope(self, given: Mapping[str, Any], width: int) -> None:
        """Frequencies are divided by lists, one for texts up to what was trained first, and one for longer ones."""
        own, inner = self._get("original_max_position_embeddings"), given.get("original_max_position_embeddings")
        if own is not None and inner is not None and own != inner:
            raise self._error("original_max_position_embeddings", f"is {own!r}, but in how positions scale {inner!r}")
        original = own or inner
        most = self._size("max_position_embeddings")
        if type(original) is not int or original < 2:  # noqa: PLR2004 - of which the logarithm divides
            raise self._error("original_max_position_embeddings", f"is {original!r}; it must be a number above 1")
        for name, tensor in _DIVISORS.items():
            numbers = given.get(name)
            if not isinstance(numbers, list) or len(numbers) != width // 2:
                raise self._error(name, f"must be a list of {width // 2} numbers")
            self.divisors[tensor] = np.array([self._need(name, {name: x}) for x in numbers], np.float32)
        scales = [self._number(f"{name}_mscale", of=given) for name in ("short", "long")]
        if scales[0] != scales[1]:
            raise self._error("long_mscale", f"is {scales[1]}; it must be short_mscale, which is {scales[0]}")
        magnitude = scales[0] if scales[0] is not None else self._number("attention_factor", of=given)
        if magnitude is None:
            factor = self._number("factor", most / original, of=given) or 1.0
            magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        self._put("rope.scaling.type", "longrope")
        self._put("rope.scaling.original_context_length", original)
        self._put("rope.scaling.attn_factor", magnitude)
