"""Online keys: sealed at rest, signing off the event loop."""
