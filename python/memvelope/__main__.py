"""`python -m memvelope` is the `memvelope` command."""

from ._cli import main

main()
