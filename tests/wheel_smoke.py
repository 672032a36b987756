"""Run by .ci/run with the Python of a fresh environment that has the built wheel and no sources.

    python -I tests/wheel_smoke.py CHECKOUT

Imports every module, and compares the list with the files of the checkout: a module that did not
make it into the wheel fails here and not at a user's. Not a pytest module, because that
environment has what users have and nothing else.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import sys
from pathlib import Path

ROOTS = {"multiraft": "multiraft", "multiraft.storage": "storage", "multiraft.transport": "transport"}


def expected_modules(checkout: Path) -> set[str]:
    names: set[str] = set()
    for package, folder in ROOTS.items():
        for file in (checkout / folder).rglob("*.py"):
            parts = file.relative_to(checkout / folder).with_suffix("").parts
            if package == "multiraft" and parts[0] in ("storage", "transport"):
                continue
            names.add(".".join((package, *parts)).removesuffix(".__init__"))
    return names


def main(checkout: Path) -> int:
    multiraft = importlib.import_module("multiraft")
    home = Path(str(multiraft.__file__)).resolve()
    if home.is_relative_to(checkout):
        print(f"multiraft came from {home}, not from the wheel")
        return 1
    found = {m.name for m in pkgutil.walk_packages(multiraft.__path__, "multiraft.")} | {"multiraft"}
    for name in sorted(found):
        if not name.endswith("__main__"):
            importlib.import_module(name)
    expected = expected_modules(checkout)
    files = {str(file) for file in importlib.metadata.files("multiraft") or ()}
    problems = [f"missing from the wheel: {name}" for name in expected - found]
    problems += [f"in the wheel, but not in the sources: {name}" for name in found - expected]
    problems += [f"collides with users' code: {f}" for f in files if f.startswith(("storage/", "transport/"))]
    if "multiraft/py.typed" not in files:
        problems.append("the marker that says the package is typed is missing from the wheel")
    print("\n".join(problems) or f"{len(found)} modules of the wheel import")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
