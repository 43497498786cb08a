"""The usual folders of a user's kernel, and whether anything says otherwise: without the settings, which take long."""

import os
from pathlib import Path
from typing import Final

import platformdirs

NOT_SETTINGS: Final = frozenset(
    {
        "inferd_address",
        "inferd_tenant",
        "inferd_lease",
        "inferd_credential",
        "inferd_credential_file",
        "inferd_patience_s",
    }
    | {"inferd_ca_file", "inferd_cert_file", "inferd_key_file", "inferd_config", "inferd_examples"}
)
"""Variables of the command line, of clients and of the tests; in lower case, as variables are compared."""


def config_path() -> Path:
    """Where the configuration is read from: `$INFERD_CONFIG`, else `inferd/config.toml` in the user's config folder."""
    named = os.environ.get("INFERD_CONFIG")
    return Path(named) if named else platformdirs.user_config_path("inferd") / "config.toml"


def usual_data_dir() -> Path:
    """Where models are unless a setting says otherwise."""
    return platformdirs.user_data_path("inferd")


def is_configured() -> bool:
    """Whether a file or a variable may say how a kernel is to be."""
    variables = {name.lower() for name in os.environ if name.lower().startswith("inferd_")}
    return bool(variables - NOT_SETTINGS) or config_path().exists()
