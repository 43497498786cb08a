"""Are there advisories for what is installed here? `python tests/arch/audit.py`, a part of `make lint`.

pip-audit asks an index for them. Where that cannot be reached, or knows none of the packages, this says that nothing
was looked up and goes on; with AUDIT=required it fails. What is found fails, unless `tool.audit.answered` in
pyproject.toml says why it does not concern inferd; so does an answer to what is not found any more.
"""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ASKED_S = 15  # how long each answer may take
LIMIT_S = 240


def audit() -> tuple[list[dict[str, Any]], str]:
    """What pip-audit says of each installed package, and why it says nothing; "" where it does."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--skip-editable", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, "--timeout", str(ASKED_S)], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return [], f"no end after {LIMIT_S} s"
    try:
        return json.loads(done.stdout)["dependencies"], ""
    except ValueError:
        said = done.stderr.strip().splitlines()
        return [], said[-1] if said else f"status {done.returncode}"


def judge(packages: list[dict[str, Any]], answered: dict[str, str]) -> tuple[str, list[str]]:
    """How many packages were looked up, in words, and what is wrong."""
    known = [each for each in packages if "skip_reason" not in each]
    found = [(each, one, {one["id"], *one.get("aliases", ())}) for each in known for one in each["vulns"]]
    seen = {name for _, _, names in found for name in names}
    wrong = [
        f"{each['name']} {each['version']}: {one['id']}; fixed in {', '.join(one['fix_versions']) or 'none'}"
        for each, one, names in found
        if not names & answered.keys()
    ]
    if known:
        wrong += [
            f"{name} is answered in pyproject.toml and not found any more" for name in sorted(answered.keys() - seen)
        ]
    return f"pip-audit: {len(known)} of {len(packages)} packages looked up", wrong


def main() -> int:
    """Tell what was looked up and found; the exit status."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages, why = audit()
    told, wrong = judge(packages, config["tool"].get("audit", {}).get("answered", {}))
    print(f"{told}: {why}" if why else told)  # noqa: T201 - it is for people
    for line in wrong:
        print(line)  # noqa: T201
    if wrong:
        return 1
    if not any("skip_reason" not in each for each in packages):
        print("pip-audit: this shows nothing, since no advisory could be asked for here")  # noqa: T201
        return int(os.environ.get("AUDIT") == "required")
    return 0


if __name__ == "__main__":
    sys.exit(main())
