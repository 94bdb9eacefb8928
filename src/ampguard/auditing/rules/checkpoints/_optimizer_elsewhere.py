"""Optimizers that a script steps while functions of another file save and restore the model and the progress alone."""

import re

from ampguard.auditing.patterns import regex
from ampguard.auditing.reading.checkpoints import SAVES, Save, restored
from ampguard.auditing.reading.module import Module

_STEPPED = regex(r"^[^#\n]*?((?:self\.)?\w*optim\w*)\.step\(", re.MULTILINE)
_STATED = regex(r"opt\w*[\])\"']*(\.\w+)*\.(load_)?state_dict\(|optim_state_dict|save_state\(|Trainer\(")
"""What may keep an optimizer's state: its own calls, those of an accelerator, a library's trainer."""


def optimizer_elsewhere(module: Module, save: Save) -> str | None:
    """Return the optimizer, as its file calls it, of the script that calls both the saver and the loader; or None."""
    saver = module.tree.function(save.call)
    if "test" in module.path or saver is None or module.tree.class_of(save.call) is not None:
        return None
    loaders = {getattr(module.tree.function(call), "name", "") for call in restored(module).get("model", ())} - {""}
    if not SAVES.search(saver.name) or module.project.says(_STATED):
        return None
    stem = module.path.removesuffix(".py").rpartition("/")[2]
    for path, text in module.project.texts():
        if path == module.path or "test" in path or f"{saver.name}(" not in text or stem not in text:
            continue
        stepped = _STEPPED.search(text) if any(f"{loader}(" in text for loader in loaders) else None
        if stepped is not None:
            return stepped[1]
    return None
