"""Devices: who asks whether there is a GPU, and who demands one."""
