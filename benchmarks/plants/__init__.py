"""Faults planted in real training code, one kind a function: what the auditor should then say, and where."""
