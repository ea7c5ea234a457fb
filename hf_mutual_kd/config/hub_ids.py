"""Hub ids."""

from __future__ import annotations

import re

PEER_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

COMMIT = re.compile(r"[0-9a-f]{40}")
