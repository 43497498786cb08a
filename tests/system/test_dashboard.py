"""The dashboard in Debian's Chromium: as people look at it, read it to themselves and use it by keyboard."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from dashboard_browser import Ground, ground, needs_chromium, until, violations
from time_limits import LONG_S

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), needs_chromium]  # a fifth of that where 30 others are busy
WIDTHS = (380, 1280, 2560)
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script> "


async def busy(at: Ground) -> None:
    """Models in several states, tasks that run and wait, one that has failed, a lease and a quota."""
    from inferd_api.v1.quota_pb2 import Quota  # noqa: PLC0415
    from inferd_client.claims import cores, memory  # noqa: PLC0415

    for name in ("chat", "writer"):
        await at.add_model(name, step_s=0.5)
    await at.add_model("slow", load_s=600.0)
    await at.add_model("broken", load_error="weights are missing")
    await at.add_model("a-model-with-a-rather-long-name-as-some-have-them-q4_k_m")
    for number in range(12):
        await at.client.create_task(("chat", "writer")[number % 2], EVIL, max_tokens=900, ignore_eos=True)
    await at.client.create_task("slow", "waits", priority="low")
    await at.client.create_lease(memory(300 << 20), cores(1), ttl_s=600)
    await at.client.create_quota(Quota(tenants="*", tokens_per_minute=1_000_000, tasks=100))
    ended = await at.client.create_task("a-model-with-a-rather-long-name-as-some-have-them-q4_k_m", "short")
    async for _ in at.client.watch(ended.task_id):
        pass


async def shown(page: Any, rows: int = 10) -> None:
    """Wait until the page shows what there is."""
    await until(page, f"document.querySelectorAll('#task-table tbody tr').length >= {rows}")
    await page.wait_for_selector("#lease-table tbody tr")
    await page.wait_for_selector("#quota-table tbody tr")
    await page.wait_for_selector("#host-list .device")


async def test_no_violation_and_nothing_cut_at_any_width(tmp_path: Path) -> None:
    """In light and dark axe finds nothing, at 380, 1280 and 2560 pixels the page is no wider than the window."""
    pictures = Path(os.environ.get("SCREENSHOTS", tmp_path))
    async with ground(tmp_path) as at:
        await busy(at)
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                async with at.page(width, color_scheme=scheme, reduced_motion="reduce") as page:
                    await shown(page)
                    await page.locator("#task-table button.link").last.click()
                    await until(page, "document.querySelector('.opened')")
                    await until(page, "document.querySelector('#flagged').hidden")  # the key may not read them
                    assert await violations(page) == [], (width, scheme)
                    wide = await page.evaluate("document.documentElement.scrollWidth")
                    assert wide == width
                    await page.evaluate("scrollTo(0, 0)")
                    await page.screenshot(path=pictures / f"dashboard-{width}-{scheme}.png", full_page=True)
        assert at.faults == []


async def test_signing_in(tmp_path: Path) -> None:
    """Without a key the page asks for one, says why a wrong one is none, and keeps a right one till told not to."""
    async with ground(tmp_path) as at:
        for scheme in ("light", "dark"):
            async with at.page(path="index.html", color_scheme=scheme) as page:
                await page.wait_for_selector("#login-key")
                assert await violations(page) == []
                await page.fill("#login-key", "wrong")
                await page.keyboard.press("Enter")
                await until(page, "document.querySelector('#login-error').textContent")
                await page.fill("#login-key", at.key)
                await page.keyboard.press("Enter")
                await page.wait_for_selector("#connection[data-state=live]")
                assert at.key not in page.url
                await page.reload()
                await page.wait_for_selector("#connection[data-state=live]")
                await page.click("#sign-out")
                await page.wait_for_selector("#login-key")
                assert await page.evaluate("sessionStorage.length + document.querySelectorAll('tbody tr').length") == 0
        async with at.page(path=f"#key={at.key}") as page:  # by an address with the key, which is asked about
            await page.wait_for_selector("#login-submit:focus")
            assert page.url == f"{at.url}/dashboard/"
            assert await page.evaluate("sessionStorage.length") == 0
            await page.keyboard.press("Enter")
            await page.wait_for_selector("#connection[data-state=live]")
        assert [each for each in at.faults if "401" not in each] == []


async def test_the_next_login_sees_nothing_of_the_one_before(tmp_path: Path) -> None:
    """Who signs in behind another finds an empty playground, and sends nothing of the other's conversation."""
    async with ground(tmp_path) as at:
        await at.add_model("chat")
        async with at.page() as page:
            sent: list[str] = []
            page.on("request", lambda each: sent.append(each.post_data or "") if "/v1/chat" in each.url else None)
            for number in range(2):
                await until(page, "document.querySelector('#playground-model').options.length")
                assert await page.text_content("#playground-log") == ""
                await page.fill("#playground-text", f"secret {number}")
                await page.keyboard.press("Enter")
                await until(page, "document.querySelector('.turn.assistant .said')?.textContent")
                await page.click("#sign-out")
                await page.wait_for_selector("#login-key")
                assert "secret" not in await page.content()
                await page.fill("#login-key", at.key)
                await page.keyboard.press("Enter")
                await page.wait_for_selector("#connection[data-state=live]")
            assert "secret 0" in sent[0]
            assert "secret 0" not in sent[1]


async def test_the_playground_streams(tmp_path: Path) -> None:
    """An answer grows while it comes, can be stopped, and the next message has the conversation so far."""
    async with ground(tmp_path) as at:
        await at.add_model("chat", step_s=0.05)
        async with at.page() as page:
            await until(page, "document.querySelector('#playground-model').options.length")
            await page.fill("#playground-most", "90")
            await page.fill("#playground-text", f"{EVIL}say it back " * 4)
            await page.keyboard.press("Enter")
            said = page.locator(".turn.assistant .said").first
            lengths = set()
            async with asyncio.timeout(LONG_S):
                while "tokens in" not in (await page.text_content("#playground-status") or ""):
                    lengths.add(len(await said.text_content() or ""))
            assert len(lengths) > 3
            assert EVIL.strip() in (await said.text_content() or "")
            await page.fill("#playground-most", "600")
            await page.fill("#playground-text", "again and again " * 20)
            await page.click("#playground-send")
            await until(page, "document.querySelectorAll('.turn.assistant .said')[1]?.textContent")
            await page.click("#playground-stop")
            await until(page, "document.querySelector('#playground-status').textContent === 'Stopped.'")
            assert await violations(page) == []
        assert at.faults == []


async def test_a_conversation_that_is_begun_anew_while_an_answer_comes(tmp_path: Path) -> None:
    """What was still being said is of no conversation any more: the next message goes at once, and alone."""
    async with ground(tmp_path) as at:
        await at.add_model("chat", step_s=0.05)
        async with at.page() as page:
            sent: list[Any] = []
            page.on("request", lambda each: sent.append(each.post_data_json) if "/v1/chat" in each.url else None)
            await until(page, "document.querySelector('#playground-model').options.length")
            await page.fill("#playground-most", "600")
            await page.fill("#playground-text", "the first one, which is long " * 20)
            await page.keyboard.press("Enter")
            await until(page, "document.querySelector('.turn.assistant .said')?.textContent")
            await page.fill("#playground-most", "4")
            await page.click("#playground-clear")
            assert await page.text_content("#playground-log") == ""
            assert await page.evaluate("document.activeElement.id") == "playground-text"
            await page.keyboard.type("the second one")
            await page.keyboard.press("Enter")
            await until(page, "document.querySelector('#playground-status').textContent.includes('tokens in')")
            assert await page.locator(".turn").count() == 2
            assert [each["messages"] for each in sent[1:]] == [[{"role": "user", "content": "the second one"}]]
            await page.keyboard.type("the third one")
            await page.keyboard.press("Enter")
            await until(page, "document.querySelectorAll('.turn').length === 4")
            assert [each["role"] for each in sent[2]["messages"]] == ["user", "assistant", "user"]
        assert at.faults == []


async def test_a_kernel_that_starts_again_under_an_open_page(tmp_path: Path) -> None:
    """The page says that the kernel is away, and is live again by itself, with what the new one has."""
    async with ground(tmp_path, environment={"INFERD_STORE__URL": f"sqlite:{tmp_path}/kept.sqlite"}) as at:
        await at.add_model("before")
        async with at.page() as page:
            await page.wait_for_selector("[aria-label='Load before']")
            await asyncio.to_thread(at.kernels.close)
            await page.wait_for_selector("#connection[data-state=away]")
            await until(page, "document.querySelector('#flags').textContent.includes('does not answer')")
            assert await page.text_content("#connection") == "Kernel away"
            await asyncio.to_thread(at.start_kernel)
            await at.add_model("after")
            await page.wait_for_selector("#connection[data-state=live]")
            await page.wait_for_selector("[aria-label='Load after']")
            await until(page, "!document.querySelector('#flags').textContent.includes('does not answer')")
            await page.click("[aria-label='Load before']")
            await page.wait_for_selector("[aria-label='Unload before']")
        assert [each for each in at.faults if "status of" not in each] == []


async def test_a_walk_by_keyboard(tmp_path: Path) -> None:
    """Tab goes over all there is to use, in the order in which it is read, each with a mark that is seen; rows open."""
    async with ground(tmp_path) as at:
        await busy(at)
        async with at.page(reduced_motion="reduce") as page:
            await shown(page)
            await page.keyboard.press("Tab")
            assert await page.evaluate("document.activeElement.className") == "skip"
            await page.keyboard.press("Enter")
            await page.evaluate("document.activeElement.blur()")
            await page.reload()
            await shown(page)
            met: list[str] = []
            for _ in range(150):
                await page.keyboard.press("Tab")
                now = await page.evaluate(FOCUSED)
                if now is None:
                    break
                assert now["marked"], now
                assert now["visible"], now
                met.append(now["name"])
            for name in ("theme", "sign-out", "span", "Load chat", "task-filter", "playground-text", "playground-send"):
                assert any(name in each or "Unload chat" in each for each in met), (name, met)
            wanted = [met.index(each) for each in ("theme", "span", "task-filter", "playground-text")]
            assert wanted == sorted(wanted)
            row = page.locator("#task-table button.link").last
            await row.focus()
            await page.keyboard.press("Enter")
            assert await row.get_attribute("aria-expanded") == "true"
            await until(page, "document.querySelector('.output')?.textContent.includes('<img src=x')")
            await page.keyboard.press("Tab")
            assert await page.evaluate("document.activeElement.textContent") == "Cancel the task"
            await page.keyboard.press("Enter")
            await until(page, "document.querySelector('.opened [role=status]').textContent.includes('cancelled')")
            await row.focus()
        assert at.faults == []


FOCUSED = """() => {
  const at = document.activeElement;
  if (at === document.body) return null;
  const style = getComputedStyle(at);
  const beside = at.matches('.choice input') ? getComputedStyle(at.nextElementSibling) : style;
  const box = at.getBoundingClientRect();
  return {
    name: at.getAttribute('aria-label') || at.id || at.name || at.textContent,
    marked: beside.outlineStyle !== 'none' && parseFloat(beside.outlineWidth) >= 2,
    visible: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0
      && box.left < innerWidth,
  };
}"""


async def test_buttons_and_colours(tmp_path: Path) -> None:
    """A model is loaded and unloaded by its button, what the kernel refuses is told, and a choice of colours stays."""
    async with ground(tmp_path) as at:
        await at.add_model("chat")
        await at.add_model("broken", load_error="weights are missing")
        async with at.page(color_scheme="light") as page:
            await page.click("[aria-label='Load chat']")
            await page.click("[aria-label='Unload chat']")
            await page.wait_for_selector("[aria-label='Load chat']")
            await page.click("[aria-label='Load broken']")
            await until(page, "document.querySelector('#told').dataset.bad !== undefined")
            light = await page.evaluate("getComputedStyle(document.body).backgroundColor")
            await page.select_option("#theme", "dark")
            dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert light != dark
            await page.reload()
            await page.wait_for_selector("#connection[data-state=live]")
            assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
            await page.click("input[value='86400']", force=True)
            await until(page, "document.querySelector('input[value=\"86400\"]').checked")
        assert [each for each in at.faults if "status of" not in each] == []
