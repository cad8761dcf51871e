"""The optional membership service: it introduces nodes to each other and is never needed. Starts without torch."""
