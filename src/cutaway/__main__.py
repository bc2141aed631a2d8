"""`python -m cutaway COMMAND`, the same as `cutaway COMMAND`."""

from .cli import main

main()
