"""Import a package that only some tasks need, or name the command that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType

from ...protocol.errors import ConfigError


def require(module: str, cure: str) -> ModuleType:
    """Import a module; raises ConfigError with the cure where it, or what it needs, is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"this task needs {module} ({error}): {cure}") from error
