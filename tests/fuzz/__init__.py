"""Fuzzing with atheris, starting from recorded input: decoders return a value or raise their error."""
