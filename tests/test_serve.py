"""The server: what it answers is what the gallery says, whoever asks, and nothing else is given."""

from __future__ import annotations

import base64
import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import whyalike as wa
from galleries import HEADS, photographs, picture
from serving import Client, png, serving
from whyalike.errors import WhyalikeError
from whyalike.viewer.server import room
from whyalike.viewer.server.app import Bounds
from whyalike.viewer.server.asked import RefusedError, mask_of
from whyalike.viewer.server.guard import access_to
from whyalike.viewer.server.kept import Kept
from whyalike.viewer.server.running import serve

COUNT = 14
BOX = [5.0, 3.0, 25.0, 20.0]
BOUNDS = Bounds(upload_bytes=40_000, upload_pixels=90_000, body_bytes=20_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, and the gallery of them."""
    made = tmp_path_factory.mktemp("serve")
    photographs(made / "photos", COUNT)
    wa.Gallery.build(HEADS["mean"](), made / "photos", made / "photos.lance")
    return made


@pytest.fixture(scope="module")
def gallery(folder: Path) -> wa.Gallery:
    """The same, without a server."""
    return wa.Gallery.open(folder / "photos.lance", HEADS["mean"]())


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    """Of a server of it."""
    with serving(folder / "photos.lance", HEADS["mean"], bounds=BOUNDS) as made:
        yield made


def maps_of(answer: dict[str, Any]) -> np.ndarray:
    array = np.frombuffer(base64.b64decode(answer["values"]), "<f4")
    return array.reshape(answer["grid_hw"])


# ── What it answers ──────────────────────────────────────────────────────────────────────────

ASKED = {
    "whole": {},
    "box": {"boxes": [BOX]},
    "point and less": {"points": [[30, 10]], "without": [[0, 0, 10, 10]]},
    "two and a condition": {"boxes": [BOX, [30, 5, 45, 25]], "where": "label <> 'a'"},
    "mask": {"masks": [{"size_wh": [10, 6], "runs": [12, 5, 5, 5, 33]}]},
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_rankings_are_those_of_the_gallery(
    client: Client, gallery: wa.Gallery, asked: dict[str, Any]
) -> None:
    made = client.ask("/api/uploads?name=query.png", png(picture(77)))
    assert made.status == 200, made.content
    found = client.ask("/api/search", {"query": made.json()["query"], **asked, "k": 6})
    assert found.status == 200, found.content
    said = found.json()
    mask = None
    if "masks" in asked:
        small = mask_of(asked["masks"][0])
        mask = np.kron(small, np.ones((5, 5)))  # of the query's 50×30 pixels
    expected = gallery.search(
        picture(77), asked.get("boxes"), asked.get("points"), mask,
        without=asked.get("without"), where=asked.get("where"), k=6,
    )  # fmt: skip
    whole = gallery.search(picture(77), where=asked.get("where"), k=6)
    assert [said["photos"][hit["photo"]]["id"] for hit in said["hits"]] == [h.id for h in expected]
    for hit, by in zip(said["hits"], expected, strict=True):
        assert (hit["rank"], hit["other"]) == (by.rank, by.rank_without_region)
        assert hit["score"] == pytest.approx(by.score, abs=1e-6)
        assert hit["similarity"] == pytest.approx(by.whole, abs=1e-6)
        assert hit["query_bias"] == pytest.approx(by.query_bias, abs=1e-6)
    others = [said["photos"][hit["photo"]]["id"] for hit in said["by_whole"]]
    assert others == ([] if said["whole"] else [h.id for h in whole])
    assert said["whole"] == (asked == {})


def test_a_photograph_of_the_gallery_is_searched_by_what_is_kept(
    client: Client, gallery: wa.Gallery
) -> None:
    one = gallery.browse(3, 1)[0]
    query = {"query": {"photo": one.id}}
    shown = client.ask("/api/query", query).json()
    assert (shown["name"], shown["grid_hw"]) == (Path(one.path).name, [3, 5])
    found = client.ask("/api/search", {**query, "boxes": [BOX], "k": COUNT}).json()
    kept = gallery.contributions([one])[0]
    expected = gallery.search(kept, BOX, k=COUNT)
    assert [found["photos"][h["photo"]]["id"] for h in found["hits"]] == [h.id for h in expected]
    asked = {**query, "boxes": [BOX], "photos": [h.id for h in expected]}
    mapped = client.ask("/api/maps", asked).json()["maps"]
    for hit in expected:
        values = maps_of(mapped[hit.id])
        assert values == pytest.approx(gallery.region_map(hit).numpy(), abs=1e-6)


def test_pairs_and_contrasts_are_those_of_the_gallery(client: Client, gallery: wa.Gallery) -> None:
    one, a, b = gallery.browse(0, 3)
    query = {"query": {"photo": one.id}, "boxes": [BOX]}
    x, ya, yb = gallery.contributions([one, a, b])
    expected = wa.contrast(x, ya, yb)
    pair = client.ask("/api/pair", {**query, "photo": a.id}).json()
    assert pair["similarity"] == pytest.approx(expected.pairs[0].similarity, abs=1e-6)
    assert pair["reference"]["src"] == f"/api/photos/{a.id}/picture?size=1280"
    said = client.ask("/api/contrast", {**query, "photos": [a.id, b.id]}).json()
    assert said["difference"] == pytest.approx(expected.difference, abs=1e-6)
    assert maps_of(said["query"]["map"]) == pytest.approx(expected.map().numpy(), abs=1e-6)
    assert maps_of(said["photos"][1]["map"]) == pytest.approx(expected.maps()[1].numpy(), abs=1e-6)
    carried = maps_of(said["query"]["map"]).sum() + said["bias"]
    assert carried == pytest.approx(said["difference"], abs=1e-5)
    u = x.within(BOX) / x.length
    by_region = u @ (ya.embedding / ya.length - yb.embedding / yb.length)
    assert said["region"] == pytest.approx(float(by_region), abs=1e-6)


def test_pages_and_conditions(client: Client, gallery: wa.Gallery) -> None:
    every = client.photos()
    assert [one["id"] for one in every] == [one.id for one in gallery.browse(0, 200)]
    page = client.ask("/api/photos?offset=5&limit=3").json()
    assert page["total"] == COUNT
    assert page["photos"] == every[5:8]
    some = client.ask("/api/photos?where=label%20=%20%27a%27").json()
    assert some["total"] == sum(["label", "a"] in one["fields"] for one in every) == 5
    assert client.ask(f"/api/photos/{every[2]['id']}").json() == every[2]
    about = client.ask("/api/gallery").json()
    assert (about["images"], about["maps"], about["columns"]) == (
        COUNT, "full", {"path": "string", "label": "string"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "where",
    ["label =", "nothing = 1", "'", "1", "label", "embedding > 3", "maps = 1", "; drop table x",
     "regexp_like(label, '(')", "1/0 = 1", "label = 'a' and", "\u0000", "id = id()", "(" * 500],
)  # fmt: skip
def test_a_bad_condition_is_answered_by_one_line(client: Client, where: str) -> None:
    one = client.photos()[0]["id"]
    found = client.ask("/api/search", {"query": {"photo": one}, "where": where})
    assert found.status == 422, (where, found.content)
    assert "\n" not in found.json()["error"]
    assert ".rs" not in found.json()["error"]
    assert "is no condition on the columns path, label" in found.json()["error"]


def test_bad_questions_are_answered_by_one_line(client: Client) -> None:
    one = client.photos()[0]["id"]
    query = {"query": {"photo": one}}
    for path, body, status, words in [
        ("/api/search", {}, 400, "query is"),
        ("/api/search", {"query": {"photo": "../../etc/passwd"}}, 400, "32 digits"),
        ("/api/search", {"query": {"photo": "0" * 32}}, 404, "no such photograph"),
        ("/api/search", {"query": {"upload": "0" * 32}}, 404, "no longer held"),
        ("/api/search", {**query, "boxes": [[1, 2, 3]]}, 400, "a box is"),
        ("/api/search", {**query, "boxes": [[5, 5, 5, 9]]}, 422, "x1 < x2"),
        ("/api/search", {**query, "boxes": [[500, 500, 900, 900]]}, 422, "outside"),
        ("/api/search", {**query, "points": [[True, 1]]}, 400, "a point is"),
        ("/api/search", {**query, "points": [[1e300, 1]]}, 400, "a point is"),
        ("/api/search", {**query, "boxes": [BOX] * 33}, 400, "at most 32"),
        ("/api/search", {**query, "masks": [{"size_wh": [4, 4], "runs": [9]}]}, 400, "add up"),
        ("/api/search", {**query, "masks": [{"size_wh": [9**9, 4], "runs": []}]}, 400, "side"),
        ("/api/search", {**query, "masks": [{"size_wh": [4, 4], "runs": [16]}]}, 422, "mask"),
        ("/api/search", {**query, "k": 10**9}, 400, "k is"),
        ("/api/search", {**query, "where": 3}, 400, "where is"),
        ("/api/pair", query, 400, "32 digits"),
        ("/api/contrast", {**query, "photos": [one, one]}, 400, "two ids"),
        ("/api/search", b'{"query": NaN}', 415, "application/json"),
        ("/api/uploads", b"GIF89a", 422, "damaged"),
    ]:
        found = client.ask(path, body)
        assert found.status == status, (body, found.content)
        assert words in found.json()["error"], (body, found.content)
    for content in (b"", b"[]", b"{", b'{"query": NaN}', b"\xff", b"[" * 19_000):
        found = client.ask("/api/search", content, headers={"Content-Type": "application/json"})
        assert found.status == 400, content[:20]


# ── Who is answered ──────────────────────────────────────────────────────────────────────────


def test_only_its_own_names_are_answered(client: Client) -> None:
    good = ["localhost", "127.0.0.1", f"localhost:{client.port}", "[::1]:8000", "LOCALHOST"]
    bad = ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "10.0.0.7",
           "localhost\nlocalhost", "localhost:x", "[::1", "evil.example:8000"]  # fmt: skip
    for host, status in [*((one, 200) for one in good), *((one, 403) for one in bad)]:
        found = client.ask("/api/gallery", headers={"Host": host})
        assert found.status in (status, 400 if status == 403 else 200), (host, found.content)
        assert b"images" not in found.content or status == 200


def test_other_sites_are_not_answered(client: Client) -> None:
    one = client.photos()[0]["id"]
    body = {"query": {"photo": one}}
    own = f"http://127.0.0.1:{client.port}"
    for headers, status in [
        ({"Origin": own}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://127.0.0.1:{client.port + 1}"}, 403),
        ({"Origin": own.replace("http:", "https:")}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": own}, 200),
    ]:
        assert client.ask("/api/search", body, headers=headers).status == status, headers
    crossing = {"Sec-Fetch-Site": "cross-site"}
    picture_of = f"/api/photos/{one}/picture"
    assert client.ask(picture_of, headers={**crossing, "Sec-Fetch-Dest": "image"}).status == 403
    assert client.ask("/", headers={**crossing, "Sec-Fetch-Mode": "navigate"}).status == 200
    assert client.ask("/", headers=crossing).status == 403


def test_every_answer_has_a_strict_policy(client: Client) -> None:
    one = client.photos()[0]["id"]
    for path in ("/", "/static/serve.js", "/api/gallery", f"/api/photos/{one}/picture", "/nothing"):
        headers = client.ask(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_a_token_is_asked_for(folder: Path) -> None:
    token = "a-token-of-the-tests"
    with serving(folder / "photos.lance", HEADS["mean"], token=token) as made:
        stranger = Client(made.address)
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Bearer {token[:-1]}"},
            {"Authorization": f"Basic {token}"},
            {"Cookie": f"whyalike-{made.port}=wrong"},
            {"Cookie": f"whyalike-1={token}"},
            {"Cookie": 'a="'},
            {"Authorization": "Bearer \xe9"},
        ):
            for path in ("/", "/api/gallery", "/static/serve.js", "/api/openapi.json"):
                found = stranger.ask(path, headers=headers)
                assert found.status == 401, (path, headers)
        assert made.ask("/api/gallery").status == 200
        assert stranger.ask("/?token=wrong").status == 401
        welcome = stranger.ask(f"/?token={token}")
        assert (welcome.status, welcome.headers["location"]) == (303, "/")
        cookie = welcome.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        given = cookie.partition(";")[0]
        assert stranger.ask("/", headers={"Cookie": given}).status == 200
        assert stranger.ask("/", headers={"Cookie": given, "Host": "evil.example"}).status == 403


def test_other_machines_are_let_in_by_a_token_alone(folder: Path) -> None:
    path = folder / "photos.lance"
    made = serve(lambda: wa.Gallery.open(path), HEADS["mean"], host="0.0.0.0", port=0)
    made.bound.close()
    assert made.token is not None
    assert len(made.token) >= 32
    assert made.address.endswith(f"?token={made.token}")
    access = access_to("0.0.0.0", 8000, made.token, frozenset({"gallery.example"}))
    for host in ("192.168.0.4:8000", "gallery.example", "[fe80::1]:8000"):
        assert access.knows(host)
    for host in ("evil.example", "192.168.0.4.evil.example", "192.168.0"):
        assert not access.knows(host)
    alone = access_to("127.0.0.2", 8000, None, frozenset())
    assert alone.knows("127.0.0.2:8000")
    assert not alone.knows("192.168.0.4:8000")


# ── What is given ────────────────────────────────────────────────────────────────────────────


def test_no_path_leads_anywhere_else(client: Client, folder: Path) -> None:
    secret = folder / "secret.txt"
    secret.write_text("a secret")
    one = client.photos()[0]
    paths = [
        "/static/../server/app.py", "/static/%2e%2e/server/app.py", "/static/..%2fserver%2fapp.py",
        "/static/%00", "/static/serve.js%00.png", "/static//etc/passwd", "//etc/passwd",
        "/static/..\\..\\app.py", "/static/serve.html", "/static/%c0%ae%c0%ae/app.py",
        f"/api/photos/{secret}/picture", f"/api/photos/{str(secret).replace('/', '%2f')}/picture",
        "/api/photos/..%2f..%2fsecret.txt/picture", "/api/photos/%00/picture",
        f"/api/photos/{one['id']}%00/picture", f"/api/photos/{one['id']}/../secret.txt",
        f"/api/photos/{one['id'].upper()}/picture", f"/api/photos/{one['path']}",
        "/api/uploads/../photos", "/etc/passwd", "/%2fetc%2fpasswd", "/.env", "/api",
    ]  # fmt: skip
    for path in paths:
        found = client.ask(path)
        assert 400 <= found.status < 500, path
        assert b"secret" not in found.content.replace(path.encode(), b"")
        assert b"import" not in found.content
    assert client.ask(f"/api/photos/{one['id']}/picture?size=99999").status == 400
    assert client.ask("/api/gallery", b"x", method="DELETE").status == 405


def test_pictures_are_made_anew(client: Client) -> None:
    one = client.photos()[0]
    found = client.ask(f"/api/photos/{one['id']}/picture?size=240")
    assert found.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(found.content)) as shown:
        assert shown.size == tuple(one["size_wh"])
        assert not shown.getexif()


def test_only_what_was_indexed_is_shown(tmp_path: Path) -> None:
    """Not what has come into its place, by a link out of the folder or otherwise."""
    files = photographs(tmp_path / "photos", 4)
    outside = tmp_path / "outside.png"
    picture(99, (64, 64)).save(outside)
    wa.Gallery.build(HEADS["mean"](), tmp_path / "photos", tmp_path / "g.lance")
    with serving(tmp_path / "g.lance", HEADS["mean"]) as client:
        photos = {one["path"]: one["id"] for one in client.photos()}
        ids = [photos[str(file)] for file in files]
        assert client.ask(f"/api/photos/{ids[0]}/picture").status == 200  # and kept
        files[0].unlink()
        files[0].symlink_to(outside)
        files[1].unlink()
        files[2].unlink()
        os.mkfifo(files[2])
        for file, words in ((ids[0], "has changed"), (ids[1], "no such file"), (ids[2], "regular")):
            found = client.ask(f"/api/photos/{file}/picture")
            assert (found.status, words in found.json()["error"]) == (410, True), found.content
        missing = [one["id"] for one in client.photos() if one["missing"]]
        assert sorted(missing) == sorted(ids[:3])
        # What was kept of them is searched by and explained all the same.
        query = {"query": {"photo": ids[1]}}
        assert client.ask("/api/search", query).status == 200
        assert client.ask("/api/query", query).json()["missing"]
        pair = client.ask("/api/pair", {**query, "photo": ids[0]}).json()
        assert pair["reference"]["src"].startswith("data:image/jpeg;base64,")
        page = client.ask("/api/page", {**query, "photo": ids[3]})
        assert page.status == 200


def test_a_link_that_was_indexed_is_followed(tmp_path: Path) -> None:
    file = photographs(tmp_path / "elsewhere", 1)[0]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "link.png").symlink_to(file)
    wa.Gallery.build(HEADS["mean"](), tmp_path / "photos", tmp_path / "g.lance")
    with serving(tmp_path / "g.lance", HEADS["mean"]) as client:
        assert client.ask(f"/api/photos/{client.photos()[0]['id']}/picture").status == 200


_WRITTEN: list[str] = []
_WATCHING = threading.Event()


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _WATCHING.is_set() or event not in ("open", "os.mkdir", "tempfile.mkstemp"):
        return
    flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else os.O_WRONLY
    if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        _WRITTEN.append(f"{event} {arguments}")


def test_uploads_are_never_written(client: Client) -> None:
    sys.addaudithook(_watch)
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    _WATCHING.set()
    made = client.ask("/api/uploads?name=x.png", png(Image.fromarray(noise)))
    _WATCHING.clear()
    assert made.status == 200
    assert _WRITTEN == []
    with Image.open(io.BytesIO(client.ask(made.json()["src"]).content)) as shown:
        assert shown.size == (120, 90)


def test_uploads_are_capped(client: Client) -> None:
    large = png(Image.new("RGB", (400, 300)))  # few bytes, many pixels
    assert len(large) < BOUNDS.upload_bytes
    found = client.ask("/api/uploads", large)
    assert (found.status, "more than 90,000" in found.json()["error"]) == (422, True)
    assert client.ask("/api/uploads", b"\0" * 40_001).status == 413
    unending = (b"\0" * 1000 for _ in range(10**6))  # of a length that nobody tells
    assert client.ask("/api/uploads", unending).status == 413
    assert client.ask("/api/search", {"query": "x" * 20_001}).status == 413


# ── The state of things ──────────────────────────────────────────────────────────────────────


def test_a_gallery_is_looked_at_while_its_model_loads_or_cannot(folder: Path) -> None:
    go = threading.Event()

    def slowly() -> wa.EmbeddingModel:
        go.wait(20)
        raise WhyalikeError("no such network; name another")

    with serving(folder / "photos.lance", slowly) as client:
        about = client.ask("/api/gallery").json()
        assert (about["model"], about["problem"]) == ("loading", None)
        one = client.photos()[0]["id"]
        assert client.ask("/api/search", {"query": {"photo": one}}).status == 200
        with ThreadPoolExecutor(4) as pool:  # these wait for it, and keep nobody else waiting
            waiting = [pool.submit(client.ask, "/api/uploads", png(picture(n))) for n in range(3)]
            for _ in range(5):
                assert client.ask("/api/search", {"query": {"photo": one}}).status == 200
                assert client.ask("/api/gallery").json()["model"] == "loading"
            assert not any(asked.done() for asked in waiting)
            go.set()
            found = next(asked.result() for asked in waiting)
        assert (found.status, "no such network" in found.json()["error"]) == (409, True)
        about = client.ask("/api/gallery").json()
        assert about["model"] == "failed"
        assert "no such network; name another" in about["problem"]
    with serving(folder / "photos.lance", HEADS["max"]) as client:
        found = client.ask("/api/uploads", png(picture(77)))
        assert (found.status, "another model" in found.json()["error"]) == (409, True)


def test_the_network_is_loaded_when_a_page_has_been_shown_or_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FIRST_PAGE", 0.01)
    loads: list[float] = []

    def load() -> wa.EmbeddingModel:
        loads.append(time.monotonic())
        return HEADS["mean"]()

    for ask in (room.Room.want_model, lambda one: one.page(0, 10, None)):
        loads.clear()
        one = room.Room(lambda: wa.Gallery.open(folder / "photos.lance"), load, 90_000)
        assert (one.is_loading, one.model_state) == (False, ("loading", None))
        ask(one)
        assert one.model.result(30) is one.gallery.model
        assert len(loads) == 1


def test_it_leaves_at_once_while_the_network_is_being_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    begun, go = threading.Event(), threading.Event()

    def slowly() -> wa.EmbeddingModel:
        begun.set()
        go.wait(20)
        return HEADS["mean"]()

    made = serve(lambda: wa.Gallery.open(folder / "photos.lance"), slowly, port=0)
    made.bound.close()
    made.leave()
    assert left == []
    made.room.want_model()
    assert begun.wait(20)
    made.leave()
    assert left == [0]
    go.set()
    made.room.model.result(30)
    while made.room.is_loading:
        time.sleep(0.01)
    made.leave()
    assert left == [0]


def test_what_others_change_is_seen(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 3)
    made = wa.Gallery.build(HEADS["mean"](), tmp_path / "photos", tmp_path / "g.lance")
    with serving(tmp_path / "g.lance", HEADS["mean"]) as client:
        upload = client.ask("/api/uploads", png(picture(77))).json()["query"]
        assert len(client.ask("/api/search", {"query": upload}).json()["hits"]) == 3
        photographs(tmp_path / "photos", 5)
        made.add(tmp_path / "photos")
        gone = client.photos()[0]
        made.remove([gone["path"]])
        assert client.ask("/api/gallery").json()["images"] == 4
        found = client.ask("/api/search", {"query": upload}).json()
        assert len(found["hits"]) == 4
        assert client.ask("/api/search", {"query": {"photo": gone["id"]}}).status == 404
        ids = [one["id"] for one in found["photos"]]
        assert client.ask("/api/maps", {"query": upload, "photos": ids}).status == 200


def test_a_gallery_without_maps_is_searched(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 4)
    made = wa.Gallery.build(HEADS["mean"](), tmp_path / "photos", tmp_path / "g.lance", maps="none")
    with serving(tmp_path / "g.lance", HEADS["mean"]) as client:
        one = client.photos()[1]
        query = {"query": {"photo": one["id"]}, "boxes": [BOX]}
        found = client.ask("/api/search", query).json()
        expected = made.search(one["path"], BOX, k=20)
        assert [found["photos"][h["photo"]]["id"] for h in found["hits"]] == [
            h.id for h in expected
        ]
        refused = client.ask("/api/pair", {**query, "photo": one["id"]})
        assert (refused.status, "--maps full" in refused.json()["error"]) == (409, True)


def test_too_many_at_once_are_turned_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(
        "whyalike.viewer.server.room.Room.page", lambda *_: go.wait(20) and {"photos": []}
    )
    bounds = Bounds(waiting=6)
    with (
        serving(folder / "photos.lance", HEADS["mean"], bounds=bounds) as client,
        ThreadPoolExecutor(12) as pool,
    ):
        asked = [pool.submit(client.ask, "/api/photos") for _ in range(12)]
        while sum(one.done() for one in asked) < 6:
            time.sleep(0.01)
        assert client.ask("/static/serve.js").status == 200  # what takes no thread is there
        go.set()
        statuses = sorted(one.result().status for one in asked)
    assert statuses == [200] * 6 + [503] * 6


def test_what_goes_wrong_is_one_line_and_not_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        """As pyo3's, of a library that was not prepared for what came."""

    for error in (ZeroDivisionError("at home"), Panic("far away")):

        def fail(*_: Any, error: BaseException = error) -> None:
            raise error

        with (
            monkeypatch.context() as patch,
            serving(folder / "photos.lance", HEADS["mean"]) as client,
        ):
            patch.setattr("whyalike.viewer.server.room.Room.photo", fail)
            found = client.ask(f"/api/photos/{'0' * 32}")
            assert found.status == 500
            assert "at home" not in found.json()["error"]
            assert "content-security-policy" in found.headers
            assert client.ask("/api/gallery").status == 200


def crowd(client: Client, seconds: float) -> int:
    """Twenty clients that look around at once; how many answers there were."""
    ids = [one["id"] for one in client.photos()]
    end = time.monotonic() + seconds

    def one(number: int) -> int:
        random, count = np.random.default_rng(number), 0
        while time.monotonic() < end:
            photo = ids[random.integers(len(ids))]
            x, y = random.uniform(0, 20, 2)
            query = {"query": {"photo": photo}, "boxes": [[x, y, x + 12, y + 8]]}
            upload = png(picture(int(random.integers(100, 200)))) if count % 5 == 0 else None
            for path, body in [
                ("/api/photos?limit=20", None),
                (f"/api/photos/{photo}/picture", None),
                ("/api/search", query),
                ("/api/maps", {**query, "photos": ids[:6]}),
                ("/api/pair", {**query, "photo": ids[0]}),
                *([("/api/uploads", upload)] if upload else []),
            ]:
                found = client.ask(path, body)
                # Uploads that come all at once are told to come again.
                assert found.status == 200 or (path, found.status) == ("/api/uploads", 503)
                count += 1
        return count

    with ThreadPoolExecutor(20) as pool:
        return sum(pool.map(one, range(20)))


def held() -> int:
    """Bytes that this process holds itself."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(1, id="a while"), pytest.param(60, id="a minute", marks=pytest.mark.slow)],
)
def test_twenty_at_once(client: Client, seconds: float) -> None:
    crowd(client, 0.3)  # threads and caches have come
    before = held()
    assert crowd(client, seconds) > 20 * seconds
    assert held() - before < 100 * 2**20


def test_what_is_kept_is_bounded() -> None:
    kept: Kept[int, bytes] = Kept(10, len)
    for number in range(5):
        kept.put(number, b"1234")
    assert [kept.get(number) for number in range(5)] == [None, None, None, b"1234", b"1234"]
    kept.get(3)
    kept.put(9, b"12")
    assert (len(kept), kept.get(4), kept.get(9)) == (3, b"1234", b"12")
    kept.put(7, b"1" * 50)  # alone
    assert (len(kept), kept.get(7)) == (1, b"1" * 50)
    kept.put(7, b"1")
    kept.put(8, b"1" * 9)
    assert len(kept) == 2


def test_masks_are_read() -> None:
    mask = mask_of({"size_wh": [3, 2], "runs": [1, 2, 0, 0, 3]})
    assert mask.tolist() == [[False, True, True], [False, False, False]]
    with pytest.raises(RefusedError, match="add up"):
        mask_of({"size_wh": [3, 2], "runs": [1]})
    assert torch.get_num_threads() >= 1
