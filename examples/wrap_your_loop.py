"""An ordinary training loop in a mesh: two nodes that each see half of the ten digits learn them all.

In two terminals (on two machines: addresses of theirs, and insecure=True in the settings):

    python wrap_your_loop.py a
    python wrap_your_loop.py b

or both in one process: python wrap_your_loop.py --self-demo
"""

from __future__ import annotations

from argparse import ArgumentParser
from concurrent.futures import ThreadPoolExecutor

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from peermerge.node import Node

ADDRESSES = {"a": "127.0.0.1:50061", "b": "127.0.0.1:50062"}
SETTINGS = {"schedule.rounds": 40, "schedule.local_steps": 10, "publish.density": 0.1}
TRAINED = 1_400


def digits() -> tuple[Tensor, Tensor]:
    """Return 1,797 images as rows of 64 numbers, and their labels."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)


def network() -> nn.Module:
    """Return a small network."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train(me: str, model: nn.Module) -> float:
    """Train on this node's five digits, merge with the other node, return the accuracy on all ten."""
    x, y = digits()
    mine = torch.arange(TRAINED)[(y[:TRAINED] < 5) == (me == "a")]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    draw = torch.Generator().manual_seed(len(mine))
    peers = [address for name, address in ADDRESSES.items() if name != me]

    def evaluate(model: nn.Module) -> dict[str, float]:
        hits = model(x[TRAINED:]).argmax(1) == y[TRAINED:]
        return {"accuracy": hits.float().mean().item()}

    # Four lines around the loop: Node, the condition, node.step(), and the status if it interests you.
    with Node(model, name=me, listen=ADDRESSES[me], peers=peers, evaluate=evaluate, settings=SETTINGS) as node:
        while not node.finished:
            batch = mine[torch.randint(len(mine), (32,), generator=draw)]
            loss = cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            node.step()
        return float(node.status()["metrics"]["accuracy"])


def report(me: str) -> None:
    """Train one node and say what it reached."""
    torch.manual_seed(0)  # everybody starts from the same weights
    print(f"{me}: {train(me, network()):.1%} of all ten digits")


def self_demo() -> None:
    """Train both nodes in this process, each in a thread of its own."""
    models = {}
    for name in ADDRESSES:
        torch.manual_seed(0)
        models[name] = network()
    with ThreadPoolExecutor() as threads:
        for name, accuracy in zip(models, threads.map(train, models, models.values()), strict=True):
            print(f"{name}: {accuracy:.1%} of all ten digits")


if __name__ == "__main__":
    parser = ArgumentParser(description="Train one of two nodes, or both.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("name", nargs="?", choices=ADDRESSES, help="the node to train here")
    what.add_argument("--self-demo", action="store_true", help="train both in this process")
    chosen = parser.parse_args()
    self_demo() if chosen.self_demo else report(chosen.name)
