"""What the doctor says: one line a finding, OK, WARN or BAD. Made by checks.py and world.py of this package,
printed by its face."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["OK", "WARN", "BAD"]


@dataclass(frozen=True)
class Finding:
    """One line. `remedy` is what to type or change; empty where nothing is to be done."""

    status: Status
    name: str
    value: str
    remedy: str = ""


def any_bad(findings: Sequence[Finding]) -> bool:
    """Whether a run would fail."""
    return any(finding.status == "BAD" for finding in findings)


def as_text(findings: Sequence[Finding]) -> str:
    """Aligned lines: status, name, value, and the remedy after an arrow."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        remedy = f"  -> {finding.remedy}" if finding.remedy else ""
        lines.append(f"{finding.status:4}  {finding.name:{width}}  {' '.join(finding.value.split())}{remedy}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    """One JSON object: findings, and whether any is BAD."""
    return json.dumps({"findings": [asdict(finding) for finding in findings], "bad": any_bad(findings)})
