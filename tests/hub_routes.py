"""What the Hub answers: one function per endpoint, from a `Call` to a `Reply`, without sockets.

Longer than 400 lines so that the whole table of endpoints is in one place.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha1, sha256
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from hub_cards import check_card
from hub_store import KINDS, Collection, Refused, Repo, file_entry, folder_entries, now, repo_info

PARTS = {
    "{kind}": "(?P<kind>models|datasets|spaces)",
    "{prefix}": "(?:(?P<kind>datasets|spaces)/)?",
    "{repo}": "(?P<repo>[^/]+/[^/]+)",
    "{rev}": "(?P<rev>[^/]+)",
    "{slug}": "(?P<slug>[^/]+/[^/]+)",
    "{item}": "(?P<item>[^/]+)",
    "{path}": "(?P<path>.+)",
    "{oid}": "(?P<oid>[0-9a-f]{64})",
}
ROUTES: list[tuple[tuple[str, ...], re.Pattern, Callable]] = []


@dataclass
class Reply:
    """Status, body and headers of an answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Call:
    """One request, parsed: `args` are the named parts of the path, unquoted; `query` the query's lists."""

    def __init__(self, hub, method, target, headers, body):
        self.hub, self.store, self.method, self.headers, self.body = hub, hub.store, method, headers, body
        self.path, self.query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        self.caller = self.store.caller(headers.get("authorization"))
        self.args: dict[str, str] = {}

    @cached_property
    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    @cached_property
    def kind(self) -> str:
        return (self.args.get("kind") or "models").removesuffix("s")

    @cached_property
    def repo(self) -> Repo:
        """The repository of the path; refused where the caller may not see it."""
        return self.store.repo(self.kind, self.args["repo"], self.caller)

    @cached_property
    def writable_repo(self) -> Repo:
        """The repository of the path; refused where the caller may not write to it."""
        self.store.require_write(self.caller, self.repo.namespace)
        return self.repo

    def one(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def flag(self, name: str) -> bool:
        return self.one(name).lower() in ("true", "1")


def route(verbs: str, template: str):
    """Register a function for "VERB VERB" and a path such as `/api/{kind}/{repo}/tree/{rev}`."""
    for name, pattern in PARTS.items():
        template = template.replace(name, pattern)

    def register(function):
        ROUTES.append((tuple(verbs.split()), re.compile(template), function))
        return function

    return register


def answer(call: Call) -> Reply:
    """Find the endpoint of a call and let it answer; unknown paths get 404, below a repository `RepoNotFound`."""
    for verbs, pattern, function in ROUTES:
        match = pattern.fullmatch(call.path)
        if match and call.method in verbs:
            call.args = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
            reply = function(call)
            return reply if isinstance(reply, Reply) else in_json(reply)
    about_repo = re.match(r"/api/(models|datasets|spaces)/|.*/resolve/", call.path)
    raise Refused(404, f"No such endpoint: {call.method} {call.path}", "RepoNotFound" if about_repo else None)


def in_json(value, status: int = 200, headers: dict | None = None) -> Reply:
    return Reply(
        status, json.dumps(value, default=str).encode(), {"Content-Type": "application/json"} | (headers or {})
    )


def page(call: Call, entries: list) -> Reply:
    """One page of a list, with a `Link` header to the next."""
    start, size = int(call.one("cursor", "0")), min(int(call.one("limit", "1000")), call.hub.page_size)
    headers = {}
    if start + size < len(entries):
        following = urlencode({**call.query, "cursor": [str(start + size)]}, doseq=True)
        headers["Link"] = f'<{call.hub.url}{call.path}?{following}>; rel="next"'
    return in_json(entries[start : start + size], headers=headers)


@route("GET", "/api/whoami-v2")
def whoami(call: Call):
    name, role = call.caller.name, call.caller.role
    if name is None:
        raise Refused(401, "Invalid username or password.")
    orgs = [{"type": "org", "name": org, "roleInOrg": m[name]} for org, m in call.store.orgs.items() if name in m]
    auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
    return {"type": "user", "name": name, "fullname": name, "isPro": False, "orgs": orgs, "auth": auth}


def named_repo(call: Call) -> tuple[str, str]:
    """Kind and id from the body of create and delete."""
    kind = call.json.get("type") or "model"
    if kind not in KINDS:
        raise Refused(400, f'"type" must be one of [{", ".join(KINDS)}]')
    return kind, f"{call.json.get('organization') or call.caller.name}/{call.json['name']}"


@route("POST", "/api/repos/create")
def create_repo(call: Call):
    kind, repo_id = named_repo(call)
    call.store.require_write(call.caller, repo_id.split("/")[0])
    if kind == "space" and not call.json.get("sdk"):
        raise Refused(400, '"sdk" is required')
    url = f"{call.hub.url}/{'' if kind == 'model' else KINDS[kind] + '/'}{repo_id}"
    private = call.json.get("visibility") == "private" or bool(call.json.get("private"))
    try:
        call.store.create_repo(kind, repo_id, private=private, sdk=call.json.get("sdk"))
    except Refused as refusal:
        refusal.body["url"] = url
        raise
    return {"url": url, "name": repo_id}


@route("DELETE", "/api/repos/delete")
def delete_repo(call: Call):
    kind, repo_id = named_repo(call)
    call.store.repo(kind, repo_id, call.caller)
    call.store.require_write(call.caller, repo_id.split("/")[0])
    del call.store.repos[kind, repo_id]
    return {}


@route("POST", "/api/repos/move")
def move_repo(call: Call):
    kind, old, new = call.json.get("type") or "model", call.json["fromRepo"], call.json["toRepo"]
    repo = call.store.repo(kind, old, call.caller)
    for repo_id in (old, new):
        call.store.require_write(call.caller, repo_id.split("/")[0])
    if (kind, new) in call.store.repos:
        raise Refused(409, f"{new} exists already")
    repo.id = new
    call.store.repos[kind, new] = call.store.repos.pop((kind, old))
    return {}


@route("PUT", "/api/{kind}/{repo}/settings")
def change_settings(call: Call):
    repo, wanted = call.writable_repo, call.json
    repo.private = wanted["visibility"] == "private" if "visibility" in wanted else wanted.get("private", repo.private)
    repo.gated = wanted.get("gated", repo.gated)
    return {"private": repo.private, "gated": repo.gated}


@route("GET", "/api/{kind}/{repo}/auth-check(?P<write>/write)?")
def auth_check(call: Call):
    call.store.require_files(call.caller, call.repo)
    return {"ok": bool(call.writable_repo if "write" in call.args else call.repo)}


@route("GET", "/api/{kind}")
def list_repos(call: Call):
    """Filters of `list_models`: author, search, filter, pipeline_tag, gated, num_parameters (`max:N`); sort."""
    wanted = {tag for value in call.query.get("filter", []) for tag in value.split(",")}
    found = []
    for (kind, _), repo in call.store.repos.items():
        if kind != call.kind or repo.private and not call.store.role_in(call.caller, repo.namespace):
            continue
        info = repo_info(repo)
        fits = call.one("author") in ("", repo.namespace) and call.one("search").lower() in repo.id.lower()
        fits = fits and call.one("pipeline_tag") in ("", info.get("pipeline_tag")) and wanted <= set(info["tags"])
        most, size = call.one("num_parameters").rpartition("max:")[2], (info.get("safetensors") or {}).get("total")
        fits = fits and (not most or (size is not None and size <= int(most)))
        if fits and ("gated" not in call.query or call.flag("gated") == bool(repo.gated)):
            found.append(info)
    found.sort(key=lambda info: info.get(call.one("sort")) or info["likes"], reverse=True)
    return page(call, [shown(call, info, of_list=True) for info in found])


def shown(call: Call, info: dict, of_list: bool = False) -> dict:
    """The properties that a caller asked for."""
    expand = call.query.get("expand", []) + call.query.get("expand[]", [])
    if expand:
        return {key: info[key] for key in ("_id", "id", *expand) if key in info}
    if not of_list:
        return info
    hidden = {"cardData", "model-index", "safetensors", "usedStorage", "disabled", "spaces"}
    hidden -= {"cardData"} if call.flag("cardData") or call.kind != "model" and call.flag("full") else set()
    hidden |= set() if call.flag("full") else {"siblings", "sha", "lastModified", "author", "gated"}
    hidden |= set() if call.flag("config") else {"config"}
    return {key: value for key, value in info.items() if key not in hidden}


@route("GET", "/api/{kind}/{repo}(?:/revision/{rev})?")
def info(call: Call):
    return shown(call, repo_info(call.repo, call.args.get("rev", "main"), call.flag("blobs")))


@route("GET", "/api/{kind}/{repo}/tree/{rev}(?:/{path})?")
def tree(call: Call):
    commit, folder = call.repo.at(call.args["rev"]), call.args.get("path", "").strip("/")
    entries = folder_entries(call.repo, commit, folder, call.flag("recursive"), call.flag("expand"))
    if folder and not entries:
        raise Refused(404, f"{folder} does not exist on {call.args['rev']}", "EntryNotFound")
    return page(call, entries)


@route("POST", "/api/{kind}/{repo}/paths-info/{rev}")
def paths_info(call: Call):
    form = parse_qs(call.body.decode()) if not call.body.startswith(b"{") else call.json
    commit, expand = call.repo.at(call.args["rev"]), str(form.get("expand", [False])).lower().count("true") > 0
    folders = {e["path"]: e for e in folder_entries(call.repo, commit, "", True) if e["type"] == "directory"}
    files = commit.tree
    found = [path.strip("/") for path in form.get("paths", []) if path.strip("/") in {*files, *folders}]
    return [folders.get(p) or file_entry(call.repo, commit, p, files[p], expand) for p in found]


@route("GET", "/api/{kind}/{repo}/refs")
def refs(call: Call):
    def listed(names, folder):
        return [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": c} for n, c in names.items()]

    branches, tags = listed(call.repo.branches, "heads"), listed(call.repo.tags, "tags")
    return {"branches": branches, "tags": tags, "converts": [], "pullRequests": []}


@route("GET", "/api/{kind}/{repo}/commits/{rev}")
def commits(call: Call):
    log = call.repo.log(call.args["rev"])
    keys = ("id", "title", "message", "date")
    return page(call, [{**{key: getattr(c, key) for key in keys}, "authors": [{"user": c.author}]} for c in log])


@route("POST DELETE", "/api/{kind}/{repo}/branch/{rev}")
def change_branch(call: Call):
    repo, branch = call.writable_repo, call.args["rev"]
    if call.method == "POST":
        if branch in repo.branches:
            raise Refused(409, f"Reference already exists: {branch}")
        repo.branches[branch] = repo.at(call.json.get("startingPoint", "main")).id
    elif branch == "main":
        raise Refused(403, "The main branch cannot be deleted")
    elif repo.branches.pop(branch, None) is None:
        raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    return {}


@route("POST DELETE", "/api/{kind}/{repo}/tag/{rev}")
def change_tag(call: Call):
    repo = call.writable_repo
    if call.method == "POST":
        tag = call.json["tag"]
        if tag in repo.tags:
            raise Refused(409, f"Tag reference exists already: {tag}")
        repo.tags[tag] = repo.at(call.args["rev"]).id
    elif repo.tags.pop(call.args["rev"], None) is None:
        raise Refused(404, f"Invalid rev id: {call.args['rev']}", "RevisionNotFound")
    return {}


@route("POST", "/api/{kind}/{repo}/preupload/{rev}")
def preupload(call: Call):
    """How each file is to be uploaded, and the oid of what is there now so that the client skips equal files."""
    repo, revision, answers = call.writable_repo, call.args["rev"], []
    for wanted in call.json["files"]:
        path, sample = wanted["path"], base64.b64decode(wanted["sample"])
        lfs, known = repo.is_lfs(path, wanted["size"], sample, revision), repo.at(revision).tree.get(path)
        answers.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False})
        answers[-1] |= {"oid": known.etag} if known else {}
    return {"files": answers}


@route("POST", "/{prefix}{repo}.git/info/lfs/objects/batch")
def lfs_batch(call: Call):
    repo, objects = call.writable_repo, []
    for wanted in call.json["objects"]:
        oid = wanted["oid"]
        objects.append({"oid": oid, "size": wanted["size"], "authenticated": True})
        if oid not in repo.lfs:
            call.store.awaited_uploads.add((repo.kind, repo.id, oid))
            place = f"{KINDS[repo.kind]}/{repo.id}/{oid}"
            actions = {"upload": f"{call.hub.url}/lfs/{place}", "verify": f"{call.hub.url}/api/lfs-verify/{place}"}
            objects[-1]["actions"] = {name: {"href": href} for name, href in actions.items()}
    return in_json({"transfer": "basic", "objects": objects})


@route("PUT", "/lfs/{kind}/{repo}/{oid}")
def lfs_upload(call: Call):
    """The storage behind the signed address of a batch answer: no token, but only objects that were asked for."""
    oid = call.args["oid"]
    if (call.kind, call.args["repo"], oid) not in call.store.awaited_uploads:
        raise Refused(403, "SignatureDoesNotMatch")
    if sha256(call.body).hexdigest() != oid:
        raise Refused(400, "The sha256 of the body is not the one announced")
    call.store.repo(call.kind, call.args["repo"]).lfs[oid] = call.body
    return Reply(200, b"", {"ETag": f'"{oid}"'})


@route("POST", "/api/lfs-verify/{kind}/{repo}/{oid}")
def lfs_verify(call: Call):
    data = call.writable_repo.lfs.get(call.json["oid"])
    if data is None or len(data) != call.json["size"]:
        raise Refused(404, "The object is missing or has another size")
    return {}


@route("POST", "/api/{kind}/{repo}/commit/{rev}")
def commit(call: Call):
    """Apply an NDJSON commit, all of it or nothing; refused where the README's metadata is."""
    repo, lines = call.writable_repo, [json.loads(line) for line in call.body.splitlines() if line.strip()]
    for line in lines:
        if line["key"] == "file":
            line["value"]["content"] = base64.b64decode(line["value"]["content"])
            errors = check_card(line["value"]["content"].decode(), repo.kind)[0] if is_card(line) else []
            if errors:
                raise Refused(400, "Invalid metadata in README.md: " + "; ".join(errors))
    made = call.store.apply(repo, call.args["rev"], lines, call.caller.name)
    url = f"{call.hub.url}/{'' if repo.kind == 'model' else KINDS[repo.kind] + '/'}{repo.id}/commit/{made.id}"
    return {"success": True, "commitOid": made.id, "commitUrl": url, "hookOutput": "", "pullRequestUrl": None}


def is_card(line: dict) -> bool:
    return line["value"]["path"] == "README.md"


@route("POST", "/api/validate-yaml")
def validate_yaml(call: Call):
    errors, warnings = check_card(call.json["content"], call.json.get("repoType") or "model")
    messages = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return in_json(messages, 400 if errors else 200)


@route("GET HEAD", "/{prefix}{repo}/resolve/{rev}/{path}")
def resolve(call: Call):
    """A file's bytes, or a range of them, with the headers from which the client fills its cache."""
    call.store.require_files(call.caller, call.repo)
    at, path = call.repo.at(call.args["rev"]), call.args["path"]
    if path not in at.tree:
        raise Refused(404, f"Entry not found: {path}", "EntryNotFound", {"X-Repo-Commit": at.id})
    file = at.tree[path]
    headers = {"X-Repo-Commit": at.id, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
    headers["Content-Type"] = "application/octet-stream" if file.lfs else "text/plain; charset=utf-8"
    if file.lfs:
        headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
    wanted, size = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("range", "")), len(file.data)
    if wanted is None or not any(wanted.groups()):
        return Reply(200, file.data, headers)
    first, last = wanted.groups()
    start, stop = (int(first), int(last or size - 1) + 1) if first else (max(size - int(last), 0), size)
    if start >= size:
        raise Refused(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{min(stop, size) - 1}/{size}"
    return Reply(206, file.data[start:stop], headers)


@route("GET POST PATCH DELETE", "/api/collections(?:/.*)?")
def collections(call: Call):
    """All of collections; 404 where the server has none."""
    if not call.hub.collections:
        raise Refused(404, "Not Found")
    parts = [unquote(part) for part in call.path.split("/")[3:]]
    if not parts:
        return new_collection(call) if call.method == "POST" else list_collections(call)
    collection = call.store.collections.get("/".join(parts[:2]))
    if collection is None or collection.private and not call.store.role_in(call.caller, collection.namespace):
        raise Refused(404, "Collection not found")
    if call.method != "GET":
        call.store.require_write(call.caller, collection.namespace)
        collection.updated = now()
    if len(parts) == 2:
        return one_collection(call, collection)
    return add_item(call, collection) if call.method == "POST" else change_item(call, collection, parts[-1])


def collection_json(collection: Collection, position: int | None = 0) -> dict:
    owner = {"name": collection.namespace, "type": "user"}
    shown = {key: getattr(collection, key) for key in ("slug", "title", "description", "private", "items")}
    shown["items"] = [{**item, "position": index} for index, item in enumerate(collection.items)]
    shown |= {"owner": owner, "lastUpdated": collection.updated, "theme": "blue", "upvotes": 0}
    return shown if position is None else {**shown, "position": position}


def check_lengths(call: Call, **longest: int) -> None:
    for key, limit in longest.items():
        if len(call.json.get(key) or "") > limit:
            raise Refused(400, f'"{key}" length must be less than or equal to {limit} characters long')


def new_collection(call: Call):
    title, namespace = call.json["title"], call.json["namespace"]
    call.store.require_write(call.caller, namespace)
    check_lengths(call, title=60, description=150)
    for known in call.store.collections.values():
        if (known.namespace, known.title) == (namespace, title):
            raise Refused(409, "Collection already exists", body={"slug": known.slug})
    tail = sha1(f"{namespace}{title}".encode()).hexdigest()[:24]
    slug = f"{namespace}/{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}-{tail}"
    made = Collection(slug, title, namespace, call.json.get("description"), bool(call.json.get("private")))
    call.store.collections[slug] = made
    return collection_json(made)


def list_collections(call: Call):
    """By owner and item; as on the Hub, at most 4 items of each are listed."""
    owners, items, found = call.query.get("owner", []), call.query.get("item", []), []
    for collection in call.store.collections.values():
        inside = {f"{KINDS[item['type']]}/{item['id']}" for item in collection.items}
        visible = not collection.private or call.store.role_in(call.caller, collection.namespace)
        if visible and (not owners or collection.namespace in owners) and (not items or inside & set(items)):
            listed = collection_json(collection, None)
            found.append({**listed, "items": listed["items"][:4]})
    return page(call, found)


def one_collection(call: Call, collection: Collection):
    if call.method == "DELETE":
        del call.store.collections[collection.slug]
    elif call.method == "PATCH":
        check_lengths(call, title=60, description=150)
        for key in {"title", "description", "private"} & set(call.json):
            setattr(collection, key, call.json[key])
        return {"success": True, "data": collection_json(collection)}
    return collection_json(collection)


def add_item(call: Call, collection: Collection):
    kind, item_id = call.json["item"]["type"], call.json["item"]["id"]
    check_lengths(call, note=500)
    call.store.repo(kind, item_id, call.caller)
    if any((item["type"], item["id"]) == (kind, item_id) for item in collection.items):
        raise Refused(409, f"{item_id} is already in the collection")
    object_id = sha1(f"{collection.slug}{kind}{item_id}".encode()).hexdigest()[:24]
    collection.items.append({"_id": object_id, "id": item_id, "type": kind, **note_of(call)})
    return collection_json(collection)


def change_item(call: Call, collection: Collection, object_id: str):
    item = next((item for item in collection.items if item["_id"] == object_id), None)
    if item is None:
        raise Refused(404, "Item not found in the collection")
    if call.method == "DELETE":
        collection.items.remove(item)
    else:
        check_lengths(call, note=500)
        item |= note_of(call)
        if "position" in call.json:
            collection.items.remove(item)
            collection.items.insert(call.json["position"], item)
    return {"success": True}


def note_of(call: Call) -> dict:
    return {"note": {"text": call.json["note"]}} if call.json.get("note") else {}
