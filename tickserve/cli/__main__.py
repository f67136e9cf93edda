"""`python -m tickserve.cli` is `tickserve`."""

from tickserve.cli import main

main()
