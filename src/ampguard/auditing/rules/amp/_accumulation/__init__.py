"""Accumulation: where gradients of several batches are one step, and what divides their loss."""
