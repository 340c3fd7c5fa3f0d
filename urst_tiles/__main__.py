"""``python -m urst_tiles``: the command line."""

from urst_tiles.cli import main

main()
