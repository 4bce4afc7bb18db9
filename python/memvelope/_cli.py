"""The `memvelope` command: replaces this process by the program that the wheel carries."""

import os
import sys

from ._libs_path import lib


def main() -> None:
    try:
        program = lib("memvelope")
        os.execv(program, ["memvelope", *sys.argv[1:]])
    except OSError as error:
        # Only reached when the program could not be started; 2 is its own code for bad input.
        print(f"error: starting the memvelope command failed: {error}", file=sys.stderr)
        raise SystemExit(2) from None
