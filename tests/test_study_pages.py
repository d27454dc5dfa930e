"""The pages of a study in a real browser: two raters whose answers are known, to the numbers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from starlette.testclient import TestClient

from pages import Open, keep
from studies import small_study
from whyalike.apps.study.answers import read_answers
from whyalike.apps.study.counting import preferences, summarise
from whyalike.apps.study.questionnaire import LABELS, Questionnaire, read_questionnaire
from whyalike.apps.study.report import report
from whyalike.apps.study.server import LARGEST_BODY, Store, app

# What two raters think of the methods, by question: 1 is clearly the first, 5 clearly the second.
# The sums below are by hand.
THINK = {"a": [1, 1, 2, 3], "b": [1, 2, 5, 3]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "study"
    small_study(path, raters=2)
    return path


@pytest.fixture(scope="module")
def made(folder: Path) -> Questionnaire:
    return read_questionnaire(folder)


def answer_as(tab: Page, thinks: list[int]) -> list[str]:
    """Answers by what is to be seen: red pictures are the first method's. What was asked."""
    asked = []
    while tab.get_by_role("button", name=re.compile("Next|Finish")).count():
        words = tab.locator("legend").inner_text()
        alts = [
            tab.get_by_label(f"Robot {letter}", exact=True)
            .locator("img")
            .first.get_attribute("alt")
            for letter in "AB"
        ]
        if told := re.search("“(.*)”", words):
            choice = LABELS.index(told[1]) + 1
        elif alts[0] == alts[1]:
            choice = 3
        else:
            # The green of a picture, ten for each question, says which it is.
            green = (
                tab.get_by_label("Robot A", exact=True)
                .locator("img")
                .first.evaluate(
                    """(image) => { const canvas = document.createElement("canvas");
                const c = canvas.getContext("2d"); c.drawImage(image, 0, 0);
                return c.getImageData(20, 20, 1, 1).data[1] }"""
                )
            )
            wanted = thinks[round(green / 10)]
            choice = wanted if (alts[0] or "").startswith("red") else 6 - wanted
        tab.wait_for_timeout(20)
        tab.get_by_label(LABELS[choice - 1], exact=True).check()
        number = tab.locator("header .ws-soft").inner_text()
        asked.append(words)
        tab.get_by_role("button", name=re.compile("Next|Finish")).click()
        tab.wait_for_function(
            "(before) => document.querySelector('header .ws-soft')?.textContent !== before",
            arg=number,
        )
    return asked


def begin(tab: Page) -> None:
    tab.get_by_label("I have read this, and agree to take part.").check()
    tab.get_by_role("button", name="Begin").click()
    tab.wait_for_selector("legend")


def check_sums(made: Questionnaire, paths: list[Path]) -> None:
    raters = read_answers(made, paths)
    found = summarise(made, raters, fastest=0)
    assert [reason for _, reason in found.excluded] == []
    assert sorted(preferences(made, found.counted).tolist()) == [THINK["a"], THINK["b"]]
    (one,) = json.loads(report(made, found).json())["comparisons"]
    assert [(answer["count"], answer["share"]) for answer in one["answers"]] == [
        (3, 0.375), (2, 0.25), (2, 0.25), (0, 0), (1, 0.125),
    ]  # fmt: skip
    # Wilson's interval of 3 of 8, and the sign test of five against one, by hand.
    assert (one["answers"][0]["low"], one["answers"][0]["high"]) == pytest.approx(
        (0.1368, 0.6943), abs=1e-4
    )
    assert one["sign_test"]["answers"] == {"first": 5, "second": 1, "p": pytest.approx(0.21875)}
    assert one["sign_test"]["raters"] == {"first": 2, "second": 0, "p": pytest.approx(0.5)}
    assert one["mean"] == 0.75


@pytest.mark.browser
def test_two_raters_with_files(
    open_page: Open, folder: Path, made: Questionnaire, tmp_path: Path
) -> None:
    files = []
    for at, (name, thinks) in enumerate(THINK.items()):
        scheme, width = (("light", 1200), ("dark", 375))[at]
        text = (folder / "pages" / f"rater-{at + 1:02}.html").read_text()
        tab = open_page(text, width=width, color_scheme=scheme, accept_downloads=True)
        keep(tab, f"study-consent-{width}-{scheme}")
        tab.get_by_role("button", name="Begin").click()
        assert "agree" in tab.get_by_role("status").inner_text()  # nothing goes without
        begin(tab)
        keep(tab, f"study-question-{width}-{scheme}")
        tab.get_by_role("button", name="Next").click()
        assert "choose" in tab.get_by_role("status").inner_text()
        tab.keyboard.press("4")
        assert tab.get_by_label(LABELS[3], exact=True).is_checked()
        tab.reload()  # nothing is lost, and nothing has been answered yet
        begin(tab)
        assert len(answer_as(tab, thinks)) == 6
        keep(tab, f"study-end-{width}-{scheme}")
        with tab.expect_download() as download:
            tab.get_by_role("button", name="Save my answers").click()
        assert download.value.suggested_filename == f"answers-{made.id}-{at + 1}.json"
        files.append(tmp_path / f"{name}.json")
        download.value.save_as(files[-1])
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    check_sums(made, files)


@pytest.fixture
def server(folder: Path, made: Questionnaire, tmp_path: Path) -> Iterator[str]:
    store = Store(tmp_path / "answers.db", made)
    config = uvicorn.Config(app(made, folder, store), port=0, log_level="warning", lifespan="off")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join(20)
    store.close()


@pytest.mark.browser
def test_two_raters_with_the_server(
    browser: Browser, server: str, made: Questionnaire, tmp_path: Path
) -> None:
    said: list[str] = []
    for at, thinks in enumerate(THINK.values()):
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        tab = context.new_page()
        tab.on("console", lambda m: said.append(m.text))
        tab.on("request", lambda r: None if r.url.startswith(server) else said.append(r.url))
        tab.goto(server)
        begin(tab)
        if at == 0:
            tab.get_by_label(LABELS[2], exact=True).check()
            context.set_offline(True)
            tab.get_by_role("button", name="Next").click()
            tab.wait_for_selector(".ws-bad")
            assert "there is no connection" in tab.get_by_role("status").inner_text()
            assert "ERR_INTERNET_DISCONNECTED" in said.pop()  # the browser's own word for it
            context.set_offline(False)
            first = tab.locator("header .ws-soft").inner_text()
            assert first == "1 of 6"
        answer_as(tab, thinks)
        tab.wait_for_selector("text=Thank you")
        assert "saved" in tab.locator("main").inner_text()
        tab.reload()  # what is finished stays so
        tab.get_by_label("I have read this, and agree to take part.").check()
        tab.get_by_role("button", name="Begin").click()
        tab.wait_for_selector("text=Thank you")
        context.close()
    assert said == []
    check_sums(made, [tmp_path / "answers.db"])


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (1200, "dark")])
def test_axe_finds_nothing(open_page: Open, folder: Path, width: int, scheme: str) -> None:
    text = (folder / "pages" / "rater-01.html").read_text()
    tab = open_page(text, width=width, color_scheme=scheme, bypass_csp=True)
    for screen in ("consent", "question"):
        if screen == "question":
            begin(tab)
            tab.keyboard.press("2")
        found = Axe().run(tab)
        assert found.violations_count == 0, found.generate_report()
        keep(tab, f"study-{screen}-{width}-{scheme}")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_the_report_can_be_read(open_page: Open, made: Questionnaire, folder: Path) -> None:
    from studies import rater

    raters = [rater(made, name, thinks, slot) for slot, (name, thinks) in enumerate(THINK.items())]
    asleep = rater(made, "asleep <b>", THINK["a"], 0, c1=3)
    text = report(made, summarise(made, [*raters, asleep])).html()
    for width, scheme in ((375, "dark"), (1200, "light")):
        tab = open_page(text, width=width, color_scheme=scheme, bypass_csp=True)
        if scheme == "dark":
            found = Axe().run(tab)
            assert found.violations_count == 0, found.generate_report()
        keep(tab, f"study-report-{width}-{scheme}")


# ── The server, asked by strangers ───────────────────────────────────────────────────────────


@pytest.fixture
def client(folder: Path, made: Questionnaire, tmp_path: Path) -> Iterator[TestClient]:
    store = Store(tmp_path / "answers.db", made)
    yield TestClient(app(made, folder, store), base_url="http://127.0.0.1:8001")
    store.close()


def test_the_server_gives_what_it_lists_and_nothing_else(
    client: TestClient, folder: Path, made: Questionnaire
) -> None:
    page = client.get("/")
    assert "connect-src 'self'" in page.text
    assert "unsafe" not in page.text.split("<style>")[0]
    assert "theirs" not in page.text
    for name in ("x-content-type-options", "cache-control", "content-security-policy"):
        assert name in page.headers
    given = client.post("/begin", json={"consent": True}).json()
    picture = given["questions"][0]["left"][0]["src"]
    assert client.get(f"/{picture}").content == (folder / picture).read_bytes()
    for path in (
        "/study.json", "/pictures/", "/pictures/../study.json", "/pictures/%2e%2e%2fstudy.json",
        "/pictures/..%2Fstudy.json", "/pictures//etc/passwd", "/pictures/%00", "/answers.db",
        "/pictures/x.jpg", "/docs", "/begin",
    ):  # fmt: skip
        found = client.get(path)
        assert found.status_code in (404, 405), path
        assert found.json()["error"]


def test_strangers_and_nonsense_are_refused(client: TestClient, made: Questionnaire) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", ""):
        assert client.get("/", headers={"host": host}).status_code == 400
    ask = client.post
    assert ask("/begin", json={}).status_code == 422
    rater = ask("/begin", json={"consent": True}).json()["rater"]
    good = {"rater": rater, "question": "q01", "answer": 1, "seconds": 2}
    elsewhere = ask("/answer", json=good, headers={"origin": "http://evil.example"})
    assert elsewhere.status_code == 403
    assert ask("/answer", content=json.dumps(good)).status_code == 415
    for body in (b"", b"[1]", b"nothing", b"[" * 3000, b"\xff\xfe"):
        headers = {"content-type": "application/json"}
        assert ask("/answer", content=body, headers=headers).status_code == 400
    assert ask("/answer", json={**good, "more": "x" * LARGEST_BODY}).status_code == 413
    for change in (
        {"question": "q99"}, {"question": ["q01"]}, {"answer": 6}, {"answer": "1"},
        {"answer": None},
        {"seconds": "x"}, {"seconds": 1e300}, {"rater": "nobody"}, {"rater": None}, {"rater": {}},
        {"rater": "' OR 1=1 --"},
    ):  # fmt: skip
        found = ask("/answer", json={**good, **change})
        assert found.status_code == 422, change
        assert "Traceback" not in found.text
    assert ask("/finish", json={"rater": rater}).status_code == 422
    assert ask("/answer", json=good).json() == {"saved": True}
    again = ask("/begin", json={"consent": True, "rater": rater}).json()
    assert again["answers"] == {"q01": {"answer": 1, "seconds": 2.0}}
    assert (again["slot"], again["finished"]) == (0, False)
    other = ask("/begin", json={"consent": True, "rater": "of a database that is gone"}).json()
    assert (other["slot"], other["answers"]) == (1, {})


def test_elsewhere_than_here_a_key_is_needed(
    folder: Path, made: Questionnaire, tmp_path: Path
) -> None:
    store = Store(tmp_path / "a.db", made)
    open_ = TestClient(
        app(made, folder, store, hosts=["study.example.org"], key="secret"),
        base_url="http://study.example.org",
    )
    for key in ({}, {"key": ""}, {"key": "other"}, {"key": None}, {"key": "ä"}):
        assert open_.post("/begin", json={"consent": True, **key}).status_code == 403
    assert open_.post("/begin", json={"consent": True, "key": "secret"}).status_code == 200
    store.close()


def test_a_server_that_is_killed_has_what_it_said_was_saved(
    folder: Path, made: Questionnaire, tmp_path: Path
) -> None:
    import urllib.request

    answers = tmp_path / "answers.db"
    command = [sys.executable, "-m", "whyalike", "study", "run", str(folder), "--port", "0",
               "--answers", str(answers)]  # fmt: skip

    def ask(address: str, path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as found:
            return json.loads(found.read())

    for stop in (signal.SIGKILL, signal.SIGTERM):
        running = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        assert running.stdout is not None
        address = running.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        rater = ask(address, "begin", consent=True)["rater"]
        ask(address, "answer", rater=rater, question="q02", answer=5, seconds=1)
        running.send_signal(stop)
        running.wait(30)
        running.stdout.close()
    found = read_answers(made, [answers])
    assert [(one.slot, one.answers["q02"].answer) for one in found] == [(0, 5), (1, 5)]
