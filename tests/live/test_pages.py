"""The pages in Debian's Chromium: what a person sees and can do, and what nobody can do to them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from gateway.identity import service, tokens
from site_adapters.types import Attributes
from tests.builders import Gateway, local_site, make_gateway, served

HOSTILE = "<img src=x onerror=document.title='taken'> & \"q\" é😀"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.fixture
def gateway(tmp_path: Path, _sqlite_template: Path) -> Gateway:
    shutil.copyfile(_sqlite_template, tmp_path / "penstock.sqlite")
    return make_gateway(tmp_path, f"sqlite:///{tmp_path / 'penstock.sqlite'}", local_site(tmp_path))


@pytest.fixture
def page(browser: Browser, gateway: Gateway) -> Iterator[Page]:
    """A fresh browser before the sign-in page; whatever it complains of on its console fails the test."""
    complaints: list[str] = []
    with served(gateway.services) as url:
        context = browser.new_context(base_url=url, locale="en-GB")
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto("/")
        yield page
        context.close()
    assert [c for c in complaints if "the server responded with a status of 4" not in c] == []


def sign_in(page: Page, secret: str) -> None:
    page.get_by_label("Your personal token").fill(secret)
    page.get_by_role("button", name="Sign in").click()


def test_person_signs_in_and_finds_a_job_with_its_script_and_charge(page: Page, gateway: Gateway) -> None:
    job_id = gateway.submit("local", "#!/bin/sh\nsleep 1\n", name="first light")
    gateway.until(job_id, "completed")
    gateway.charged(job_id)

    sign_in(page, gateway.secret)
    page.get_by_role("link", name="first light").click()

    heading = page.get_by_role("heading", level=1)
    assert heading.inner_text().split() == ["first", "light", "completed"]
    assert "sleep 1" in page.locator("pre").inner_text()
    assert "CNY" in page.get_by_role("table").first.inner_text()


def test_wrong_token_is_refused_and_the_right_one_is_out_of_reach_of_scripts(page: Page, gateway: Gateway) -> None:
    sign_in(page, "pst_" + "x" * 43)
    assert page.get_by_role("alert").inner_text()
    assert page.url.endswith("/login")

    sign_in(page, gateway.secret)

    page.wait_for_url("**/jobs")
    assert "penstock_token" not in page.evaluate("document.cookie")
    assert gateway.secret not in page.content()
    page.get_by_role("button", name="Sign out").click()
    page.goto("/jobs")
    assert page.url.endswith("/login")


def test_job_is_held_released_and_canceled_by_its_buttons(page: Page, gateway: Gateway) -> None:
    job_id = gateway.submit("local", "#!/bin/sh\nsleep 60\n", attributes=Attributes(duration=600, submit_as_hold=True))
    gateway.until(job_id, "held")
    sign_in(page, gateway.secret)
    page.goto(f"/jobs/{job_id}")

    page.get_by_role("button", name="Release").click()
    gateway.until(job_id, "active")
    page.reload()
    page.get_by_role("button", name="Cancel").click()
    gateway.until(job_id, "canceled")
    page.reload()

    assert "canceled" in page.get_by_role("heading", level=1).inner_text()
    assert page.get_by_role("button", name="Cancel").count() == 0


def test_text_of_others_is_shown_and_never_obeyed(page: Page, gateway: Gateway) -> None:
    job_id = gateway.submit(
        "local", f"#!/bin/sh\n# {HOSTILE}</pre><script>document.title='taken'</script>\n", name=HOSTILE
    )
    gateway.tick("dispatch")
    sign_in(page, gateway.secret)

    page.wait_for_url("**/jobs")
    assert page.get_by_role("link", name=HOSTILE).count() == 1
    page.goto(f"/jobs/{job_id}")

    assert HOSTILE in page.get_by_role("heading", level=1).inner_text()
    assert HOSTILE in page.locator("pre").inner_text()
    assert page.title() != "taken"
    assert page.locator("img, script").count() == 0


def test_stranger_is_told_in_a_page_that_there_is_no_such_job(page: Page, gateway: Gateway) -> None:
    job_id = gateway.submit("local")
    now = gateway.services.clock()
    with gateway.services.db.write() as conn:
        mallory = service.create_user(conn, name="mallory", now=now)
        made = tokens.issue(conn, user_id=mallory, name="t", scopes=tokens.SCOPES, lifetime=timedelta(days=1), now=now)
    sign_in(page, made.secret)
    page.wait_for_url("**/jobs")
    assert "No jobs yet." in page.content()

    answer = page.goto(f"/jobs/{job_id}")

    assert answer is not None and answer.status == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert job_id in page.get_by_role("alert").inner_text()


def test_form_of_another_site_moves_nothing(page: Page, gateway: Gateway) -> None:
    job_id = gateway.submit("local")
    sign_in(page, gateway.secret)
    page.wait_for_url("**/jobs")
    target = page.url.removesuffix("/jobs") + f"/jobs/{job_id}/cancel"
    stranger = target.replace("127.0.0.1", "localhost")  # same port, another site: the cookie stays behind

    page.goto("about:blank")
    page.set_content(f"<form method=post action={target}><button>prize</button></form>")
    with page.expect_navigation():
        page.get_by_role("button", name="prize").click()
    assert page.get_by_role("alert").inner_text()
    page.goto(stranger.removesuffix(f"/{job_id}/cancel"))

    assert page.url.endswith("/login")
    assert gateway.state(job_id) == "new"


def test_chinese_is_a_click_away_and_stays(page: Page, gateway: Gateway) -> None:
    page.get_by_role("link", name="中文").click()
    assert page.get_by_role("button", name="登录").is_visible()

    page.get_by_label("您的个人令牌").fill(gateway.secret)
    page.get_by_role("button", name="登录").click()
    page.wait_for_url("**/jobs")

    assert page.get_by_role("heading", name="作业").is_visible()
    assert page.locator("html").get_attribute("lang") == "zh-Hans"


def test_the_reference_of_the_api_is_drawn_from_our_own_files(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/docs")
    page.get_by_text("/api/v2/jobs", exact=True).first.wait_for()
    assert len(asked) >= 4
    assert {urlsplit(url).netloc for url in asked if url.startswith("http")} == {urlsplit(page.url).netloc}


def test_names_of_others_neither_hide_nor_widen_the_page(page: Page, gateway: Gateway) -> None:
    """A name of 255 signs made the list 3,019 px wide; one of spaces alone was a link that nobody could click."""
    page.set_viewport_size({"width": 360, "height": 640})
    unseen = gateway.submit("local", name=" \u200b ")
    turned = gateway.submit("local", name="turned \u202eround")
    long = gateway.submit("local", name="x" * 255)
    gateway.tick("dispatch")
    sign_in(page, gateway.secret)
    page.wait_for_url("**/jobs")

    assert page.get_by_role("link", name=unseen).is_visible()
    assert page.get_by_role("link", name="turned round").is_visible()
    for path in ("/jobs", f"/jobs/{long}", f"/jobs/{turned}"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_nobody_is_signed_in_by_a_form_of_another_site(page: Page, gateway: Gateway) -> None:
    page.goto("/login")
    target = page.url
    page.goto("about:blank")
    page.set_content(f"<form method=post action={target}><input name=token value={gateway.secret}><button>go</button>")
    with page.expect_navigation():
        page.get_by_role("button", name="go").click()

    assert page.get_by_role("alert").inner_text()
    assert page.context.cookies() == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"Origin": "https://gate.example", "Sec-Fetch-Site": "same-origin"}, 303),  # a proxy calls us otherwise
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_signing_in_asks_the_browser_whose_form_it_is(gateway: Gateway, headers: dict[str, str], status: int) -> None:
    with served(gateway.services) as url:
        answer = httpx.post(f"{url}/login", data={"token": gateway.secret}, headers=headers)

    assert answer.status_code == status
    assert ("set-cookie" in answer.headers) is (status == 303)


def test_who_goes_back_after_signing_out_sees_nothing(page: Page, gateway: Gateway) -> None:
    job_id = gateway.submit("local", name="secret wind")
    sign_in(page, gateway.secret)
    page.wait_for_url("**/jobs")
    page.goto(f"/jobs/{job_id}")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")

    page.go_back()

    assert "secret wind" not in page.content()
