"""A run folder as its readers find it: what run.toml and run.json say, and the rows of its files.

Reading needs neither torch nor ampguard's engine. Writing one is `training`'s, keeping its rows `tracking`'s.
"""

from ampguard.run_folder.command import train_command
from ampguard.run_folder.facts import read_record, read_run
from ampguard.run_folder.rows import parse_row

__all__ = ["parse_row", "read_record", "read_run", "train_command"]
