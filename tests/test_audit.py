"""The audit of our packages: what it says of findings, and of none that could be had. The service is pip-audit's."""

import json
import runpy
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).resolve().parent.parent / ".ci" / "audit.py"
FOUND = {"id": "PYSEC-2099-1", "fix_versions": ["99.0"], "aliases": ["CVE-2099-1"]}
"""As pip-audit 2.10.1 has written it of an OSV that knew of it."""
CLEAN = {"name": "numpy", "version": "2.4.0", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "could not be audited"}


def found(**fields: Any) -> dict[str, Any]:
    return {"name": "Jinja2", "version": "3.1.6", "vulns": [{**FOUND, **fields}]}


@pytest.fixture
def audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run it with a pip-audit that writes this report, or dies: (packages, accepted) to exit code and output."""

    def run(packages: list[dict[str, Any]] | None, accepted: str = "") -> tuple[int, str]:
        (tmp_path / "report").write_text(json.dumps({"dependencies": packages, "fixes": []}))
        program = tmp_path / "pip-audit"
        program.write_text(
            f"#!{sys.executable}\nimport shutil, sys\n"
            "assert sys.argv[sys.argv.index('--requirement') + 1].endswith('/constraints.txt')\n"
            + (
                f"shutil.copy({str(tmp_path / 'report')!r}, sys.argv[sys.argv.index('--output') + 1])\nsys.exit(1)"
                if packages is not None
                else "sys.exit('requests.exceptions.ConnectionError: Failed to resolve')"
            )
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (tmp_path / "accepted.txt").write_text(accepted)
        module = runpy.run_path(str(AUDIT))
        module["main"].__globals__["ACCEPTED"] = tmp_path / "accepted.txt"
        code = module["main"](str(program))
        return code, capsys.readouterr().out

    return run


def test_nothing_found(audit: Callable[..., tuple[int, str]]) -> None:
    assert audit([CLEAN, CLEAN]) == (0, "audit: 2 of 2 packages were looked up; no known vulnerability\n")


def test_a_service_that_is_away_fails_no_build_and_says_so(audit: Callable[..., tuple[int, str]]) -> None:
    code, said = audit(None)
    assert code == 0
    assert said == (
        "audit: NOTHING WAS AUDITED, for the advisories cannot be had: requests.exceptions.ConnectionError: Failed to "
        "resolve\n"
    )


def test_a_vulnerability_fails_the_build_until_it_is_accepted(audit: Callable[..., tuple[int, str]]) -> None:
    code, said = audit([CLEAN, found()])
    assert code == 1
    assert "audit: Jinja2 3.1.6: PYSEC-2099-1 CVE-2099-1, fixed in 99.0; take a fixed version, or accept it" in said
    code, said = audit([found(fix_versions=[])], "# why\nCVE-2099-1 jinja2 we render no templates of others\n")
    assert code == 0
    assert "not fixed yet; accepted: we render no templates of others" in said
    # Of another package, or of another vulnerability of this one, it is not.
    for entry in ("CVE-2099-1 numpy x\n", "CVE-2099-2 jinja2 x\n"):
        code, said = audit([found()], entry)
        assert code == 1
        assert "is not found any more; take it out" in said


def test_what_could_not_be_looked_up_is_named(audit: Callable[..., tuple[int, str]]) -> None:
    code, said = audit([CLEAN, SKIPPED])
    assert code == 0
    assert "audit: torch: NOT AUDITED: could not be audited\n" in said
    assert said.endswith("1 of 2 packages were looked up; see above\n")


def test_an_exception_needs_a_reason(audit: Callable[..., tuple[int, str]]) -> None:
    with pytest.raises(SystemExit, match="'CVE-2099-1 jinja2' is not of the form ID PACKAGE REASON"):
        audit([found()], "CVE-2099-1 jinja2\n")
