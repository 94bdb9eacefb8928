"""The order of a step: scaling, clipping, stepping, updating and clearing beyond what one path shows."""
