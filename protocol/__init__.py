"""What goes over the wire and nothing else: frames, messages, limits, errors and transports."""
