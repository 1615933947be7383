"""The version stands in several files, and the changelog has a place for it."""

import re
from configparser import ConfigParser
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parent.parent
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
"""Those of Keep a Changelog."""


def version() -> str:
    setup = ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    return setup["metadata"]["version"]


def test_one_version() -> None:
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"] == version()


def test_the_changelog_has_its_form_and_this_version() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:]]
    assert all(released)
    versions = [match[1] for match in released if match]
    assert versions[0] == version() if versions else f"Version {version()}" in text
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= KINDS
