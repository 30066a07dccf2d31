"""The commands of `graft`, one module each, and the entry point that dispatches to them."""
