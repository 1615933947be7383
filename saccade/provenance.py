"""Where a run comes from: the code's git state, the packages, the machine and the person. Secrets are left out."""

import getpass
import importlib.metadata
import os
import platform
import re
import socket
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import saccade

__all__ = [
    "GitState",
    "environment_text",
    "git_state",
    "hide_secrets",
    "machine",
    "packages",
    "redact",
    "strip_credentials",
]

_SECONDS = 30
_USER_INFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<who>[^/\s]*)@")
_VARIABLES_ONLY = re.compile(r"(\$\{\w+\}:?)+")
_SECRET_QUERY = re.compile(r"(?i)(?P<key>[?&](?:password|passwd|token|secret|access_key|api_key)=)[^&\s'\"]+")

_WORD = r"(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key)"
_SECRET_VARIABLE = re.compile(rf"(?i){_WORD}|credential")
_SHORTEST = 6
"""Characters of a variable's value from which on it is looked for: shorter ones stand everywhere by chance."""
_BARE = r"[\w+/~!#%^*-]"
_ASSIGNED = re.compile(
    rf"(?i)(?P<key>[\w.-]*(?:{_WORD}|tracking_username)[\w.-]*[\"']?\s*(?:[:=]|=>)\s*)"
    # A text in quotes, or a bare one that is neither a number nor a name in a program: letters and digits.
    rf"(?:(?P<quote>[\"'])(?![$<{{*])[^\"'\n]{{4,}}(?P=quote)|(?={_BARE}*\d)(?={_BARE}*[a-z]){_BARE}{{6,}}(?![\w(.\[]))"
)
_KEYS = re.compile(
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_\w{30,}|github_pat_\w{20,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{30,}"
    r"|xox[abprs]-[\w-]{10,}|sk-[\w-]{20,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})"
)
"""Of AWS, GitHub, GitLab, Hugging Face, Slack and OpenAI, and JSON web tokens."""
_HEADED = re.compile(
    r"(?i)(?P<key>authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer)\s+)[^\s\"']+"
    r"|(?P<head>-----BEGIN [A-Z ]*PRIVATE KEY-----)(?P<body>[^-]+)"
)


def strip_credentials(text: str) -> str:
    """Take `user:password@` out of the addresses in a text; `${NAME}`s, which hold no secret themselves, stay."""
    text = _USER_INFO.sub(lambda found: found[0] if _VARIABLES_ONLY.fullmatch(found["who"]) else found["scheme"], text)
    return _SECRET_QUERY.sub(r"\g<key>", text)


def redact(text: str) -> str:
    """Show `***` instead of `user:password` and of passwords in the addresses in a text."""
    text = _USER_INFO.sub(
        lambda found: found[0] if _VARIABLES_ONLY.fullmatch(found["who"]) else f"{found['scheme']}***@", text
    )
    return _SECRET_QUERY.sub(r"\g<key>***", text)


def hide_secrets(text: str) -> str:
    """Show `***` instead of all that looks like a secret: for what programs say and for diffs, which may hold anything.

    That is in addresses, assignments, headers, known kinds of keys, and the values of this process's own variables that
    are named after passwords, tokens or keys. Names of people are no secrets.
    """
    for secret in _own_secrets():
        text = text.replace(secret, "***")
    text = _ASSIGNED.sub(lambda found: f"{found['key']}{found['quote'] or ''}***{found['quote'] or ''}", redact(text))
    return _HEADED.sub(_hide_headed, _KEYS.sub("***", text))


def _hide_headed(found: re.Match[str]) -> str:
    if found["head"] is None:
        return f"{found['key']}***"
    return found["head"] + re.sub(r"[\w/=]+", "***", found["body"])  # A diff keeps its number of lines.


def _own_secrets() -> list[str]:
    """Values of secret variables, and passwords in the addresses that others hold; the longest first."""
    found = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name) and value[:1] != "/"}
    addresses = [match["who"] for value in os.environ.values() for match in _USER_INFO.finditer(value)]
    found |= {who.partition(":")[2] for who in addresses if not _VARIABLES_ONLY.fullmatch(who)}
    return sorted((secret for secret in found if len(secret) >= _SHORTEST), key=len, reverse=True)


@dataclass(frozen=True, kw_only=True)
class GitState:
    """The checkout that this program runs from; all empty when it is not one."""

    commit: str = ""
    branch: str = ""
    """Empty when HEAD is detached."""
    dirty: bool = False
    """Something differs from the commit, untracked files included."""
    diff: str = ""
    """What `git apply` turns the commit into this code with, but for secrets, which are hidden; names of untracked
    files in comments at its top."""

    def summary(self) -> dict[str, str | bool]:
        """All but the diff."""
        return {key: value for key, value in asdict(self).items() if key != "diff"}


def git_state(folder: Path | None = None) -> GitState:
    """Commit, branch and changes of the checkout that `folder` (default: this package's source) belongs to."""
    folder = folder or Path(saccade.__file__).resolve().parent
    if "site-packages" in folder.parts:
        return GitState()  # Installed: a checkout around it is some other project's.
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        return GitState()
    root = Path(top.strip())
    commit = (_git(root, "rev-parse", "--verify", "--quiet", "HEAD") or "").strip()
    untracked = (_git(root, "ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")[:-1]
    diff = _git(root, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--no-textconv") if commit else ""
    hidden = hide_secrets(diff or "")
    notes = "# what looks like a secret is hidden in this diff: ***\n" if hidden != (diff or "") else ""
    notes += "".join(f"# untracked, not in this diff: {name}\n" for name in untracked)
    return GitState(
        commit=commit,
        branch=(_git(root, "symbolic-ref", "--short", "--quiet", "HEAD") or "").strip(),
        dirty=bool(diff or untracked),
        diff=notes + hidden,
    )


def _git(folder: Path, *arguments: str) -> str | None:
    """What a git command prints, or None when it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            # Reading must not take the lock that a commit in another window needs.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


@cache
def packages() -> dict[str, str]:
    """Version of each installed package, by name."""
    found = {(item.metadata["Name"] or "?"): item.version for item in importlib.metadata.distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def environment_text() -> str:
    """Python, platform and packages, as a requirements file that pip reads."""
    head = [f"# python {platform.python_version()} ({platform.python_implementation()})", f"# {platform.platform()}"]
    return "\n".join([*head, *(f"{name}=={version}" for name, version in packages().items())]) + "\n"


def machine() -> dict[str, str]:
    """Who runs this where."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container whose user has no name.
        user = str(os.getuid())
    return {
        "host": socket.gethostname(),
        "user": user,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
