"""Findings of the doctor: one line each, with the status OK, WARN or BAD."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["OK", "WARN", "BAD"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        status: OK, WARN, or BAD if a run would fail.
        name: Name of the checked part.
        value: Measured value or problem.
        remedy: Command to type or setting to change; empty if none is needed.
    """

    status: Status
    name: str
    value: str
    remedy: str = ""


def any_bad(findings: Sequence[Finding]) -> bool:
    """Return whether a finding is BAD, so that a run would fail."""
    return any(finding.status == "BAD" for finding in findings)


def as_text(findings: Sequence[Finding]) -> str:
    """Return aligned lines: status, name, value, and the remedy behind an arrow."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        remedy = f"  -> {finding.remedy}" if finding.remedy else ""
        lines.append(f"{finding.status:4}  {finding.name:{width}}  {' '.join(finding.value.split())}{remedy}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    """Return one JSON object: the findings, and whether one of them is BAD."""
    return json.dumps({"findings": [asdict(finding) for finding in findings], "bad": any_bad(findings)})
