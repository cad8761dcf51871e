"""Many nodes on one machine, over the in-memory network or over real gRPC on loopback."""
