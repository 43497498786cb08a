"""Settings from the environment: `INFERD_…` variables."""

from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from inferd.folders import NOT_SETTINGS

LISTS = ("listen", "backends", "plugin_modules", "failpoints")


class Environment(EnvSettingsSource):
    """The `INFERD_…` variables: a list may be `a,b`, and a variable of no setting is kept, to be told."""

    def __call__(self) -> dict[str, Any]:
        """What the variables say, by name."""
        found = super().__call__()
        known = {name for field in self.settings_cls.model_fields for name in (f"inferd_{field}", f"inferd_{field}__")}
        for variable, value in self.env_vars.items():
            group = variable[: variable.find("__") + 2] if "__" in variable else variable
            if variable.startswith("inferd_") and variable not in NOT_SETTINGS and group not in known:
                found[variable.removeprefix("inferd_").partition("__")[0]] = value
        return found

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """A value of a list or a group; a list that is not JSON has its members between commas."""
        if isinstance(value, str) and field_name in LISTS and not value.lstrip().startswith("["):
            return [member.strip() for member in value.split(",") if member.strip()]
        return super().decode_complex_value(field_name, field, value)
