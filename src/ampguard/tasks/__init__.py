"""Tasks: the built-in ones, on real data that needs no download, and finding anybody's own.

Importing this room and listing the names import no torch; a Task's own module does.
"""

from ampguard.tasks.find import Builder, builtin_names, find_task

__all__ = ["Builder", "builtin_names", "find_task"]
