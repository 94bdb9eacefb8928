"""Doors from other stacks: each file imports one library, and Hugging Face's import what they are built on.

    lightning     a Callback, a precision plugin         lightning_task     Task.from_lightning
    transformers  a Trainer mixin, a TrainerCallback     transformers_task  Task.from_hf
    accelerate    an Accelerator whose steps are guarded

Every door does the same thing: it lets the framework keep its loop and puts a `Guard` where the framework steps, so
that skips are exact, buffers and LR hold on them, a short accumulation group has its full gradient, and `amp/*`
reaches whatever logger is there. `amp.py` is what they share.
"""
