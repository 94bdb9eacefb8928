"""The rules: one file each, in the folder of its family, found by place."""

from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules._find import all_rules, families, rule_named

__all__ = ["Rule", "all_rules", "families", "rule_named"]
