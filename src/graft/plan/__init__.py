"""What will happen, computed before anything does: immutable, printable, on the meta device."""
