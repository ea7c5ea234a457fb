"""What a Hub remembers: users and tokens, repositories with their commits, collections, and who may touch them."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from hub_cards import card_tags, front_matter

KINDS = {"model": "models", "dataset": "datasets", "space": "spaces"}
LFS_SUFFIXES = "safetensors bin h5 onnx parquet arrow npy npz pt pth ckpt msgpack zip gz tar tflite pkl"
GIT_ATTRIBUTES = "".join(
    f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES.split()
).encode()
LARGEST_REGULAR_FILE = 10 * 2**20
REPO_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}\w)?")


class Refused(Exception):
    """A request that the Hub answers with an error.

    Args:
        status (`int`): HTTP status.
        message (`str`): goes to the body and to `X-Error-Message`.
        code (`str`, *optional*): `X-Error-Code`, from which the client chooses its exception class.
        headers (`dict`, *optional*): more headers, e.g. `X-Repo-Commit` of a missing file.
        body (`dict`, *optional*): more keys of the JSON body.
    """

    def __init__(self, status, message, code=None, headers=None, body=None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers, self.body = headers or {}, body or {}


def now() -> str:
    """The time as the Hub writes it, e.g. `2026-01-31T12:00:00.000Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass(frozen=True)
class File:
    """One version of one file; `lfs` says whether git holds the bytes or a pointer to them."""

    data: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()
        )

    @cached_property
    def blob_id(self) -> str:
        """Git's name of the stored blob, which for an LFS file is the pointer."""
        stored = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id

    def lfs_info(self, name_of_hash="oid") -> dict:
        return {name_of_hash: self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}


@dataclass(frozen=True)
class Commit:
    """A commit with its whole tree: path -> `File`."""

    id: str
    parent: str | None
    tree: Mapping[str, File]
    title: str
    message: str
    author: str
    date: str


@dataclass(frozen=True)
class Caller:
    """Who sends a request; `name` is `None` without a token."""

    name: str | None = None
    role: str = "read"


@dataclass
class Repo:
    """A repository. `granted` lists the users whom a gated repository lets in besides its own namespace."""

    kind: str
    id: str
    private: bool = False
    gated: bool | str = False
    sdk: str | None = None
    downloads: int = 0
    likes: int = 0
    granted: set[str] = field(default_factory=set)
    created_at: str = field(default_factory=now)
    history: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def at(self, revision: str = "main") -> Commit:
        """The commit that a branch, a tag, a full commit id or one of at least 7 digits names."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        commit_id = self.branches.get(name) or self.tags.get(name)
        if commit_id is None and re.fullmatch(r"[0-9a-f]{7,40}", revision):
            commit_id = next((known for known in self.history if known.startswith(revision)), None)
        if commit_id is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.history[commit_id]

    def log(self, revision: str = "main") -> list[Commit]:
        """The commits that lead to `revision`, newest first."""
        commits = [self.at(revision)]
        while commits[-1].parent:
            commits.append(self.history[commits[-1].parent])
        return commits

    def add_commit(self, branch: str, tree: Mapping[str, File], title: str, message: str, author: str) -> Commit:
        """Append a commit to `branch`, also where nothing changed (as git hosting does)."""
        parent = self.branches.get(branch)
        names = "".join(f"{path}\0{file.blob_id}\n" for path, file in sorted(tree.items()))
        seed = f"{self.kind}{self.id}{parent}{title}{message}{len(self.history)}{names}"
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), parent, dict(tree), title, message, author, now())
        self.history[commit.id] = commit
        self.branches[branch] = commit.id
        self.lfs.update({file.sha256: file.data for file in tree.values() if file.lfs})
        return commit

    def is_lfs(self, path: str, size: int, sample: bytes, revision: str = "main") -> bool:
        """Whether a new file goes to LFS: by `.gitattributes`, by size, or because its first bytes are binary."""
        attributes = self.at(revision).tree.get(".gitattributes", File(b"")).data.decode()
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        named = any(fnmatch.fnmatch(path.split("/")[-1], pattern) for pattern in patterns)
        return size > 0 and (named or size > LARGEST_REGULAR_FILE or b"\0" in sample)


@dataclass
class Collection:
    """A collection; `items` holds the JSON of its entries in order."""

    slug: str
    title: str
    namespace: str
    description: str | None
    private: bool
    items: list[dict] = field(default_factory=list)
    updated: str = field(default_factory=now)


class Store:
    """All that the Hub knows. `lock` is held while one request is answered.

    Args:
        users (`dict[str, str]`): user name -> token that may write.
        read_tokens (`dict[str, str]`): user name -> token that may only read.
        orgs (`dict`): organisation -> list of members who may write, or a dict member -> "read" / "write" / "admin".
    """

    def __init__(self, users=None, read_tokens=None, orgs=None):
        self.tokens = {token: Caller(name, "write") for name, token in (users or {}).items()}
        self.tokens |= {token: Caller(name, "read") for name, token in (read_tokens or {}).items()}
        self.orgs = {
            org: dict(members) if isinstance(members, Mapping) else dict.fromkeys(members, "write")
            for org, members in (orgs or {}).items()
        }
        self.repos: dict[tuple[str, str], Repo] = {}
        self.collections: dict[str, Collection] = {}
        self.awaited_uploads: set[tuple[str, str, str]] = set()
        self.lock = threading.RLock()

    def caller(self, authorization: str | None) -> Caller:
        """Who an `Authorization` header stands for."""
        if not authorization:
            return Caller()
        token = authorization.removeprefix("Bearer ").strip()
        if token not in self.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.tokens[token]

    def role_in(self, caller: Caller, namespace: str) -> str | None:
        """ "admin", "write", "read" or `None`, capped by what the token itself may do."""
        role = "admin" if caller.name == namespace else self.orgs.get(namespace, {}).get(caller.name)
        return "read" if role and caller.role == "read" else role

    def repo(self, kind: str, repo_id: str, caller: Caller | None = None) -> Repo:
        """A repository that `caller` may see (any, without a caller)."""
        repo = self.repos.get((kind, repo_id))
        hidden = caller and repo and repo.private and not self.role_in(caller, repo.namespace)
        if repo is None or hidden:
            anonymous = caller is not None and caller.name is None
            message = "Invalid username or password." if anonymous else "Repository not found"
            raise Refused(401 if anonymous else 404, message, "RepoNotFound")
        return repo

    def require_write(self, caller: Caller, namespace: str) -> None:
        """Refuse a caller who may not write under `namespace`."""
        if caller.name is None:
            raise Refused(401, "Invalid username or password.")
        if caller.role == "read":
            raise Refused(403, "Forbidden: you must use a write token to upload to a repository.")
        if self.role_in(caller, namespace) not in ("write", "admin"):
            raise Refused(403, f'You don\'t have the required permissions under the namespace "{namespace}"')

    def require_files(self, caller: Caller, repo: Repo) -> None:
        """Refuse a caller whom a gated repository keeps from its files."""
        if repo.gated and not self.role_in(caller, repo.namespace) and caller.name not in repo.granted:
            message = f"Access to {repo.kind} {repo.id} is restricted and you are not in the authorized list."
            raise Refused(401 if caller.name is None else 403, message, "GatedRepo")

    def create_repo(self, kind: str, repo_id: str, **options) -> Repo:
        """A new repository with the Hub's own first commit, which holds `.gitattributes`."""
        if not all(REPO_NAME.fullmatch(part) for part in repo_id.split("/")) or repo_id.count("/") != 1:
            raise Refused(400, f"Invalid repo name: {repo_id}")
        if (kind, repo_id) in self.repos:
            raise Refused(409, f"You already created this {kind} repo")
        repo = self.repos[kind, repo_id] = Repo(kind, repo_id, **options)
        repo.add_commit("main", {".gitattributes": File(GIT_ATTRIBUTES)}, "initial commit", "", repo.namespace)
        return repo

    def apply(self, repo: Repo, branch: str, lines: Iterable[dict], author: str) -> Commit:
        """Apply the lines of an NDJSON commit: a header, then one operation per line."""
        header, *operations = lines
        if branch not in repo.branches:
            raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head, parent = repo.branches[branch], header["value"].get("parentCommit")
        if parent and not head.startswith(parent):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(repo.at(branch).tree)
        for operation in operations:
            change_tree(repo, tree, operation["key"], operation["value"])
        value = header["value"]
        return repo.add_commit(branch, tree, value["summary"], value.get("description", ""), author)


def change_tree(repo: Repo, tree: dict[str, File], key: str, value: dict) -> None:
    """Apply one operation of a commit to `tree`."""
    path = value["path"]
    if not path or path.startswith("/") or {"", ".", "..", ".git"} & set(path.rstrip("/").split("/")):
        raise Refused(400, f"Invalid path: {path}")
    if key == "file":
        tree[path] = File(value["content"])
    elif key == "lfsFile":
        if value["oid"] not in repo.lfs:
            raise Refused(400, f"LFS pointer pointed to a file that does not exist: {path}")
        tree[path] = File(repo.lfs[value["oid"]], lfs=True)
    elif key in ("deletedFile", "deletedFolder"):
        gone = [known for known in tree if known == path or key == "deletedFolder" and known.startswith(f"{path}/")]
        if not gone:
            raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for known in gone:
            del tree[known]
    else:
        raise Refused(400, f"Unknown operation: {key}")


def folder_entries(repo: Repo, commit: Commit, folder: str = "", recursive=False, expand=False) -> list[dict]:
    """The JSON of a tree listing: folders and files below `folder`, by path."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict] = {}
    for path, file in sorted(commit.tree.items()):
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            parent = prefix + "/".join(parts[:depth])
            tree_id = hashlib.sha1(f"{commit.id}{parent}".encode()).hexdigest()
            entries[parent] = {"type": "directory", "oid": tree_id, "size": 0, "path": parent}
        if recursive or len(parts) == 1:
            entries[path] = file_entry(repo, commit, path, file, expand)
    return [entries[path] for path in sorted(entries)]


def file_entry(repo: Repo, commit: Commit, path: str, file: File, expand=False) -> dict:
    """The JSON of one file in a tree or paths-info answer."""
    entry = {"type": "file", "oid": file.blob_id, "size": len(file.data), "path": path}
    if file.lfs:
        entry["lfs"] = file.lfs_info()
    if expand:
        log = repo.log(commit.id)
        older = [c for c in log if c.tree.get(path) == file]
        last = older[-1] if older else log[0]
        entry["lastCommit"] = {"id": last.id, "title": last.title, "date": last.date}
        entry["securityFileStatus"] = {"status": "unscanned", "avScan": None, "pickleImportScan": None}
    return entry


def parameter_count(file: File) -> dict | None:
    """Numbers of parameters per dtype from the header of a safetensors file."""
    try:
        header = json.loads(file.data[8 : 8 + int.from_bytes(file.data[:8], "little")])
        counts: dict[str, int] = {}
        for tensor in (value for name, value in header.items() if name != "__metadata__"):
            size = 1
            for length in tensor["shape"]:
                size *= length
            counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + size
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return {"parameters": counts, "total": sum(counts.values())}


def repo_info(repo: Repo, revision: str = "main", blobs: bool = False) -> dict:
    """The JSON of a repository's info at a revision."""
    commit = repo.at(revision)
    card = front_matter(commit.tree.get("README.md", File(b"")).data.decode(errors="replace")) or {}
    try:
        config = json.loads(commit.tree["config.json"].data)
    except (KeyError, ValueError):
        config = {}
    siblings: list[dict] = []
    for path, file in sorted(commit.tree.items()):
        siblings.append({"rfilename": path})
        if blobs:
            lfs = {"lfs": file.lfs_info("sha256")} if file.lfs else {}
            siblings[-1] |= {"size": len(file.data), "blobId": file.blob_id, **lfs}
    info = {
        "_id": hashlib.sha1(f"{repo.kind}{repo.id}".encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.id,
        "lastModified": commit.date,
        "createdAt": repo.created_at,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": repo.downloads,
        "likes": repo.likes,
        "tags": card_tags(card, config, commit.tree),
        "cardData": card,
        "siblings": siblings,
        "usedStorage": sum(map(len, repo.lfs.values())),
    }
    if repo.kind == "model":
        info |= {"modelId": repo.id, "model-index": card.get("model-index"), "spaces": []}
        info |= {"library_name": card.get("library_name") or ("transformers" if config.get("model_type") else None)}
        info |= {"pipeline_tag": card.get("pipeline_tag")}
        info |= {"config": {key: config[key] for key in ("architectures", "model_type") if key in config}}
        weights = commit.tree.get("model.safetensors")
        info |= {"safetensors": parameter_count(weights) if weights else None}
    if repo.kind == "space":
        info |= {"sdk": repo.sdk, "runtime": {"stage": "NO_APP_FILE", "hardware": {"current": None}}}
    return info
