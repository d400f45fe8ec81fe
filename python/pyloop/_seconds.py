"""Options that are a number of seconds."""

import math
import os


def seconds_option(name, value, least):
    """value, or if that is None the environment's PYLOOP_NAME, of which "" and "0" mean None. TypeError or ValueError
    unless it is a number from least on."""
    source = name
    if value is None:
        source = f"PYLOOP_{name.upper()}"
        text = os.environ.get(source, "")
        try:
            value = float(text or 0)
        except ValueError:
            raise ValueError(f"{source} must be a number of seconds, got {text!r}") from None
        if value == 0:
            return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{source} must be a number of seconds, got {value!r}")
    if not least <= value < math.inf:
        raise ValueError(f"{source} must be a number of seconds of at least {least}, got {value!r}")
    return value
