"""The files here are read by the auditor, never run."""

collect_ignore = ["before", "after"]
