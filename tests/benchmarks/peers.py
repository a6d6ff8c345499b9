"""The peers' environment, `.venv-bench`: built on first use, rebuilt when their requirements change."""

import importlib.metadata
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements-peers.txt")
FOLDER = ROOT / ".venv-bench"


def python() -> Path:
    """The Python of the environment."""
    torch = importlib.metadata.version("torch").partition("+")[0]  # the peers run on our version of torch
    wanted = f"torch=={torch}\n{REQUIREMENTS.read_text()}"
    ready, executable = FOLDER / "ready.txt", FOLDER / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not ready.exists() or ready.read_text() != wanted:
        print(f"    building {FOLDER.name} for the peers (some minutes, once)", flush=True)
        venv.create(FOLDER, with_pip=True, clear=True)
        install = [executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # torch first and alone: so that what the main environment was installed from decides which build it is.
        for packages in ([f"torch=={torch}"], [f"torch=={torch}", "-r", REQUIREMENTS]):
            done = subprocess.run([*install, *packages], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"pip could not build {FOLDER}: {done.stderr.strip()[-600:]}")
        ready.write_text(wanted)
    return executable
