"""The command `peermerge-coordinator`. Starts without torch."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from ..protocol.addresses import parse_address
from ..protocol.command import DEBUG, examples, group, run, version_printer
from ..protocol.settings import pairs
from .config import read

PROGRAM = "peermerge-coordinator"
CALL_S = 5.0

app = group(
    None,
    "Introduce the nodes of a run to each other. Nothing stops while the coordinator is away: nodes that know each "
    "other go on, and newcomers come in through any of them.\n\n"
    "It keeps a roster on disk, tells newcomers who is there, and may suggest topology, schedule and density to them; "
    "it never decides who is dead. Exit codes: 0 done, 1 bug, 2 configuration or usage, 3 data directory, "
    "4 not reached, 130 interrupted.",
    examples(
        "peermerge-coordinator start --listen 127.0.0.1:50050 --data-dir coordinator-data",
        "peermerge node start --name a --set membership.coordinator=127.0.0.1:50050",
        "peermerge-coordinator status 127.0.0.1:50050",
    ),
)


@app.callback()
def coordinator(
    version: Annotated[
        bool,
        typer.Option("--version", callback=version_printer(PROGRAM), is_eager=True, help="Print the version and exit."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help=f"Show tracebacks of errors, as {DEBUG}=1 does.")] = False,
) -> None:
    """Take the options that stand before the command."""
    if debug:
        os.environ[DEBUG] = "1"


@app.command(
    epilog=examples(
        "peermerge-coordinator start",
        "peermerge-coordinator start --suggest topology.name=ring --suggest publish.density=0.05",
        "peermerge-coordinator start --listen 0.0.0.0:50050 --insecure --metrics 127.0.0.1:9465",
        "peermerge-coordinator start --config coordinator.toml",
    )
)
def start(
    config: Annotated[Path | None, typer.Option(help="A TOML file with the same keys; flags go before it.")] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where to listen (default 127.0.0.1:50050); port 0 is any.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the roster is kept (default peermerge-coordinator).")
    ] = None,
    metrics: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Serve a Prometheus page there.")] = None,
    suggest: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A setting for newcomers that do not set it themselves: topology, schedule or publish.density.",
        ),
    ] = None,
    heartbeat_s: Annotated[float | None, typer.Option(help="How often members come back (default 2).")] = None,
    expire_s: Annotated[
        float | None, typer.Option(help="Who is silent for so long leaves the view (default: three heartbeats).")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Allow plain text beyond this machine: trusted networks only.")
    ] = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; a second one ends it at once."""
    flags = {
        "listen": listen,
        "data_dir": data_dir,
        "metrics": metrics,
        "heartbeat_s": heartbeat_s,
        "expire_s": expire_s,
        "insecure": insecure,
    }
    chosen = read(config, flags, pairs("--suggest", suggest))
    from .server import start as serve

    serve(chosen)


@app.command(
    epilog=examples(
        "peermerge-coordinator status 127.0.0.1:50050",
        "peermerge-coordinator status 127.0.0.1:50050 --json | jq '.meshes[].members[].member.name'",
    )
)
def status(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the coordinator listens.")],
    json: Annotated[bool, typer.Option("--json", help="Print protobuf JSON.")] = False,
) -> None:
    """Show who is there, by run, and what the coordinator warns of."""
    asyncio.run(_show(address, json))


async def _show(where: str, json: bool) -> None:
    from ..protocol.remote import as_json, dial
    from ..protocol.wire_pb2 import OverviewRequest

    address = parse_address(where)
    async with dial(address, "Coordinator") as stub:
        reply = await stub.call("Overview", OverviewRequest(), CALL_S)
    if json:
        typer.echo(as_json(reply, indent=2))
    else:
        from rich.console import Console

        from .screen import screen

        Console().print(screen(str(address), reply))


def main() -> None:
    """Run the command line."""
    run(app, PROGRAM)


if __name__ == "__main__":
    main()
