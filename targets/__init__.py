"""Device profiles: one TOML a device, the schema, the loader."""

from __future__ import annotations

from targets.loader import Problem, check_file, list_targets, load_target, target_names
from targets.memory import check_fit, require_fit
from targets.render import to_toml
from targets.schema import Target

__all__ = [
    "Problem",
    "Target",
    "check_file",
    "check_fit",
    "list_targets",
    "load_target",
    "require_fit",
    "target_names",
    "to_toml",
]
