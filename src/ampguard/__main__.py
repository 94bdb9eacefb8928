"""`python -m ampguard`."""

from ampguard.cli.main import main

main()
