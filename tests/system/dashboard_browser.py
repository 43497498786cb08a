"""A kernel that does something, the gateway before it, and Debian's Chromium that looks at its dashboard."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-system installs it")
pytest.importorskip("axe_playwright_python", reason="axe is not installed: make test-system installs it")

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import async_playwright
from test_http_gateway import gateway_at
from time_limits import LONG_S

from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_client import AsyncClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from playwright.async_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAGE_S = 3 * LONG_S
"""How long a browser is waited for: it is a dozen processes, which take turns with all others."""
PAGE_MS = PAGE_S * 1000
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")


@dataclass(kw_only=True)
class Ground:
    """What a page is opened on.

    Attributes:
        url: Of the gateway.
        key: May do what an operator may.
        client: Of the kernel, as its user.
        browser: Chromium.
        folder: For models.
        kernels: Holds the kernel; closed, it has ended.
        start_kernel: Starts it again where it was, with what was kept if `environment` names a store.
        faults: What pages said on their console, and errors of their scripts.
    """

    url: str
    key: str
    client: AsyncClient
    browser: Browser
    folder: Path
    kernels: ExitStack
    start_kernel: Callable[[], str]
    faults: list[str] = field(default_factory=list)

    async def add_model(self, name: str, **behaviour: Any) -> None:
        """Make a model of the FakeBackend known."""
        await self.client.create_model(name, str(write_fake_model(self.folder, name, **behaviour)))

    @asynccontextmanager
    async def page(
        self, width: int = 1280, height: int = 900, *, path: str = "", **context: Any
    ) -> AsyncIterator[Page]:
        """A page in a tab of its own, signed in unless `path` says otherwise."""
        opened = await self.browser.new_context(viewport={"width": width, "height": height}, **context)
        try:
            page = await opened.new_page()
            page.set_default_timeout(PAGE_MS)
            page.on(
                "console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else None
            )
            page.on("pageerror", lambda error: self.faults.append(str(error)))
            await page.goto(f"{self.url}/dashboard/{path or f'#key={self.key}'}")
            if not path:
                await page.click("#login-submit")  # a key of the address is asked about
                await page.wait_for_selector("#connection[data-state=live]")
            yield page
        finally:
            await opened.close()


@asynccontextmanager
async def ground(folder: Path, *, environment: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Ground]:
    """All of it; `environment` has settings of the kernel, `settings` are those of the gateway."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PAGE_MS)
        try:
            with TemporaryDirectory(prefix="inferd-") as sockets, ExitStack() as kernels:

                def start() -> str:
                    running = kernel_process(
                        folder / "kernel", environment=environment, listen=f"unix:{sockets}/kernel"
                    )
                    return kernels.enter_context(running).address

                address = start()
                async with AsyncClient(address, credential="") as client:
                    key = (await client.create_key("web", roles=["operator"])).credential
                    async with gateway_at(address, **settings) as url:
                        yield Ground(
                            url=url,
                            key=key,
                            client=client,
                            browser=browser,
                            folder=folder,
                            kernels=kernels,
                            start_kernel=start,
                        )
        finally:
            await browser.close()


async def until(page: Page, expression: str) -> None:
    """Wait until an expression of the page holds, looking at each frame.

    Playwright's own `wait_for_function` has the page make a script of a text, which its policy forbids.
    """
    look = f"new Promise((done) => requestAnimationFrame(() => {{ done(Boolean({expression})) }}))"
    async with asyncio.timeout(PAGE_S):
        while not await page.evaluate(look):
            pass


async def violations(page: Page) -> list[str]:
    """What axe finds wrong with a page, each with the elements that it is about."""
    found = await Axe().run(page)
    return [
        f"{each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes']]}"
        for each in found.response["violations"]
    ]
