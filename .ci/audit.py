"""Whether any package of constraints.txt has a known vulnerability: `python .ci/audit.py PIP_AUDIT [OPTION...]`.

Asks OSV (osv.dev) through pip-audit. Exit codes: 0 none that is not accepted in .ci/audit-accepted.txt, 1 there is one.
Where OSV cannot be reached nothing was audited: that is said, and fails no build, since it is no fault of the code.
(pip-audit's other service, PyPI, takes "not found" for "no vulnerability", so a mirror without advisories passes all.)
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES, ACCEPTED = ROOT / "constraints.txt", ROOT / ".ci" / "audit-accepted.txt"


def main(program: str, *options: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        words = [program, "--requirement", PACKAGES, "--no-deps", "--disable-pip", "--vulnerability-service", "osv"]
        words += ["--format", "json", "--desc", "off", "--progress-spinner", "off", "--output", report, *options]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)
        if not report.exists():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            print(f"audit: NOTHING WAS AUDITED, for the advisories cannot be had: {last[:300]}")
            return 0
        packages = json.loads(report.read_text())["dependencies"]
    lines, failed = verdict(packages, accepted(ACCEPTED.read_text()))
    print("\n".join(f"audit: {line}" for line in lines))
    return int(failed)


def accepted(text: str) -> dict[tuple[str, str], str]:
    """Reasons by (vulnerability, package), from lines "ID PACKAGE REASON"; # begins a comment."""
    entries = [line.split(maxsplit=2) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for entry in entries:
        if len(entry) < 3:
            raise SystemExit(f"{ACCEPTED}: '{' '.join(entry)}' is not of the form ID PACKAGE REASON")
    return {(name, package.lower()): reason for name, package, reason in entries}


def verdict(packages: Sequence[dict[str, Any]], reasons: dict[tuple[str, str], str]) -> tuple[list[str], bool]:
    """What to say of pip-audit's findings, and whether one of them is not accepted."""
    lines, failed, used = [], False, set()
    for package in packages:
        for found in package.get("vulns", []):
            keys = [(name, package["name"].lower()) for name in (found["id"], *found["aliases"])]
            reason = next((reasons[key] for key in keys if key in reasons), None)
            used |= {*keys} & reasons.keys()
            fixed = f"fixed in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "not fixed yet"
            verb = f"accepted: {reason}" if reason else f"take a fixed version, or accept it in {ACCEPTED.name}"
            lines.append(
                f"{package['name']} {package.get('version')}: {' '.join(name for name, _ in keys)}, {fixed}; {verb}"
            )
            failed |= reason is None
    lines += _loose_ends(packages, reasons.keys() - used)
    asked = sum("skip_reason" not in package for package in packages)
    lines.append(
        f"{asked} of {len(packages)} packages were looked up; {'see above' if lines else 'no known vulnerability'}"
    )
    return lines, failed


def _loose_ends(packages: Sequence[dict[str, Any]], unused: set[tuple[str, str]]) -> Iterator[str]:
    for package in packages:
        if "skip_reason" in package:
            yield f"{package['name']}: NOT AUDITED: {package['skip_reason']}"
    for name, package in sorted(unused):
        yield f"{ACCEPTED.name}: {name} {package} is not found any more; take it out"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
