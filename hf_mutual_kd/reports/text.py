"""Text of a card as Markdown, HTML or YAML: escaped where it comes from outside, without tokens and users' names."""

from __future__ import annotations

import os
import re
import shlex
import statistics
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Undefined

from ..config.values import is_secret
from ..errors import PeerError

FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


class Markdown(str):
    """Text that is Markdown already; all other text is escaped where the template shows it."""


def visible(text: Any) -> str:
    """Text without characters that control, reorder or hide; each line break and tab is a blank."""
    kept = []
    for character in str(text):
        kind = unicodedata.category(character)
        if kind == "Cs":
            kept.append("\ufffd")
        elif character == "\u200d" or kind not in ("Cc", "Cf", "Zl", "Zp"):  # U+200D joins emoji
            kept.append(character)
        elif character.isspace():
            kept.append(" ")
    return "".join(kept)


def one_line(text: Any, limit: int = 80) -> str:
    """One line of visible text, cut at `limit` characters."""
    line = " ".join(visible(text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def escape(value: Any, limit: int = 80) -> Markdown:
    """Text or a number as Markdown that shows it as it is, also inside tables and HTML.

    Example:

    ```python
    >>> escape("a|b </details>")
    'a&#124;b &#60;&#47;details&#62;'
    ```
    """
    if isinstance(value, Markdown):
        return value
    if value is None or isinstance(value, Undefined):
        raise TypeError("the template shows a fact that is not known; it must leave its place out")
    text = re.sub(r"[!\"#$&*<>?@\[\\\]^`{|}~]", _entity, one_line(value, limit))
    # Only where Markdown would see emphasis, a link or an end of a tag; names stay readable in the source.
    return Markdown(re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.|(?<=&#60;)/", _entity, text))


def sentence(value: Any) -> Markdown:
    """[`escape`] for text that may be long."""
    return escape(value, 500)


def _entity(match: re.Match[str]) -> str:
    return f"&#{ord(match[0])};"


def code(value: Any) -> Markdown:
    """Text as inline code; as HTML, since entities protect it better than backticks would."""
    return Markdown(f"<code>{escape(value, 200)}</code>")


def fence(text: str, language: str) -> Markdown:
    """Text as a code block that nothing in it can close, and in which our markers are none."""
    lines = [visible(line)[:4000].rstrip() for line in str(text).splitlines()]
    shown = "\n".join(lines).replace("<!-- hf_mutual_kd", "<! -- hf_mutual_kd")
    ticks = "`" * max([2, *map(len, re.findall("`+", shown))]) + "`"
    return Markdown(f"{ticks}{language}\n{shown}\n{ticks}")


def link(text: Any, url: str | None) -> Markdown:
    """A link where there is an address, else the text."""
    return Markdown(f"[{escape(text)}]({url})") if url else escape(text)


TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}\b")
ABSOLUTE = re.compile(
    r"""(?<![\w./\\])(?!(?<=:)//)(?:file://)?(?:~[\w.-]*|[A-Za-z]:|(?:\.\./)*\.\.)?[/\\][^\s'"`,;:|<>()\[\]{}]*"""
)
HOME = re.compile(r"(?:.*[/\\])?(?:home|Users)[/\\][^/\\]+|/root|~[^/\\]*")


def scrub(text: str) -> str:
    """The text without tokens, and of every absolute path only its last part, as a path tells a user's name.

    Example:

    ```python
    >>> scrub("vit=/home/ann/peers/vit@main")
    'vit=vit@main'
    ```
    """
    return ABSOLUTE.sub(lambda match: last_part(match[0]), TOKEN.sub("(hidden)", text))


def last_part(path: str) -> str:
    """The last part of a path; a home folder itself, which is named as its user, is `HOME`."""
    path = path.rstrip("/\\")
    return "HOME" if HOME.fullmatch(path) else re.split(r"[/\\]", path)[-1] or "."


def scrub_word(word: str) -> str:
    """[`scrub`] of one word or value, in which a path may have blanks: `NAME=/home/ann b/c` to `NAME=c`."""
    names = re.match(r"(?:[^=/\\~]*=)*", word)
    rest = word[names.end() :] if names else word
    return scrub(word[: len(word) - len(rest)] + last_part(rest) if ABSOLUTE.match(rest) else word)


def scrub_value(value: Any) -> Any:
    """[`scrub_word`] of every text in a value of JSON."""
    if isinstance(value, dict):
        return {key: scrub_value(item) for key, item in value.items() if not is_secret(str(key))}
    if isinstance(value, list):
        return [scrub_value(item) for item in value]
    return scrub_word(value) if isinstance(value, str) else value


def portable(value: Any) -> Any:
    """
    A value of JSON whose paths tell no user's name: relative to the working directory, or `~/…` in the home folder.

    Example:

    ```python
    >>> portable(["vit=/home/ann/work/peers/vit", "me/vit"])  # in /home/ann/work
    ['vit=peers/vit', 'me/vit']
    ```
    """
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    if not isinstance(value, str):
        return value
    names = re.match(r"(?:[^=/\\~]*[=:])*", value)
    begins, rest = (names[0], value[names.end() :]) if names else ("", value)
    return begins + _near(rest) if os.path.isabs(rest) and "://" not in value else value


def _near(path: str) -> str:
    home, here = Path.home(), Path.cwd()
    place = Path(os.path.normpath(path))
    if place.is_relative_to(here):
        return str(place.relative_to(here))
    if place.is_relative_to(home) and len(home.parts) > 1:
        return f"~/{place.relative_to(home)}"
    near = os.path.relpath(place, here)
    return last_part(path) if HOME.match(near) else near


def portable_command(command: str) -> str:
    """[`portable`] of every word of a command line."""
    try:
        return shlex.join(portable(shlex.split(command)))
    except ValueError:
        return command


def scrub_command(command: str) -> str:
    """[`scrub_word`] of every word of a command line; values of secret options are hidden."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    shown: list[str] = []
    hide = False
    for word in words:
        name, equals, _ = word.partition("=")
        secret = is_secret(name.lstrip("-").replace("-", "_").lower())
        shown.append("(hidden)" if hide else f"{name}=(hidden)" if secret and equals else scrub_word(word))
        hide = secret and not equals
    return shlex.join(shown)


def number(value: float, share: bool, sign: bool = False) -> str:
    """A share in percent with two digits, anything else with three."""
    return f"{100 * value if share else value:{'+' if sign else ''}.{2 if share else 3}f}".replace("-", "−")


def spread(values: Sequence[float], share: bool) -> str:
    """` ± sd` over seeds, nothing for one."""
    return f" ± {number(statistics.stdev(values), share)}" if len(values) > 1 else ""


def duration(seconds: float) -> str:
    """`"2 h 5 min"`, `"3 min 20 s"`, `"12 s"`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class _Dumper(yaml.SafeDumper):
    """Quotes text that any YAML version could take for a number, such as a commit `123…e10`."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if re.match(r"[-+]?\.?\d", text) else None)


_Dumper.add_representer(str, _represent_text)


def dump_front_matter(data: Mapping[str, Any]) -> str:
    """`---`, YAML, `---`."""
    text = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{text}---\n"


def split_readme(text: str, name: str = "README.md") -> tuple[dict[str, Any], str]:
    """The metadata of a README and the text below; messages call it `name`.

    Raises:
        [`PeerError`]: the metadata is no YAML mapping.
    """
    text = text.removeprefix("\ufeff")
    match = FRONT_MATTER.match(text)
    if match is None:
        return {}, text
    try:
        data = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise PeerError(f"{name}: its metadata is not readable as YAML; correct it ({reason})") from None
    if data is not None and not isinstance(data, dict):
        raise PeerError(f"{name}: its metadata must be a mapping, got {one_line(data)!r}; correct it")
    return data or {}, text[match.end() :]
