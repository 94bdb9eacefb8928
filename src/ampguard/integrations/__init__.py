"""Doors from other stacks: one file per library, each importing its library and nothing of another's.

    lightning     Task.from_lightning, a Callback, a precision plugin
    transformers  Task.from_hf, a TrainerCallback, a Trainer mixin
    accelerate    an Accelerator whose steps are guarded

Every door does the same thing: it lets the framework keep its loop and puts a `Guard` where the framework steps, so
that skips are exact, buffers and LR hold on them, a short accumulation group has its full gradient, and `amp/*`
reaches whatever logger is there. `amp.py` is what they share.
"""
