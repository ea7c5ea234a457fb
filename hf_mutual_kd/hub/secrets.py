"""What never leaves this machine: tokens, keys, passwords and paths, also where they are encoded."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

TOKENS = re.compile(rb"\b(?:hf_[A-Za-z0-9]{20,}|hf_oauth_[A-Za-z0-9_.-]{20,}|api_org_[A-Za-z0-9]{20,})")
MORE_KEYS = re.compile(
    rb"\bAIza[0-9A-Za-z_-]{35}\b"  # Google
    rb"|\b[A-Z][A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD)\s*=\s*[\"']?(?=[^\s\"']*\d)[\w+/.-]{16,}"
    rb"|\baws_secret_access_key\W{1,5}[\w+/]{40}"
)
"""Keys that detect-secrets passes: `NAME_KEY=…` without quotes among them."""
HOMES = re.compile(rb"(?<![\w.-])(?:/(?:home|Users)/[^/\s\"'<>]+|[A-Za-z]:\\+Users\\+[^\\\s\"'<>]+)")
MOUNTS = re.compile(rb"(?<![\w.-])/(?:scratch|mnt|media|lustre|gpfs|nfs)/[^/\s\"'<>]+")
ENCODED = re.compile(rb"[A-Za-z0-9+/_-]{40,}={0,2}")
TEXT_SUFFIXES = (".json", ".md", ".txt", ".jinja", ".py", ".yaml", ".yml", ".html", ".css")
MOST_TEXT = 5_000_000
"""Bytes of a text that is searched for keys of other services; vocabularies are larger than what anybody writes."""
MOST_LINES = 100_000
"""Bytes of a text that is searched line by line for passwords that are named so."""


def found_in(name: str, content: bytes, token: str | None, paths: dict[str, set[bytes]]) -> str | None:
    """What of a file must not leave, in words that do not hold it; `None` where there is nothing.

    Args:
        name (`str`): of the file.
        content (`bytes`): its bytes, of weights only the header.
        token (`str`, *optional*): the one in use.
        paths (`dict[str, set[bytes]]`): what paths of this machine are called, and how they may be written.
    """
    patterns = {"your token": re.compile(re.escape(token.encode()))} if token else {}
    for what, texts in paths.items():
        # A path counts where it stands alone, so that `/root` is not found in `https://x/rootless`.
        patterns[what] = re.compile(rb"(?<![\w.-])(?:" + b"|".join(map(re.escape, sorted(texts))) + rb")(?![\w-])")
    patterns |= {"a Hub token": TOKENS, "the path of somebody's home folder": HOMES}
    patterns["a path of somebody's machine"] = MOUNTS
    for form, text in _forms(name, content):
        for what, pattern in patterns.items():
            if pattern.search(text):
                return what + form
    if name.endswith(TEXT_SUFFIXES):
        return _key_of_another_service(name, content)
    return None


def _forms(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield "", content + b"\n" + name.encode()
    if b"\0" in content:
        yield " (as UTF-16)", content.replace(b"\0", b"")
    if name.endswith(TEXT_SUFFIXES) and len(content) <= MOST_TEXT:
        for run in ENCODED.findall(content):
            plain = run.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
            # One letter more than whole groups is no base64, but what comes before it may be.
            yield " (in base64)", base64.b64decode(plain[: len(plain) - (len(plain) % 4 == 1)] + b"==")


def _key_of_another_service(name: str, content: bytes) -> str | None:
    if len(content) > MOST_TEXT:
        return None
    if MORE_KEYS.search(content):
        return "what looks like a key"
    text = content.decode("utf-8", "replace")
    services, passwords = _detectors()
    for detector in services:
        if any(detector.analyze_string(text)):
            return f"what looks like a secret ({detector.secret_type})"
    lines = text.splitlines() if len(text) <= MOST_LINES else []
    if any(passwords.analyze_line(filename=name, line=line, line_number=1) for line in lines):
        return f"what looks like a secret ({passwords.secret_type})"
    return None


@cache
def _detectors() -> tuple[list[Any], Any]:
    """Those of detect-secrets that know a service's form of key, and the one for what is called a password."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector
    from detect_secrets.plugins.high_entropy_strings import HighEntropyStringsPlugin
    from detect_secrets.plugins.ip_public import IPPublicDetector
    from detect_secrets.plugins.keyword import KeywordDetector

    # Hashes and commits are random letters, too, and versions look like addresses.
    wrong_here = (HighEntropyStringsPlugin, IPPublicDetector, KeywordDetector)
    classes: Iterable[type] = get_mapping_from_secret_type_to_class().values()
    services = [cls() for cls in classes if issubclass(cls, RegexBasedDetector) and not issubclass(cls, wrong_here)]
    return services, KeywordDetector()


def as_written(path: Path) -> set[bytes]:
    """A path as text may hold it: plain, and with the backslashes that JSON doubles."""
    text = str(path)
    return {text.encode(), json.dumps(text)[1:-1].encode()}
