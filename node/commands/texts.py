"""What `--help` says of the groups, and the examples below every help page."""

from __future__ import annotations

from ...protocol.command import examples

DESCRIPTIONS: dict[str, str] = {
    "": "Train one model on many machines and merge it with the neighbours, without a parameter server.\n\n"
    "Every node trains on its own data, publishes what changed in its weights as a small sparse delta, and moves "
    "towards what its neighbours published. Exit codes: 0 done, 1 bug, 2 configuration or usage, 3 data directory, "
    "4 peer or network, 5 the run failed, 130 interrupted.",
    "node": "Run a node on this machine, or write its configuration file.",
    "config": "Work with configuration files.",
    "delta": "Turn a base and a fine-tune into a small file, and back.",
}

EXAMPLES: dict[str, str] = {
    "": examples(
        "peermerge node start --name a --listen 127.0.0.1:50051",
        "peermerge node start --name b --peer 127.0.0.1:50051 --data-dir b-data",
        "peermerge status 127.0.0.1:50051 --watch",
    ),
    "node": examples("peermerge node init", "peermerge node start --config node.toml"),
    "node start": examples(
        "peermerge node start --config node.toml",
        "peermerge node start --task digits --set publish.density=0.01",
        "peermerge node start --task train:task --task-arg width=64",
        "peermerge node start --config node.toml --listen 0.0.0.0:50051 --insecure",
    ),
    "node init": examples("peermerge node init", "peermerge node init b.toml --force"),
    "config": examples("peermerge config check node.toml"),
    "config check": examples("peermerge config check node.toml"),
    "status": examples(
        "peermerge status 127.0.0.1:50051",
        "peermerge status 127.0.0.1:50051 --watch",
        "peermerge status 127.0.0.1:50051 --json | jq .metrics",
    ),
    "control": examples(
        "peermerge control 127.0.0.1:50051 pause",
        "peermerge control 127.0.0.1:50051 leave",
    ),
    "export": examples(
        "peermerge export peermerge-data -o model.safetensors",
        "peermerge export peermerge-data -o mean.safetensors --mean",
    ),
    "simulate": examples("peermerge simulate simulation.toml"),
    "merge": examples(
        "peermerge merge --base base --method ties --set density=0.2 math code chat -o merged",
        "peermerge merge --base base --weights 1,0.5 math.pmd code.pmd -o merged --shard-size 5GB",
        "peermerge merge a.safetensors b.safetensors -o mean.safetensors",
        "peermerge merge recipe.toml -o merged",
        "peermerge merge mergekit.yaml -o merged",
    ),
    "methods": examples("peermerge methods", "peermerge methods ties", "peermerge methods --json | jq -r '.[].name'"),
    "delta": examples(
        "peermerge delta encode --base base math -o math.pmd",
        "peermerge delta apply --base base math.pmd -o math-again",
    ),
    "delta encode": examples(
        "peermerge delta encode --base base math -o math.pmd",
        "peermerge delta encode --base base math -o math.pmd --density 0.05",
    ),
    "delta apply": examples("peermerge delta apply --base base math.pmd -o math-again"),
    "delta inspect": examples("peermerge delta inspect math.pmd", "peermerge delta inspect x.pmd --json | jq .budget"),
    "plan": examples(
        "peermerge plan node.toml",
        "peermerge plan node.toml --nodes 64 --set publish.density=0.01",
        "peermerge plan node.toml --parameters 7_000_000_000 --json",
    ),
    "doctor": examples("peermerge doctor", "peermerge doctor --json | jq '.[] | select(.level != \"ok\")'"),
}
