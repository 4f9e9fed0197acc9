"""Drawing without a display: defaults that must stand before pygame or mujoco are imported; one EGL probe.

On Linux without a display pygame gets its dummy driver and MuJoCo gets EGL (or no renderer at all where the
libraries are missing, so that vector observations still work).  Any other choice of the user is left alone.
"""

import ctypes
import os
import sys
from functools import cache

from common.errors import UserError

APT = "apt-get install -y --no-install-recommends libegl1 libgl1"


@cache
def missing_library() -> str | None:
    """The first OpenGL library that EGL rendering needs and that the loader does not find, or None."""
    for choices in (["libEGL.so.1"], ["libGL.so.1", "libOpenGL.so.0"]):  # one of each list is enough
        if not any(_loads(library) for library in choices):
            return choices[0]
    return None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def set_defaults() -> None:
    """Environment variables for a Linux machine without a display; harmless and silent anywhere else."""
    if sys.platform.startswith("linux") and not (os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        if os.environ.setdefault("MUJOCO_GL", "egl") == "egl" and missing_library():
            os.environ["MUJOCO_GL"] = "disable"  # with egl, `import mujoco` itself would fail


@cache
def mujoco_problem() -> str | None:
    """Why MuJoCo cannot draw on this machine, or None.  Makes one real context, once per process."""
    backend = os.getenv("MUJOCO_GL", "")
    if backend in ("egl", "disable") and missing_library():
        return f"EGL needs {missing_library()}"
    try:
        import mujoco

        context = mujoco.GLContext(16, 16)
        context.make_current()
        context.free()
    except Exception as error:  # whatever a foreign driver throws, it means: no picture
        return f"MUJOCO_GL={backend or 'unset'}: {str(error) or type(error).__name__}".replace("\n", " ")
    return None


def require_mujoco_drawing(name: str) -> None:
    """Raise a UserError with the fix where MuJoCo cannot draw here."""
    if problem := mujoco_problem():
        raise UserError(f"{name} cannot be drawn on this machine ({problem}): {APT}, or choose obs=vector")
