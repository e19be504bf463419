"""How real a clip moves: `Scorer` for many clips, `score_video` for one."""

_HOMES = {
    "Scorer": "scorer",
    "score_video": "scorer",
    "save_result": "result_files",
    "Options": "options",
    "make_options": "options",
}
__all__ = list(_HOMES)


def __getattr__(name):
    # Lazily: who needs the options alone does not wait for the model.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
