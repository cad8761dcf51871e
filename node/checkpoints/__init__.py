"""Models as files: read and written tensor by tensor, as deltas in the frame format, merged without a network."""
