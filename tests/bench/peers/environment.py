"""An environment for the peers that are no dependency of Vitalcast: their packages first, then those of this one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")


def peers_python() -> Path:
    """The interpreter of that environment in `.cache/`; made once for each version of `requirements.txt`.

    torch and Vitalcast itself are seen through a path file, so that gigabytes are not there twice.
    Raises: subprocess.CalledProcessError if the packages cannot be fetched.
    """
    here = sysconfig.get_path("purelib")
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + here.encode()).hexdigest()[:12]
    folder = ROOT / ".cache" / f"peers-{key}"
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.exists():
        uv = Path(sysconfig.get_path("scripts")) / "uv"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        install: list[str | Path] = [uv, "pip", "install", "--quiet", "--no-deps", "--python", python]
        subprocess.run([*install, "-r", REQUIREMENTS], check=True)
        purelib = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        (purelib / "vitalcast.pth").write_text(f"import site; site.addsitedir({here!r})\n", encoding="utf-8")
        done.touch()
    return python
