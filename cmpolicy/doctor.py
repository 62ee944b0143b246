"""Look at this machine and say what is missing, and the command that mends it.

`python -m cmpolicy.doctor` exits with 0 if `python -m cmpolicy.train env=hopper-medium` would run
here, else with 1.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# Nothing else is imported up here: the doctor must speak where nothing else works.

INSTALL = "pip install -e ."
PYTHON = (3, 11)
IMPORTED = ("torch", "numpy", "gymnasium", "mujoco", "h5py", "hydra", "safetensors", "minari")
LEFT_OUT = ("dev", "docs")  # extras of developers
RENDERERS = ("egl", "osmesa", "glfw")
RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco/>")
renderer = mujoco.Renderer(model, 8, 8)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
"""
RENDER_SECONDS = 15.0
OK, LACKS, FAILS = "ok", "lacks", "FAILS"


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        status: OK; LACKS, if all but something optional works; FAILS, if training does not start.
        mend: a command or what to do; empty if nothing is to be done.
    """

    name: str
    status: str
    text: str
    mend: str = ""

    def __str__(self) -> str:
        mend = f"\n{'':19}mend: {self.mend}" if self.mend else ""
        return f"{self.status:6} {self.name:11} {self.text}{mend}"


def examine() -> Iterator[Finding]:
    """Look at one thing after the other."""
    with_renderers = start_renderers()
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": python,
        "packages": packages,
        "imports": imports,
        "device": device,
        "compiler": compiler,
        "environment": environment,
        "data": data,
        "runs": runs,
        "extras": extras,
        "video": lambda: renderers(with_renderers),
    }
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # a doctor never falls ill
            reason = " ".join(str(error).split())[:200]
            optional = name in ("extras", "video")
            status = LACKS if optional else FAILS
            yield Finding(name, status, f"{type(error).__name__}: {reason}", INSTALL)


def python() -> Iterator[Finding]:
    """Look at the interpreter."""
    said = f"{platform.python_version()} ({sys.executable}), {platform.platform(terse=True)}"
    if sys.version_info[:2] < PYTHON:
        needed = ".".join(map(str, PYTHON))
        yield Finding("python", FAILS, said, f"install Python {needed} or newer")
    else:
        yield Finding("python", OK, said)


def packages() -> Iterator[Finding]:
    """Look at versions of what the package needs."""
    from packaging.requirements import Requirement

    there, wrong = [f"cmpolicy {importlib.metadata.version('cmpolicy')}"], list[str]()
    for text in importlib.metadata.requires("cmpolicy") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = version_of(requirement.name)
        said = f"{requirement.name} {version or 'is missing'}"
        fits = version is not None and requirement.specifier.contains(version, prereleases=True)
        (there if fits else wrong).append(said if fits else f"{said} (needs {requirement})")
    yield Finding("packages", OK, ", ".join(there))
    if wrong:
        yield Finding("packages", FAILS, ", ".join(wrong), INSTALL)


def imports() -> Iterator[Finding]:
    """Import what the default command imports."""
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            yield Finding("imports", FAILS, f"{name} does not import ({reason})", INSTALL)


def device() -> Iterator[Finding]:
    """Look at the device that ``auto`` takes, and the precision on it."""
    import torch

    from cmpolicy.acceleration.precision import resolve_precision
    from cmpolicy.cli.command import resolve_device
    from cmpolicy.cli.run_config import RunConfig

    chosen = resolve_device("auto")
    precision = resolve_precision("auto", chosen, RunConfig.AUTO_PRECISION)
    name = f"cpu, {os.cpu_count()} cores"
    if chosen.type == "cuda":
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        name = f"cuda, {', '.join(gpus)}"
    yield Finding("device", OK, f"{name}; precision {precision}")
    if chosen.type == "cpu" and shutil.which("nvidia-smi"):
        text = f"there is an NVIDIA driver, but torch {torch.__version__} finds no GPU"
        yield Finding("device", LACKS, text, "pip install --force-reinstall torch")


def compiler() -> Iterator[Finding]:
    """Look for what `torch.compile` needs; without it updates are slower."""
    import torch

    if torch.cuda.is_available():
        found = "Triton" if importlib.util.find_spec("triton") else None
        mend = "pip install triton"
    else:
        names = [os.environ.get("CXX"), "g++", "clang++"]
        found = next((path for name in names if name and (path := shutil.which(name))), None)
        mend = "install a C++ compiler, for example: apt-get install g++"
    if found:
        yield Finding("compiler", OK, f"{found}; long runs are compiled")
    else:
        yield Finding("compiler", LACKS, "runs are not compiled and take about 1.5 times", mend)


def environment() -> Iterator[Finding]:
    """Compose the default command's configuration and step its environment."""
    from cmpolicy.cli.command import CONFIG_PATH
    from cmpolicy.rl.environments import Environment
    from cmpolicy.rl.tasks import TASKS

    if not (Path(CONFIG_PATH) / "rl.yaml").is_file():
        yield Finding("settings", FAILS, f"no rl.yaml in {CONFIG_PATH}", INSTALL)
    name = TASKS["hopper-medium"].d4rl_env_id or ""
    env = Environment(name).make()
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    yield Finding("environment", OK, f"{name} steps")


def data() -> Iterator[Finding]:
    """Look into the folders of datasets."""
    from cmpolicy.datasets.d4rl_download import d4rl_directory
    from cmpolicy.datasets.minari_source import minari_directory
    from cmpolicy.datasets.resolve import SAMPLES
    from cmpolicy.rl.data_listing import copies_of, other_copies
    from cmpolicy.rl.tasks import TASKS

    found = [copy for task in TASKS.values() for copy in copies_of(task)] + other_copies()
    found = [copy for copy in found if copy.source != "sample"]
    for source, folder in (("d4rl", d4rl_directory()), ("minari", minari_directory())):
        here = [copy for copy in found if folder in copy.path.parents]
        size = sum(copy.bytes for copy in here) / 1e6
        text = f"{folder}: {len(here)} datasets, {size:.0f} MB"
        if not folder.is_dir():
            text = f"{folder}: not there yet; a download makes it"
        yield Finding(source, OK, text)
        if folder.is_dir() and not os.access(folder, os.W_OK):
            yield Finding(source, LACKS, "downloads cannot be written", f"chmod u+w {folder}")
    sample = SAMPLES["hopper-medium"]
    if not sample.is_file():
        yield Finding("data", FAILS, f"the sample is missing: {sample}", INSTALL)
    elif not found:
        mend = "python -m cmpolicy.data download dataset=hopper-medium"
        yield Finding("data", LACKS, "only the small sample in the package", mend)


def runs() -> Iterator[Finding]:
    """Look whether a run can be written here."""
    folder = Path("runs") if Path("runs").is_dir() else Path()
    where = folder.resolve()
    free = shutil.disk_usage(where).free / 1e9
    if os.access(where, os.W_OK):
        yield Finding("runs", OK, f"go to {Path('runs').resolve()}, {free:.0f} GB free")
    else:
        yield Finding("runs", FAILS, f"{where} cannot be written", "give output_dir=DIRECTORY")


def extras() -> Iterator[Finding]:
    """Look which optional packages are missing."""
    complete = []
    requirements = importlib.metadata.requires("cmpolicy") or []
    for extra in importlib.metadata.metadata("cmpolicy").get_all("Provides-Extra") or []:
        if extra in LEFT_OUT:
            continue
        needs = [text for text in requirements if re.search(f"extra == ['\"]{extra}['\"]", text)]
        names = [re.split(r"[^\w.-]", text)[0] for text in needs]
        missing = [name for name in names if version_of(name) is None]
        if missing:
            text = f"{extra}: {', '.join(missing)} is not installed"
            yield Finding("extras", LACKS, text, f"pip install -e '.[{extra}]'")
        else:
            complete.append(extra)
    yield Finding("extras", OK, ", ".join(complete) or "none")


def start_renderers() -> dict[str, subprocess.Popen[str]]:
    """Let each OpenGL backend of MuJoCo try itself, in processes because some crash."""
    return {
        name: subprocess.Popen(
            [sys.executable, "-c", RENDER],
            env={**os.environ, "MUJOCO_GL": name},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in RENDERERS
    }


def renderers(started: dict[str, subprocess.Popen[str]]) -> Iterator[Finding]:
    """Say which of the backends worked, and whether videos come out as things are."""
    working = []
    for name, process in started.items():
        try:
            if process.wait(RENDER_SECONDS) == 0:
                working.append(name)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    chosen = os.environ.get("MUJOCO_GL") or "glfw"  # Gymnasium's first choice
    text = f"MUJOCO_GL={chosen}; of {', '.join(RENDERERS)} work: {', '.join(working) or 'none'}"
    if chosen in working:
        yield Finding("video", OK, text)
    elif working:
        yield Finding("video", LACKS, text, f"export MUJOCO_GL={working[0]}")
    else:
        mend = "apt-get install libegl1 libosmesa6, then export MUJOCO_GL=egl or osmesa"
        yield Finding("video", LACKS, text, mend)


def version_of(name: str) -> str | None:
    """Give the installed version of a distribution, None if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Print the findings."""
    if len(sys.argv) > 1:
        helping = sys.argv[1] in ("help", "--help", "-h")
        print(__doc__.strip() if helping else "error: the doctor takes no arguments",
              file=sys.stdout if helping else sys.stderr)  # fmt: skip
        sys.exit(0 if helping else 2)
    worst = False
    for finding in examine():
        print(finding, flush=True)
        worst |= finding.status == FAILS
    command = "python -m cmpolicy.train env=hopper-medium"
    print(f"\n{command} {'would NOT run' if worst else 'would run'} here")
    sys.exit(int(worst))


if __name__ == "__main__":
    main()
