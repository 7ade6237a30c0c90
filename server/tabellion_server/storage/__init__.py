"""Storage: one interface, and its engines."""
