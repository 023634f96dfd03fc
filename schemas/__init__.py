"""The shape of everything that crosses the border, both ways. No I/O, no rules."""
