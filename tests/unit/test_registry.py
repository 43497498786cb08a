"""Discovery over throw-away plugins, and the choice of a backend."""

import asyncio
import dataclasses
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from inferd.errors import BackendNotFoundError, BackendUnavailableError
from inferd.plugin.backend import BackendSpec, DeviceInfo, Setting
from inferd.plugin.registry import BackendReport, BackendState, choose, discover

Write = Callable[..., str]

GOOD_CLASS = """
from inferd.plugin import DeviceInfo, Probe

class Good:
    def probe(self):
        found = dict(description="a processor", memory_bytes=64, cores=2, uuid="GPU-1")
        return Probe(devices=(DeviceInfo(device_id="cpu:0", **found),))

    def measure(self, request):
        raise NotImplementedError

    def load(self, request, progress):
        raise NotImplementedError
"""

HOOK = """
from inferd.plugin import BackendSpec, Setting, hookimpl

@hookimpl
def inferd_backends():
    return [BackendSpec(name={name!r}, loader={loader!r}, formats=("toy",), description="a toy", extra={extra!r})]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes modules into a folder that the children import from."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))  # where the metadata of distributions is looked for

    def write_module(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        return name

    return write_module


@pytest.fixture
def offer(write: Write) -> Write:
    """Writes a plugin with one backend, whose class has the given text."""

    def write_plugin(name: str, class_text: str = GOOD_CLASS, *, backend: str = "", extra: str = "") -> str:
        write(f"{name}_backend", class_text)
        return write(name, HOOK.format(name=backend or name, loader=f"{name}_backend:Good", extra=extra))

    return write_plugin


@pytest.fixture
def alive(tmp_path: Path) -> Path:
    """A named pipe: its reader sees the end when the last process that writes to it has gone."""
    os.mkfifo(tmp_path / "alive")
    return tmp_path / "alive"


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., None]:
    """Makes a module an installed distribution with an entry point."""

    def write_metadata(distribution: str, entry_points: str) -> None:
        folder = tmp_path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[inferd.backends]\n{entry_points}\n")

    return write_metadata


async def find(*modules: str, allow: tuple[str, ...] | None = (), timeout_s: float = 30.0) -> dict[str, BackendReport]:
    reports = await discover(allow=allow, modules=modules, timeout_s=timeout_s)
    return {report.name: report for report in reports if report.module in modules}


async def test_ready(offer: Write) -> None:
    """A plugin that works is READY, with its spec and its devices."""
    report = (await find(offer("toy")))["toy"]
    assert report.state is BackendState.READY
    assert report.spec is not None
    assert report.spec.loader == "toy_backend:Good"
    assert report.spec.formats == ("toy",)
    assert report.devices == (
        DeviceInfo(device_id="cpu:0", description="a processor", memory_bytes=64, cores=2, uuid="GPU-1"),
    )


async def test_a_function_answers_in_place_of_the_class(write: Write) -> None:
    """Where a spec names a function for probing, that is asked, and the class is not imported."""
    write("lean_backend", "raise RuntimeError('nobody needs it')")
    write("lean_probing", GOOD_CLASS + "\ndef look():\n    return Good().probe()\n")
    hook = HOOK.format(name="lean", loader="lean_backend:Good", extra="")
    report = (await find(write("lean", hook.replace("extra=", "probe='lean_probing:look', extra="))))["lean"]
    assert (report.state, report.why) == (BackendState.READY, "")
    assert [device.device_id for device in report.devices] == ["cpu:0"]


async def test_settings_travel(write: Write, offer: Write) -> None:
    """The settings of a spec arrive unchanged."""
    offer("toy")
    settings = (
        'Setting(name="a", kind="int", description="x", default=3, minimum=1), '
        'Setting(name="b", kind="str", description="y", choices=("p", "q"))'
    )
    hook = HOOK.format(name="rich", loader="toy_backend:Good", extra="").replace("extra=''", f"settings=({settings})")
    spec = (await find(write("rich", hook)))["rich"].spec
    assert spec is not None
    assert spec.settings == (
        Setting(name="a", kind="int", description="x", default=3, minimum=1),
        Setting(name="b", kind="str", description="y", choices=("p", "q")),
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (HERE/broken.py:1)"),
        ("x = 1\n\nimport json\njson.loads('[')", "/json/decoder.py:"),
        ("def f(:\n  pass", "SyntaxError: invalid syntax (HERE/broken.py:1)"),
        ("import sys; sys.exit('no luck')", "exited with status 1 before it answered; its last line: no luck"),
        ("import os; os.abort()", "ended by signal 6 (Aborted)"),
        ("import ctypes\nctypes.string_at(0)", "ended by signal 11 (Segmentation fault); it was at File "),
        ("import os; os.write(int(__import__('sys').argv[2]), b'[1'); os._exit(0)", "no document of discovery"),
        ("import os; os.write(int(__import__('sys').argv[2]), b'[1]'); os._exit(0)", "no document of discovery"),
        ("x = 1", "offers no backend: implement the hook `inferd_backends` with `@hookimpl` in HERE/broken.py"),
        ("x = 1\nimport no_such_thing", "No module named 'no_such_thing' (HERE/broken.py:2)"),
        (
            "from inferd.plugin import hookimpl\n@hookimpl\ndef inferd_backend(): ...",
            "unknown hook 'inferd_backend' in HERE/broken.py; did you mean 'inferd_backends'?",
        ),
        (
            "from inferd.plugin import Setting\nx = Setting(\n  name='n', kind='integer', description='')",
            "Setting.kind of 'n' is 'integer'; it must be int, float, bool or str (HERE/broken.py:2)",
        ),
        ("from inferd.plugin import hookimpl\n@hookimpl\ndef inferd_backends(): return [1]", "gave 1"),
    ],
)
async def test_broken_plugin(write: Write, offer: Write, tmp_path: Path, text: str, why: str) -> None:
    """A plugin that raises, exits, crashes or talks rubbish is FAILED with the cause and where that is; others work."""
    found = await find(write("broken", text), offer("toy"))
    assert found["broken"].state is BackendState.FAILED
    assert why.replace("HERE", str(tmp_path)) in found["broken"].why
    assert found["toy"].state is BackendState.READY


async def test_a_wrong_loader(write: Write, offer: Write, tmp_path: Path) -> None:
    """A loader that names no class of its module is told with the module's file and the nearest name."""
    offer("toy")
    hook = HOOK.format(name="near", loader="toy_backend:Goood", extra="")
    why = (await find(write("near", hook)))["near"].why
    assert f"'toy_backend:Goood', but {tmp_path}/toy_backend.py has no 'Goood'; did you mean 'Good'?" in why


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("name", "'Big Name'", "BackendSpec.name is 'Big Name'"),
        ("loader", "'no_colon'", "BackendSpec.loader is 'no_colon'"),
        ("formats", "'gguf'", "BackendSpec.formats is 'gguf'; it must be of type tuple"),
        ("formats", "()", "BackendSpec.formats is empty"),
        ("rank", "'first'", "BackendSpec.rank is 'first'; it must be of type int"),
        (
            "settings",
            "(Setting(name='a', kind='int', description='', default=9, maximum=8),)",
            "setting 'a' is 9; it must be at most 8",
        ),
        ("settings", "(Setting(name='a', kind='int', description=''),) * 2", "names 'a' more than once"),
    ],
)
async def test_bad_spec(write: Write, field: str, value: str, why: str) -> None:
    """A spec with a bad field is FAILED, and the reason names the field and its value."""
    fields = {"name": "'toy'", "loader": "'toy:Toy'", "formats": "('toy',)", "description": "''"} | {field: value}
    given = ", ".join(f"{name}={text}" for name, text in fields.items())
    hook = f"""
    from inferd.plugin import BackendSpec, Setting, hookimpl

    @hookimpl
    def inferd_backends():
        return [BackendSpec({given})]
    """
    report = (await find(write("bad", hook)))["bad"]
    assert report.state is BackendState.FAILED
    assert why in report.why


@pytest.mark.parametrize(
    ("body", "state", "why"),
    [
        ("raise BackendUnavailable('no CUDA device', fix='buy one')", BackendState.SKIPPED, "no CUDA device"),
        ("raise OSError('libcuda.so: wrong ELF class')", BackendState.FAILED, "OSError: libcuda.so: wrong ELF class"),
        ("return Probe(devices=())", BackendState.FAILED, "Probe.devices is empty"),
        (
            "return Probe(devices=(DeviceInfo(device_id='pci/0:1', description='', memory_bytes=1),))",
            BackendState.FAILED,
            "DeviceInfo.device_id is 'pci/0:1'; it must match",
        ),
        ("import torch_of_tomorrow", BackendState.FAILED, "No module named 'torch_of_tomorrow'"),
    ],
)
async def test_probe_outcome(offer: Write, body: str, state: BackendState, why: str) -> None:
    """What `probe` raises decides between SKIPPED and FAILED; the spec is known in both cases."""
    text = GOOD_CLASS.replace("import ", "import BackendUnavailable, ", 1)
    text = text.replace("def probe(self):", f"def probe(self):\n        {body}")
    report = (await find(offer("toy", text)))["toy"]
    assert (report.state, report.spec is not None) == (state, True)
    assert why in report.why
    assert report.fix == ("buy one" if state is BackendState.SKIPPED else "")


async def test_missing_framework(offer: Write, install: Callable[..., None]) -> None:
    """A framework that is not installed makes a backend SKIPPED, and the fix installs the extra that brings it."""
    offer("toy", "import torch_of_tomorrow.cuda\n" + GOOD_CLASS, extra="tomorrow")
    install("toy-plugin", "toy = toy")
    report = next(r for r in await discover(allow=("toy",)) if r.name == "toy")
    assert (report.state, report.why) == (BackendState.SKIPPED, "torch_of_tomorrow is not installed")
    assert report.fix == 'pip install "toy-plugin[tomorrow]"'
    assert report.package == "toy-plugin 1.0"


async def test_own_module_missing(offer: Write, write: Write) -> None:
    """A loader that names a module which the plugin does not have is a defect, not a missing framework."""
    offer("toy")
    report = (await find(write("lost", HOOK.format(name="lost", loader="lost_backend:Good", extra="x"))))["lost"]
    assert (report.state, report.why) == (
        BackendState.FAILED,
        "ModuleNotFoundError: No module named 'lost_backend'",
    )


async def test_prints_do_not_disturb(offer: Write) -> None:
    """Whatever a plugin prints, and more than a pipe holds, stays out of the answer."""
    noisy = "import os, sys\nprint('{}' * 200_000)\nsys.stderr.write('x' * 1_000_000)\nos.write(1, b'[]')\n"
    assert (await find(offer("toy", noisy + GOOD_CLASS)))["toy"].state is BackendState.READY


async def test_hanging_plugin(write: Write) -> None:
    """A plugin that takes longer than its time is FAILED."""
    report = (await find(write("hang", "import signal\nsignal.pause()"), timeout_s=0.05))["hang"]
    assert (report.state, report.why) == (BackendState.FAILED, "took longer than 0.05 s and was killed")


async def test_a_failed_plugin_leaves_a_log(write: Write, offer: Write, tmp_path: Path) -> None:
    """Of a plugin that failed the whole traceback and what it said are in a log; one that works leaves none."""
    raising = "import sys\nprint('about to fail', file=sys.stderr)\nraise RuntimeError('no luck')"
    probing = GOOD_CLASS.replace("def probe(self):", "def probe(self):\n        raise OSError('wrong ELF class')")
    modules = (write("broken_module", raising), offer("probed", probing), offer("toy"))
    folder = tmp_path / "state" / "logs"
    reports = {r.name: r for r in await discover(allow=(), modules=modules, log_dir=folder)}
    logs = {name: Path(reports[name].log_path) for name in ("broken_module", "probed")}
    assert sorted(path.stem for path in logs.values()) == ["broken_module", "probed"]
    texts = {name: path.read_text() for name, path in logs.items()}
    assert "about to fail" in texts["broken_module"]
    assert f'File "{tmp_path}/broken_module.py", line 3, in <module>' in texts["broken_module"]
    assert f'File "{tmp_path}/probed_backend.py"' in texts["probed"]
    assert reports["toy"].log_path == ""
    assert reports["probed"].why.startswith(f"OSError: wrong ELF class ({tmp_path}/probed_backend.py:")


async def test_a_log_that_cannot_be_written(write: Write, tmp_path: Path) -> None:
    """A folder that cannot be made costs the log, not the report."""
    write("no_folder", "1 / 0")
    nowhere = tmp_path / "no_folder.py" / "x"
    reports = {r.name: r for r in await discover(allow=(), modules=("no_folder",), log_dir=nowhere)}
    assert (reports["no_folder"].state, reports["no_folder"].log_path) == (BackendState.FAILED, "")


async def test_cancelled(write: Write, alive: Path) -> None:
    """A child that is not wanted any more is killed with the processes that it started."""
    code = "import signal; signal.pause()"
    hang = f"""
    import signal, subprocess, sys
    sink = open({str(alive)!r}, "w")
    subprocess.Popen([sys.executable, "-c", {code!r}], pass_fds=[sink.fileno()])
    sink.write("x")
    sink.flush()
    signal.pause()
    """
    discovery = asyncio.create_task(discover(allow=(), modules=(write("hang", hang),)))
    source = await asyncio.to_thread(alive.open)
    assert await asyncio.to_thread(source.read, 1) == "x"
    discovery.cancel()
    assert await asyncio.to_thread(source.read) == ""  # the last holder of the writing end has gone
    source.close()
    with pytest.raises(asyncio.CancelledError):
        await discovery


async def test_leftover_process(offer: Write) -> None:
    """A process that a plugin leaves behind is ended and holds nothing up."""
    spawn = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
    assert (await find(offer("toy", spawn + GOOD_CLASS)))["toy"].state is BackendState.READY


def test_dies_with_parent(write: Write, alive: Path) -> None:
    """A child whose parent was killed ends too."""
    write("hang", f"import signal\nsink = open({str(alive)!r}, 'w')\nprint('x', file=sink, flush=True)\nsignal.pause()")
    call = "discover(allow=(), modules=('hang',))"
    code = f"import asyncio; from inferd.plugin.registry import discover; asyncio.run({call})"
    with subprocess.Popen([sys.executable, "-c", code]) as parent, alive.open() as source:
        try:
            assert source.read(1) == "x"
        finally:
            parent.kill()
        assert source.read() == "\n"  # and then its end: the child, the only writer, has gone


async def test_allow_list(write: Write, install: Callable[..., None], tmp_path: Path) -> None:
    """A plugin that is not in the allow-list is listed as SKIPPED and never imported; a named module needs no entry."""
    write("outsider", f"open({str(tmp_path / 'imported')!r}, 'w')")
    install("outsider", "outsider = outsider")
    report = next(r for r in await discover(allow=("cpu",)) if r.name == "outsider")
    assert (report.state, report.why) == (BackendState.SKIPPED, "not in `backends`")
    assert "'outsider'" in report.fix
    assert not (tmp_path / "imported").exists()


async def test_duplicate_name(offer: Write, install: Callable[..., None]) -> None:
    """Of two backends of one name the first by package is used, and the other says which one that is."""
    offer("plugin_b", backend="toy")
    offer("plugin_a", backend="toy")
    install("zebra", "b = plugin_b")
    install("aardvark", "a = plugin_a")
    first, second = [r for r in await discover(allow=("a", "b")) if r.name == "toy"]
    assert (first.package, first.state) == ("aardvark 1.0", BackendState.READY)
    assert (second.package, second.state) == ("zebra 1.0", BackendState.FAILED)
    assert "aardvark 1.0" in second.why


async def test_broken_metadata(offer: Write, install: Callable[..., None]) -> None:
    """A distribution whose entry points cannot be read is FAILED by itself."""
    install("mangled", "this line has no equals sign")
    reports = {r.name: r for r in await discover(allow=(), modules=(offer("toy"),))}
    assert reports["mangled"].state is BackendState.FAILED
    assert reports["toy"].state is BackendState.READY


async def test_order(offer: Write) -> None:
    """Reports come by name, whatever the order of the plugins."""
    names = [r.name for r in await discover(allow=(), modules=(offer("toy_c"), offer("toy_a"), offer("toy_b")))]
    assert names == sorted(names)
    assert {"toy_a", "toy_b", "toy_c"} <= set(names)


def ready(name: str, *, rank: int = 100, formats: tuple[str, ...] = ("gguf",), device: str = "cpu:0") -> BackendReport:
    spec = BackendSpec(name=name, loader=f"{name}:X", formats=formats, description="", rank=rank)
    found = DeviceInfo(device_id=device, description="", memory_bytes=1)
    return BackendReport(name=name, state=BackendState.READY, spec=spec, devices=(found,))


def skipped(name: str, why: str, *, fix: str = "") -> BackendReport:
    spec = BackendSpec(name=name, loader=f"{name}:X", formats=("gguf",), description="")
    return BackendReport(name=name, state=BackendState.SKIPPED, why=why, fix=fix, spec=spec)


def test_choose_only() -> None:
    """The only backend that can is chosen, and the reason says why no other one was."""
    reports = (ready("cpu"), skipped("torch", "torch is not installed", fix="pip …"), ready("onnx", formats=("onnx",)))
    report, device_ids, reason = choose(reports, format="gguf")
    assert (report.name, device_ids) == ("cpu", ("cpu:0",))
    assert reason == "only READY backend for gguf; torch is SKIPPED: torch is not installed"


def test_choose_rank() -> None:
    """The lowest rank wins, then the name, whatever the order of the reports."""
    reports = (ready("slow", rank=200), ready("b", rank=50), ready("a", rank=50))
    assert {choose(order, format="gguf").report.name for order in (reports, reports[::-1])} == {"a"}
    assert choose(reports, format="gguf").reason == "lowest rank of the READY backends for gguf (a 50, b 50, slow 200)"


def test_choose_requested() -> None:
    """A backend that is asked for is taken although another has a lower rank."""
    choice = choose((ready("a", rank=1), ready("b", rank=2)), format="gguf", requested="b")
    assert (choice.report.name, choice.reason) == ("b", "requested by name")


def test_choose_device() -> None:
    """A device that is asked for decides; a lower rank without it is no candidate."""
    choice = choose((ready("cpu", rank=1), ready("torch", device="cuda:0")), format="gguf", device="cuda:0")
    assert (choice.report.name, choice.device_ids) == ("torch", ("cuda:0",))
    assert choice.reason == "only READY backend for gguf on cuda:0; cpu has cpu:0"


def test_choose_alike() -> None:
    """Without a device, a model may use the first one of its backend and those of that kind, never one of another."""
    names = ("cuda:0", "cpu:0", "cuda:1")
    devices = tuple(DeviceInfo(device_id=name, description="", memory_bytes=1) for name in names)
    report = dataclasses.replace(ready("torch"), devices=devices)
    assert choose((report,), format="gguf").device_ids == ("cuda:0", "cuda:1")
    assert choose((report,), format="gguf", device="cpu:0").device_ids == ("cpu:0",)


@pytest.mark.parametrize("requested", ["", "cpu"])
def test_choose_no_fallback(requested: str) -> None:
    """A device that no backend has is an error, never another device."""
    with pytest.raises(BackendUnavailableError, match="on cuda:0: cpu has cpu:0"):
        choose((ready("cpu"),), format="gguf", requested=requested, device="cuda:0")


def test_choose_unknown() -> None:
    """An unknown backend is an error with the nearest name."""
    with pytest.raises(BackendNotFoundError, match="did you mean 'torch'") as caught:
        choose((ready("cpu"), skipped("torch", "x")), format="gguf", requested="torhc")
    assert caught.value.metadata == {"suggestion": "torch"}


def test_choose_none() -> None:
    """When nothing can load a model, the error says of every backend why not, and the fix."""
    reports = (ready("onnx", formats=("onnx",)), skipped("torch", "torch is not installed", fix="pip install torch"))
    with pytest.raises(BackendUnavailableError) as caught:
        choose(reports, format="gguf")
    assert caught.value.message == (
        "no READY backend loads GGUF files: onnx loads ONNX files and folders; "
        "torch is SKIPPED: torch is not installed (fix: pip install torch)"
    )
    assert "torch is not installed" in caught.value.metadata["cause"]


def test_choose_requested_skipped() -> None:
    """A backend that is asked for and not READY is an error with its reason, although another could load the model."""
    with pytest.raises(
        BackendUnavailableError, match="backend 'torch' cannot load GGUF files: torch is SKIPPED: no GPU"
    ):
        choose((ready("cpu"), skipped("torch", "no GPU")), format="gguf", requested="torch")


def test_registry_is_light() -> None:
    """The registry can be imported by the kernel process: it loads no numpy."""
    code = "import sys, inferd.plugin.registry; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
