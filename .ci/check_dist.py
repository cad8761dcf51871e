"""Check what a built wheel and sdist hold: `python .ci/check_dist.py dist`."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

PACKAGES = ("coordinator", "node", "protocol")
WHEEL_TOPS = {"peermerge"}
KERNEL = "peermerge/protocol/_kernel.abi3.so"
SDIST_NEEDS = (
    "LICENSE",
    "README.md",
    "protocol/_kernel.c",
    "constraints.txt",
    "pyproject.toml",
    "tests/test_packaging.py",
)


def source_files() -> list[str]:
    """List the files of the three packages that a user must get, relative to the repository's root."""
    suffixes = {".py", ".pyi", ".proto", ".typed"}
    found = [path for package in PACKAGES for path in Path(package).rglob("*") if path.suffix in suffixes]
    return sorted([path.as_posix() for path in found] + [f"{package}/py.typed" for package in PACKAGES])


def complaints_about_wheel(names: Iterable[str]) -> list[str]:
    """Say what a wheel lacks and what does not belong into it."""
    held = {name for name in names if ".dist-info/" not in name}
    missing = [f"the wheel lacks {name}" for name in source_files() if f"peermerge/{name}" not in held]
    missing += [] if KERNEL in held else ["the wheel lacks the compiled loops: is there a C compiler here?"]
    foreign = [f"the wheel should not hold {name}" for name in held if name.split("/")[0] not in WHEEL_TOPS]
    return (
        missing + foreign + [f"the wheel holds a test: {name}" for name in held if "test" in Path(name).stem.split("_")]
    )


def complaints_about_sdist(names: Iterable[str]) -> list[str]:
    """Say what an sdist lacks; every name starts with the folder peermerge-VERSION/."""
    held = {name.partition("/")[2] for name in names}
    return [f"the sdist lacks {name}" for name in [*SDIST_NEEDS, *source_files()] if name not in held]


def main(folder: Path) -> None:
    """Exit with the complaints about the one wheel and the one sdist in the folder, or say that there are none."""
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        complaints = complaints_about_wheel(archive.namelist())
    with tarfile.open(sdist) as archive:
        complaints += complaints_about_sdist(archive.getnames())
    if complaints:
        sys.exit("\n".join(complaints))
    print(f"{wheel.name} and {sdist.name} hold what they should.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
