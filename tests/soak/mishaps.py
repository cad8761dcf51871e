"""What befalls the nodes of a soak. Each mishap draws its victim and sees to its own end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from random import Random

from ..faults.checker import KILL, PAUSE
from ..integration.daemons import NodeProcess
from .world import World

AWAY_S = 1.0
PAUSE_S = 5.0
LEAVE, JOIN = "leave", "join"

Mishap = Callable[[World, Random], None]


def kill(world: World, draw: Random) -> None:
    """Kill a node and start it again from what its disk holds."""
    began = time.time()
    if node := _victim(world, draw):
        world.kill(node)
        world.timetable.later(AWAY_S, partial(_return, world, KILL, node, began))


def pause(world: World, draw: Random) -> None:
    """Stop a node's process for a while; it knows nothing of that."""
    node, began = draw.choice(world.running), time.time()
    node.signal(signal.SIGSTOP)

    def go_on() -> None:
        node.signal(signal.SIGCONT)
        world.did(PAUSE, node, began)

    world.timetable.later(PAUSE_S, go_on)


def leave(world: World, draw: Random) -> None:
    """Let a node leave as it should, and come back."""
    began = time.time()
    if node := _victim(world, draw):
        world.stop(node)
        world.timetable.later(AWAY_S, partial(_return, world, LEAVE, node, began))


def join(world: World, draw: Random) -> None:
    """Let a newcomer in; if all are there, one of them leaves for good."""
    began = time.time()
    absent = [node for node in world.spares if not world.lives[node.name]]
    present = [node for node in world.spares if node in world.running]
    if absent:
        world.start(absent[0])
        world.did(JOIN, absent[0], began)
    elif present:
        node = draw.choice(present)
        world.stop(node)
        world.did(LEAVE, node, began)


MISHAPS: dict[str, Mishap] = {KILL: kill, PAUSE: pause, LEAVE: leave, JOIN: join}


def _victim(world: World, draw: Random) -> NodeProcess | None:
    """Choose somebody who may be restarted and is not just being so."""
    mortal = [node for node in world.nodes if node in world.running and node not in world.veterans]
    return draw.choice(mortal) if mortal else None


def _return(world: World, kind: str, node: NodeProcess, began: float) -> None:
    world.start(node)
    world.did(kind, node, began)
