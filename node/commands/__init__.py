"""The commands of `peermerge`, one file per group; each imports what is slow to import only when it runs."""
