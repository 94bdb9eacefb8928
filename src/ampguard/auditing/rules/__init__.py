"""The rules: one file each, in the folder of its family, found by place."""

from ampguard.auditing.rules._base import Rule
from ampguard.auditing.rules._find import FAMILIES, all_rules, families, family_of, rule_named

__all__ = ["FAMILIES", "Rule", "all_rules", "families", "family_of", "rule_named"]
