"""Find a task by its built-in name or by `module:factory`, and say what is wrong when that fails."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final

from ...protocol.errors import ConfigError
from .task import Shard, Task

TASKS: Final[dict[str, str]] = {
    "digits": "peermerge.node.tasks.digits:digits",
    "digits-wide": "peermerge.node.tasks.digits:digits_wide",
    "fashion": "peermerge.node.tasks.fashion:fashion",
    "mnist": "peermerge.node.tasks.mnist:mnist",
    "bytes-gpt": "peermerge.node.tasks.bytes_gpt:bytes_gpt",
}

_ALSO: Final[dict[type, tuple[type, ...]]] = {float: (float, int), tuple: (tuple, list)}
"""What may stand for a default of this type in a configuration."""


def load_task(name: str, shard: Shard, arguments: Mapping[str, object]) -> Task:
    """Return `factory(shard, **arguments)` of a built-in name or of `module:factory`.

    The current directory is importable, so that a user's file may lie beside the configuration.
    Raises ConfigError for a name, module, factory, argument or result that cannot work.
    """
    factory = _factory(name)
    _check_arguments(name, factory, shard, arguments)
    if name in TASKS:
        _check_kinds(name, factory, arguments)
    task = factory(shard, **arguments)
    if not isinstance(task, Task):
        raise ConfigError(f"task {name!r}: a {type(task).__name__} is no task; it needs model, train and evaluate")
    return task


def _factory(name: str) -> Callable[..., Any]:
    module_name, _, factory_name = _target(name).partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(f"task {name!r}: module {module_name!r} does not import: {error}") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        hint = _nearest(factory_name, vars(module))
        raise ConfigError(f"task {name!r}: module {module_name!r} has no factory {factory_name!r}{hint}")
    return factory  # type: ignore[no-any-return]


def _target(name: str) -> str:
    if name in TASKS:
        return TASKS[name]
    module, colon, factory = name.partition(":")
    if not colon:
        known = ", ".join(TASKS)
        raise ConfigError(f"unknown task {name!r}{_nearest(name, TASKS)}; built in: {known}; your own: module:factory")
    if not factory or not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"task {name!r}: write module:factory, with a module that `import` could name")
    # As `python -m` does: the user's file wins, and what it imports later is found too.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return name


def _check_arguments(name: str, factory: Callable[..., Any], shard: Shard, arguments: Mapping[str, object]) -> None:
    signature = inspect.signature(factory)
    try:
        signature.bind(shard, **arguments)
    except TypeError as error:
        known = list(signature.parameters)[1:]
        hint = "".join(_nearest(key, known) for key in arguments if key not in known)
        raise ConfigError(f"task {name!r}: {error}{hint}; arguments: {', '.join(known) or 'none'}") from error


def _check_kinds(name: str, factory: Callable[..., Any], arguments: Mapping[str, object]) -> None:
    # Only the built-in tasks promise that a default shows the type of its argument.
    for key, value in arguments.items():
        default = inspect.signature(factory).parameters[key].default
        kinds = _ALSO.get(type(default), (type(default),))
        if type(value) not in kinds:
            raise ConfigError(f"task {name!r}: {key} = {value!r} should be like its default, {default!r}")


def _nearest(word: str, known: Iterable[str]) -> str:
    matches = get_close_matches(word, known, 1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
