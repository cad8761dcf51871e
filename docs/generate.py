"""Write the parts of reference.md that the code knows better: python docs/generate.py [--check].

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`; everything else in the file is written by hand.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from peermerge.node import metrics
from peermerge.node.cli import app
from peermerge.node.config import NodeConfig, Play
from peermerge.node.merging import METHODS, STEPS, MergeMethod
from peermerge.node.merging.aliases import ALIASES
from peermerge.node.simulation import summary
from peermerge.node.tasks import TASKS
from peermerge.node.template import choices_of, docstrings_of, toml
from peermerge.node.topology import TOPOLOGIES
from peermerge.protocol import wire_pb2
from peermerge.protocol.errors import SENTENCES
from peermerge.protocol.exit_codes import ExitCode

REFERENCE = Path(__file__).parent / "reference.md"
MARKS = re.compile(r"<!-- generated: ([a-z-]+) -->\n.*?<!-- end -->", re.DOTALL)
_PROTO_FIELD = re.compile(r"^  (?:repeated )?(\S+|map<.*?>) (\w+) = \d+;\s*(?://\s*(.*))?$", re.MULTILINE)


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    lines = [list(header), *(list(map(str, row)) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def commands() -> str:
    """Return a section for every command: how to call it, what it does, its options."""
    return "\n\n".join(_command(name, command) for name, command in _walk("peermerge", typer.main.get_command(app)))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    # Groups first: node start is what most people look for.
    for part, inner in sorted(command.commands.items(), key=lambda item: not hasattr(item[1], "commands")):
        if hasattr(inner, "commands"):
            yield from _walk(f"{name} {part}", inner)
        else:
            yield f"{name} {part}", inner


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    called = " ".join([name, *(_argument(p) for p in arguments), "[OPTIONS]"])
    rows = [(f"`{p.metavar or p.name.upper()}`", p.help or "", _default(p)) for p in arguments]
    rows += [(_option(p), p.help or "", _default(p)) for p in options]
    text = inspect.cleandoc(command.help or "")
    return f"### {name}\n\n    {called}\n\n{text}\n\n{table(('option', 'meaning', 'default'), rows)}"


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    value = "" if parameter.is_flag else f" `{parameter.metavar or parameter.name.upper()}`"
    return names + value + (" (repeat)" if parameter.multiple else "")


def _default(parameter: Any) -> str:
    default = parameter.default
    return "" if default in (None, False, [], ()) or parameter.required else f"`{default}`"


def configuration() -> str:
    """Return a section for every table of node.toml."""
    return "\n\n".join(_tables(NodeConfig, ""))


def simulation() -> str:
    """Return the table [simulation]."""
    return _table(Play, "simulation")


def _tables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    yield _table(model, prefix)
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from _tables(type(field.default), f"{prefix}.{name}" if prefix else name)


def _table(model: type[BaseModel], name: str) -> str:
    texts = docstrings_of(model)
    rows = [
        (f"`{key}`", "not set" if field.default is None else f"`{toml(field.default)}`", _meaning(field, texts, key))
        for key, field in model.model_fields.items()
        if not isinstance(field.default, BaseModel)
    ]
    heading = f"### [{name}]\n\n{inspect.cleandoc(model.__doc__ or '')}" if name else "### Top level"
    return f"{heading}\n\n{table(('key', 'default', 'meaning'), rows)}"


def _meaning(field: Any, texts: dict[str, str], key: str) -> str:
    choices = choices_of(field.annotation)
    return " ".join(filter(None, [texts.get(key, "").replace("\n", " "), choices and f"One of {choices}."]))


def methods() -> str:
    """Return the merge methods with their parameters and what they see."""
    rows = ((*row, _sees(kind)) for row, kind in zip(_registered(METHODS), METHODS.values(), strict=True))
    return table(("method", "parameters and defaults", "what it does", "needs, and sees at a time"), rows)


def _sees(kind: type[MergeMethod]) -> str:
    """Say what a method needs, how much of the model one call sees, and whether it merges sparse inputs sparse."""
    method = kind()
    seen = "one tensor" if method.scope == "tensor" else "the whole model"
    needs = [need.replace("_", " ") for need in sorted(method.needs)]
    return ", ".join([*needs, seen, *(["sparse"] if method.sparse else [])])


def steps() -> str:
    """Return the steps after a method with their parameters."""
    return table(("step", "parameters and defaults", "what it does"), _registered(STEPS))


def aliases() -> str:
    """Return what other libraries call our methods."""
    rows = (
        (
            f"`{name}`",
            f"`{alias.method}`" + "".join(f", `{key} = {toml(value)}`" for key, value in alias.parameters.items()),
            ", ".join(f"`{theirs}` is `{ours}`" for theirs, ours in alias.names.items() if theirs != ours),
        )
        for name, alias in ALIASES.items()
    )
    return table(("theirs", "ours", "their parameters"), rows)


def topologies() -> str:
    """Return the topologies with their parameters."""
    return table(("topology", "parameters and defaults", "who merges with whom"), _registered(TOPOLOGIES))


def _registered(registry: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, kind in registry.items():
        first = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        parameters = ", ".join(_parameter(field) for field in fields(kind))
        yield f"`{name}`", parameters, first


def _parameter(field: Any) -> str:
    return f"`{field.name}`" if field.default in (MISSING, None) else f"`{field.name} = {toml(field.default)}`"


def tasks() -> str:
    """Return the built-in tasks with their arguments."""
    return table(("task", "arguments and defaults", "what it is"), map(_task, TASKS))


def _task(name: str) -> tuple[str, str, str]:
    module, _, factory = TASKS[name].partition(":")
    build = getattr(__import__(module, fromlist=[factory]), factory)
    plain = inspect.unwrap(getattr(build, "func", build))
    parameters = list(inspect.signature(build).parameters.values())[1:]
    arguments = ", ".join(f"`{p.name} = {toml(p.default)}`" for p in parameters)
    text = inspect.cleandoc(plain.__doc__ or "").split("\n\n")[0]
    if plain is not build:
        text = inspect.cleandoc(_docstring_of(module, factory))
    return f"`{name}`", arguments, text.replace("\n", " ")


def _docstring_of(module: str, name: str) -> str:
    """Return the string that follows an assignment to `name` in a module's source."""
    body = ast.parse(Path(inspect.getfile(sys.modules[module])).read_text()).body
    for statement, text in pairwise(body):
        match statement, text:
            case ast.Assign(targets=[ast.Name(id=found)]), ast.Expr(value=ast.Constant(value=str(words))) if (
                found == name
            ):
                return words
    return ""


def codes() -> str:
    """Return the exit codes."""
    texts = _attribute_docs(ExitCode)
    rows = [(code.value, code.name, texts.get(code.name, "")) for code in ExitCode]
    return table(("code", "name", "meaning"), rows)


def summary_keys() -> str:
    """Return the keys of a simulation's summary.json."""
    texts = _attribute_docs(summary.Summary)
    rows = [(f"`{field.name}`", texts.get(field.name, "").replace("\n", " ")) for field in fields(summary.Summary)]
    return table(("key", "meaning"), rows)


def _attribute_docs(kind: type) -> dict[str, str]:
    """Return the string below each attribute of a class."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    found: dict[str, str] = {}
    for statement, text in pairwise(body.body if isinstance(body, ast.ClassDef) else []):
        match statement, text:
            case (
                (ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)])),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                found[name] = inspect.cleandoc(words)
    return found


def status_fields() -> str:
    """Return the fields of StatusReply and PeerStatus with the comments of wire.proto."""
    proto = (Path(inspect.getfile(wire_pb2)).parent / "wire.proto").read_text()
    return "\n\n".join(f"### {name}\n\n{_message(proto, name)}" for name in ("StatusReply", "PeerStatus"))


def _message(proto: str, name: str) -> str:
    body = proto.partition(f"message {name} {{\n")[2].partition("\n}")[0]
    rows = [(f"`{field}`", f"`{kind}`", comment) for kind, field, comment in _PROTO_FIELD.findall(body)]
    return table(("field", "type", "meaning"), rows)


def metric_names() -> str:
    """Return the Prometheus metrics."""
    rows = [(f"`peermerge_{name}`", "gauge", text) for name, text in metrics.GAUGES.items()]
    rows += [(f"`peermerge_{name}_total`", "counter", text) for name, text in metrics.COUNTERS.items()]
    rows += [("`peermerge_metric{name}`", "gauge", "What the task's evaluation returned")]
    rows += [(f"`peermerge_peer_{name}{{peer}}`", "gauge", f"{name} per peer") for name in metrics.PEER_GAUGES]
    rows += [
        (f"`peermerge_peer_{name}_total{{peer}}`", "counter", f"{name} per peer") for name in metrics.PEER_COUNTERS
    ]
    return table(("metric", "kind", "meaning"), rows)


def refusals() -> str:
    """Return why something from a peer is refused or left out."""
    return table(("reason", "what the refusing side says"), [(f"`{r.name}`", text) for r, text in SENTENCES.items()])


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "configuration": configuration,
    "simulation": simulation,
    "methods": methods,
    "steps": steps,
    "aliases": aliases,
    "topologies": topologies,
    "tasks": tasks,
    "exit-codes": codes,
    "summary": summary_keys,
    "status": status_fields,
    "metrics": metric_names,
    "refusals": refusals,
}


def generated(text: str) -> str:
    """Return the page with every part made anew. Raises KeyError for a part nobody knows."""
    return MARKS.sub(lambda mark: f"<!-- generated: {mark[1]} -->\n{PARTS[mark[1]]()}\n<!-- end -->", text)


def main() -> None:
    """Rewrite the page, or with --check say whether it is current."""
    text = REFERENCE.read_text()
    fresh = generated(text)
    if sys.argv[1:] == ["--check"]:
        sys.exit("docs/reference.md is not current: run python docs/generate.py" if fresh != text else 0)
    REFERENCE.write_text(fresh)


if __name__ == "__main__":
    main()
