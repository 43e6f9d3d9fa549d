"""The commands: one module each, with its dataclass of flags and `main`, which runs it. None imports torch at once."""
