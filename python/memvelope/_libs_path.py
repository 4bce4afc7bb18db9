"""Where the wheel keeps the command and the two libraries that are not Python modules."""

import os

LIBS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_libs")


def lib(name: str) -> str:
    """Absolute path of one of them."""
    path = os.path.join(LIBS, name)
    if os.path.exists(path):
        return path
    raise FileNotFoundError(
        f"{path} is missing: this copy of memvelope was built without it\n"
        "hint: pip install ./python (its build backend builds all of them)"
    )
